"""Images of any sampling and treatment give the rows of one disc that the same particle has there."""

from dataclasses import replace

import pytest
import torch

from cryogimbal.fourier.disc import make_disc
from cryogimbal.fourier.shells import radius_grid
from cryogimbal.fourier.transforms import hartley_to_image, image_to_hartley
from cryogimbal.imaging.ctf import transfer_function
from cryogimbal.imaging.image_rows import (
    LEAST_DIVISOR,
    reach,
    rows_of_images,
    square_transfer,
    transfer_rows,
)
from cryogimbal.imaging.noise import BackgroundSpectrum
from cryogimbal.imaging.spectra import Preprocessing, read_spectra
from cryogimbal.rotations import random_rotations
from tests.imaging.gaussian_phantom import random_phantom
from tests.mixed_samplings import (
    SIGMA,
    MixedImages,
    group_of,
    images_of,
    mixed_stack,
    phantom_in_pixels,
)
from tests.small_particles import constant_ctf

# Boxes and pixel sizes (Å), even and odd, in no simple ratio; the first is the narrowest.
SAMPLINGS = [(30, 4.0), (37, 3.7), (64, 2.3), (41, 4.4), (45, 120 / 45), (26, 120 / 26)]


@pytest.mark.parametrize(("side", "pixel_size"), SAMPLINGS)
@pytest.mark.parametrize("working_box", [20, 21])
def test_every_sampling_gives_the_slices_of_the_same_particle(
    side: int, pixel_size: float, working_box: int, generator: torch.Generator
) -> None:
    phantom, width = random_phantom(generator, reach=25.0, sigma=SIGMA), 120.0
    rotation, group = random_rotations(3, generator), group_of(side, pixel_size)
    disc = make_disc(working_box)
    ctf = constant_ctf(3, generator)
    rows = rows_of_images(images_of(phantom, rotation, group), ctf, group, disc, width)
    common = phantom_in_pixels(phantom, width / working_box)
    expected = torch.stack(
        [common.turned(one).hartley_slice(disc.frequency_index, working_box) for one in rotation]
    )
    # An orthonormal spectrum over a width has one term for each pixel.
    rows = rows * pixel_size / (width / working_box)
    torch.testing.assert_close(
        rows.double(), expected, atol=1e-4 * float(expected.abs().max()), rtol=0
    )


@pytest.mark.parametrize(("side", "pixel_size"), SAMPLINGS)
def test_white_noise_stays_white(side: int, pixel_size: float, generator: torch.Generator) -> None:
    group, disc = group_of(side, pixel_size), make_disc(30)
    images = torch.randn(600, side, side, generator=generator)
    rows = rows_of_images(images, constant_ctf(600, generator), group, disc, 120.0)
    heard = disc.radius_per_coefficient < reach(group, 120.0) - 3.0
    assert bool((rows[:, disc.radius_per_coefficient >= reach(group, 120.0)] == 0).all())
    covariance = rows[:, heard].T @ rows[:, heard] / 600
    assert float(covariance.diagonal().mean()) == pytest.approx(1.0, abs=0.02)
    off = covariance - torch.diag(covariance.diagonal())
    # Chance alone gives correlations of 1 / sqrt(600).
    assert float(off.square().mean().sqrt()) < 0.045


