from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cryogimbal.data.optics import OpticsGroup
from cryogimbal.data.particles import ArrayImages, ParticleStack
from cryogimbal.errors import InputError
from cryogimbal.fourier.disc import make_disc
from cryogimbal.fourier.resample import crop_centred
from cryogimbal.fourier.transforms import image_to_hartley
from cryogimbal.imaging import spectra
from cryogimbal.imaging.backgrounds import background_mask, normalise_background
from cryogimbal.imaging.ctf import transfer_function
from cryogimbal.imaging.spectra import (
    Preprocessing,
    images_from_rows,
    index_batches,
    nyquist_angstrom,
    read_spectra,
    working_box_for,
)
from cryogimbal.rotations import random_rotations
from tests.imaging.gaussian_phantom import random_phantom
from tests.imaging.optics_values import in_float32, random_ctf
from tests.laws import relative_error

PIXEL_SIZE_ANGSTROM = 2.5


def stack_of(images: Tensor, generator: torch.Generator) -> ParticleStack:
    optics = OpticsGroup(
        name="test",
        voltage_kilovolt=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
        pixel_size_angstrom=PIXEL_SIZE_ANGSTROM,
        box=images.shape[-1],
    )
    return ParticleStack(
        images=ArrayImages(values=images),
        ctf=in_float32(random_ctf(len(images), generator)),
        optics=(optics,),
        optics_index=torch.zeros(len(images), dtype=torch.long),
    )


def noise(n: int, box: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, box, box, generator=generator)


# --- the background ---


def test_background_is_what_lies_outside_the_circle(box: int) -> None:
    mask = background_mask(box, 2.0, 16.0)
    for row in range(box):
        for column in range(box):
            squared_px = (row - box // 2) ** 2 + (column - box // 2) ** 2
            assert bool(mask[row, column]) is (squared_px > 4.0**2)


def test_without_a_diameter_the_circle_is_inscribed(box: int) -> None:
    assert torch.equal(background_mask(box, 2.0, None), background_mask(box, 2.0, 2.0 * box))


@pytest.mark.parametrize("diameter", [60.0, 47.0])
def test_a_circle_that_leaves_no_background_is_refused(diameter: float) -> None:
    with pytest.raises(InputError, match=f"less than the box .32.0 Å., found {diameter} Å"):
        background_mask(16, 2.0, diameter)


def test_background_gets_mean_0_and_deviation_1(box: int, generator: torch.Generator) -> None:
    mask = background_mask(box, 1.0, 0.7 * box)
    images = 40 + 3 * noise(5, box, generator)
    found = normalise_background(images, mask)
    ring = found[:, mask]
    torch.testing.assert_close(ring.mean(1), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(ring.std(1), torch.ones(5))
    # ... by one factor and one constant for each image, whatever these were before.
    torch.testing.assert_close(
        normalise_background(-7 + 0.1 * images, mask), found, atol=1e-4, rtol=0
    )
    inside = (images[:, ~mask] - images[:, mask].mean(1, keepdim=True)) / images[:, mask].std(
        1, keepdim=True
    )
    torch.testing.assert_close(found[:, ~mask], inside)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e4])
def test_a_constant_background_names_its_particle(
    value: float, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = noise(9, 16, generator)
    mask = background_mask(16, PIXEL_SIZE_ANGSTROM, None)
    images[6, mask] = value
    monkeypatch.setattr(spectra, "READ_BATCH", 4)
    with pytest.raises(InputError, match=r"particle 7: .* constant one; remove the particle"):
        read_spectra(stack_of(images, generator), 16)


def test_a_background_that_only_rounding_varies_is_refused(generator: torch.Generator) -> None:
    images = 5 * noise(3, 16, generator)
    mask = background_mask(16, PIXEL_SIZE_ANGSTROM, None)
    images[1, mask] = 1e-8 * images[1, mask]
    with pytest.raises(InputError, match="particle 2: expected a background with noise"):
        normalise_background(images, mask)


# --- the working box ---


@pytest.mark.parametrize("working_box", [8, 9, 12, 15, 16])
def test_noise_has_deviation_1_in_every_coefficient(
    working_box: int, box: int, generator: torch.Generator
) -> None:
    stack = stack_of(100 - 7 * noise(1000, box, generator), generator)
    rows = read_spectra(stack, working_box).rows
    assert rows.shape == (1000, make_disc(working_box).n_coefficients)
    # The background's deviation is itself known to 1 / sqrt(2 n) from n pixels of an image.
    deviation = rows[:, 1:].square().mean(0).sqrt()
    torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=0.13, rtol=0)
    assert float(rows[:, 1:].square().mean().sqrt()) == pytest.approx(1, abs=0.03)


def test_a_smaller_working_box_keeps_the_first_coefficients(
    box: int, generator: torch.Generator
) -> None:
    stack = stack_of(noise(3, box, generator), generator)
    full = read_spectra(stack, box)
    assert full.pixel_size_angstrom == PIXEL_SIZE_ANGSTROM
    for working_box in (8, 11):
        small = read_spectra(stack, working_box)
        n = small.disc.n_coefficients
        torch.testing.assert_close(small.rows, full.rows[:, :n])
        field_angstrom = box * PIXEL_SIZE_ANGSTROM
        assert small.pixel_size_angstrom * working_box == pytest.approx(field_angstrom)
        assert nyquist_angstrom(small) == pytest.approx(2 * field_angstrom / working_box)
        # The same k in 1/Å, hence the same CTF, whatever the sampling.
        index = torch.tensor([2, 0])
        one, other = small.batch(index, 3.5), full.batch(index, 3.5)
        torch.testing.assert_close(one.ctf, other.ctf)
        torch.testing.assert_close(one.observed, other.observed)
        assert torch.equal(one.disc.frequency_index, other.disc.frequency_index)