@pytest.mark.parametrize("treatment", ["phase_flipped", "multiplied"])
@pytest.mark.parametrize("phase_shift", [0.0, 1.5])
def test_treated_images_say_what_untreated_ones_say(
    treatment: str, phase_shift: float, box: int, generator: torch.Generator
) -> None:
    side = 2 * box
    plain, treated = group_of(side, 2.5), group_of(side, 2.5, treatment)
    images = torch.randn(4, side, side, generator=generator)
    ctf = constant_ctf(4, generator)
    ctf = replace(ctf, phase_shift_rad=torch.full((4,), phase_shift))
    transfer = square_transfer(ctf, plain, side)
    factor = transfer if treatment == "multiplied" else torch.where(transfer < 0, -1.0, 1.0)
    stored = hartley_to_image(image_to_hartley(images) * factor)
    disc, width = make_disc(box), side * 2.5
    expected = rows_of_images(images, ctf, plain, disc, width)
    found = rows_of_images(stored, ctf, treated, disc, width)
    values = transfer_function(ctf, disc.frequency_index / width)
    index = torch.zeros(4, dtype=torch.long)
    effective = transfer_rows(values, (treated,), index, disc, width)
    if treatment == "multiplied":
        found = found / transfer.square().mean((1, 2)).sqrt()[:, None]
        heard = values.abs() >= LEAST_DIVISOR
        assert bool((effective[~heard] == 0).all())
        assert bool((found[~heard] == 0).all())
        torch.testing.assert_close(effective[heard], values[heard])
        torch.testing.assert_close(found[heard], expected[heard], atol=2e-4, rtol=1e-4)
        # The sufficient statistic is the stored row itself.
        row = rows_of_images(stored, ctf, plain, disc, width)
        torch.testing.assert_close((effective * found)[heard], row[heard], atol=1e-5, rtol=1e-4)
    else:
        torch.testing.assert_close(effective, values)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_noise_of_multiplied_images_is_that_of_before(box: int, generator: torch.Generator) -> None:
    side, n = 2 * box, 500
    group = group_of(side, 2.5, "multiplied")
    ctf = constant_ctf(n, generator)
    variance = 4 / (1 + (0.3 * radius_grid(side, 2).float()).square()) + 0.5
    spectrum = variance.sqrt() * torch.randn(n, side, side, generator=generator)
    transfer = square_transfer(ctf, group, side)
    seen = BackgroundSpectrum(torch.ones(side, side), 1)
    power = transfer.square()
    seen.add(hartley_to_image(spectrum * transfer), torch.zeros(n, dtype=torch.long), power)
    shells = torch.arange(2, side // 2)
    expected = 4 / (1 + (0.3 * shells).square()) + 0.5
    torch.testing.assert_close(seen.variance(side // 2)[0, 2:], expected, rtol=0.12, atol=0.0)


def test_both_samplings_of_a_stack_explain_the_same_particle_equally(
    generator: torch.Generator,
) -> None:
    phantom = random_phantom(generator, reach=22.0, sigma=SIGMA)
    phantom = replace(phantom, weight=0.2 * phantom.weight)
    groups, rotation = (group_of(30, 4.0), group_of(49, 2.9)), random_rotations(400, generator)
    stack = mixed_stack(phantom, rotation, groups, generator)
    assert (stack.box, stack.width_angstrom) == (41, 120.0)
    spectra = read_spectra(stack, 24, Preprocessing(particle_diameter_angstrom=100.0))
    batch = spectra.batch(torch.arange(400), 12.0)
    common = phantom_in_pixels(phantom, 5.0)
    frequency = batch.disc.frequency_index
    slices = torch.stack([common.turned(one).hartley_slice(frequency, 24) for one in rotation])
    slices = slices.float()
    index, last = stack.optics_index, float(batch.disc.radius_per_coefficient[-1])
    assert last < reach(groups[0], 120.0)
    strength = (batch.ctf * slices * batch.observed).sum(1) / (batch.ctf * slices).square().sum(1)
    one, other = (float(strength[index == number].mean()) for number in (0, 1))
    assert one == pytest.approx(other, rel=0.05)
    left = (batch.observed - (batch.ctf * slices) * one).square().mean(1)
    for number in (0, 1):
        # The particle's own signal in the ring makes the background a little stronger than its noise.
        assert float(left[index == number].mean()) == pytest.approx(1.0, abs=0.05)
    # What is wrong fits worse in either sampling.
    wrong = slices.roll(1, 0)
    worse = (batch.observed - batch.ctf * wrong * one).square().mean(1)
    assert float((worse > left).float().mean()) > 0.95


def test_images_of_another_strength_are_brought_to_that_of_the_others(
    generator: torch.Generator,
) -> None:
    phantom = random_phantom(generator, reach=22.0, sigma=SIGMA)
    phantom = replace(phantom, weight=0.4 * phantom.weight)
    groups, rotation = (group_of(30, 4.0), group_of(49, 2.9)), random_rotations(600, generator)
    stack = mixed_stack(phantom, rotation, groups, generator)
    first, second = stack.images.parts  # pyright: ignore[reportAttributeAccessIssue]
    louder = second + 0.8 * torch.randn(second.shape, generator=generator) * 4.0 / 2.9
    stack = replace(stack, images=MixedImages(parts=(first, louder)))
    noise = read_spectra(stack, 24, Preprocessing(particle_diameter_angstrom=100.0)).noise
    # Noise of 1 + 0.64 in units in which the others have 1.
    found = float(noise.scale[-1] / noise.scale[0])
    assert found == pytest.approx(1.64**-0.5, rel=0.1)