def test_batches_carry_the_ctf_of_their_images(box: int, generator: torch.Generator) -> None:
    stack = stack_of(noise(4, box, generator), generator)
    read = read_spectra(stack, 12)
    batch = read.batch(torch.tensor([3, 1]), 4.0)
    frequency = make_disc(box, 4.0).frequency_index / (box * PIXEL_SIZE_ANGSTROM)
    expected = transfer_function(stack.ctf, frequency)
    torch.testing.assert_close(batch.ctf, expected[[3, 1]], atol=1e-5, rtol=0)
    assert batch.index.tolist() == [3, 1]
    assert torch.equal(batch.observed, read.rows[[3, 1], : batch.disc.n_coefficients])
    assert float(batch.disc.radius_per_coefficient[-1]) <= 4.0


def test_dark_particles_become_light_ones(box: int, generator: torch.Generator) -> None:
    images = 3 + 2 * noise(5, box, generator)
    shift = 4 * torch.randn(5, 2, generator=generator)
    light = stack_of(images, generator)
    dark = replace(light, images=ArrayImages(values=-images))
    torch.testing.assert_close(
        read_spectra(
            dark, 11, Preprocessing(centring_shift_angstrom=shift, contrast_sign=-1.0)
        ).rows,
        read_spectra(light, 11, Preprocessing(centring_shift_angstrom=shift)).rows,
    )


def test_a_working_box_beyond_the_images_is_refused(generator: torch.Generator) -> None:
    stack = stack_of(noise(2, 16, generator), generator)
    with pytest.raises(InputError, match=r"at most the images' 16 pixels, found 17"):
        read_spectra(stack, 17)


def test_reading_in_parts_does_not_show(
    box: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = stack_of(noise(7, box, generator), generator)
    shift = torch.randn(7, 2, generator=generator)
    at_once = read_spectra(stack, 12, Preprocessing(centring_shift_angstrom=shift)).rows
    monkeypatch.setattr(spectra, "READ_BATCH", 3)
    in_parts = read_spectra(stack, 12, Preprocessing(centring_shift_angstrom=shift)).rows
    torch.testing.assert_close(in_parts, at_once)


@pytest.mark.parametrize("working_box", [24, 25, 32])
def test_known_shifts_are_undone(working_box: int, generator: torch.Generator) -> None:
    side = 32
    shift_px = 6 * (torch.rand(5, 2, generator=generator) - 0.5)
    phantom = random_phantom(generator, reach=side / 5)
    turned = [phantom.turned(r) for r in random_rotations(5, generator)]
    displaced = [
        particle.moved(torch.cat([s, torch.zeros(1)]))
        for particle, s in zip(turned, shift_px, strict=True)
    ]
    moved, centred = (
        torch.stack([p.projection(side) for p in particles]).float()
        for particles in (displaced, turned)
    )
    # A faint noise, so that there is a background.
    moved = moved + 1e-3 * noise(5, side, generator)
    found = read_spectra(
        stack_of(moved, generator),
        working_box,
        Preprocessing(centring_shift_angstrom=shift_px * PIXEL_SIZE_ANGSTROM),
    ).rows
    expected = make_disc(working_box).gather(
        crop_centred(image_to_hartley(centred), working_box, 2)
    )
    # Normalisation divides by that noise: compare directions.
    for one, other in zip(found[:, 1:], expected[:, 1 : found.shape[1]], strict=True):
        assert relative_error(one / one.norm(), other / other.norm()) < 5e-3


def test_subsets_and_batches_keep_order(box: int, generator: torch.Generator) -> None:
    read = read_spectra(stack_of(noise(6, box, generator), generator), box)
    part = read.subset(torch.tensor([5, 2]))
    assert len(part) == 2 and len(read) == 6
    assert torch.equal(part.rows, read.rows[[5, 2]])
    whole = read.batch(torch.tensor([5]), box / 2)
    assert torch.equal(part.batch(torch.tensor([0]), box / 2).ctf, whole.ctf)
    pieces = [b.tolist() for b in index_batches(torch.tensor([3, 1, 4, 0, 5]), 2)]
    assert pieces == [[3, 1], [4, 0], [5]]


@pytest.mark.parametrize("small_box", [8, 9])
def test_rows_become_small_images(small_box: int, box: int, generator: torch.Generator) -> None:
    # A smooth field sampled more coarsely; orthonormal spectra scale values with the box.
    disc = make_disc(box)
    k = 2 * torch.pi * torch.tensor([2.0, -3.0])

    def wave(side: int) -> Tensor:
        axis = (torch.arange(side) - side // 2) / side
        return torch.cos(k[0] * axis[None, :] + k[1] * axis[:, None] + 0.4)

    rows = disc.gather(image_to_hartley(wave(box)))[None]
    found = images_from_rows(rows, disc, small_box)[0]
    torch.testing.assert_close(found, wave(small_box) * box / small_box, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("images_box", "pixel_size", "target", "expected"),
    [
        (64, 5.0, 8.0, 64),  # Nyquist is 10 Å already
        (360, 1.34, 8.0, 122),  # 2 * 360 * 1.34 / 8 = 120.6
        (256, 1.0, 8.0, 64),
        (400, 1.31, 6.0, 128),  # 174.7 would be needed
        (65, 5.0, 8.0, 65),
        (30, 1.0, 8.0, 8),
    ],
)
def test_default_working_box(
    images_box: int, pixel_size: float, target: float, expected: int
) -> None:
    assert working_box_for(images_box, pixel_size, target) == expected
