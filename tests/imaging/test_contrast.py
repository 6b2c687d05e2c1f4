"""The sign of a stack is what its images show, whatever is said of it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cryogimbal.data.optics import OpticsGroup
from cryogimbal.data.particles import ArrayImages, ParticleStack
from cryogimbal.fourier.disc import make_disc
from cryogimbal.fourier.shells import radius_grid
from cryogimbal.fourier.transforms import hartley_to_image, image_to_hartley
from cryogimbal.imaging import contrast
from cryogimbal.imaging.contrast import (
    ContrastMeasurement,
    blob_peaks,
    contrast_to_sign,
    measure_contrast,
)
from cryogimbal.imaging.ctf import transfer_function
from cryogimbal.io.star import read_particles
from cryogimbal.rotations import random_rotations
from tests.imaging.gaussian_phantom import GaussianPhantom
from tests.imaging.optics_values import in_float32, random_ctf

PIXEL_SIZE_ANGSTROM = 5.0
N_IMAGES = 300


def particle(box: int, generator: torch.Generator) -> GaussianPhantom:
    """Spots of positive weight in a lopsided ellipsoid, nothing in its middle."""
    direction = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    direction = torch.nn.functional.normalize(direction, dim=-1)
    half_axes = box * torch.tensor([0.28, 0.22, 0.15], dtype=torch.float64)
    position = direction * half_axes
    return GaussianPhantom(
        position=position - position.mean(0),
        weight=torch.rand(40, generator=generator, dtype=torch.float64),
        sigma=1.2,
    )


def coloured(white: Tensor) -> Tensor:
    """Noise whose power falls as ``1 / (1 + (40 Å k)^2)`` to a floor of a tenth."""
    box = white.shape[-1]
    frequency = radius_grid(box, 2) / (box * PIXEL_SIZE_ANGSTROM)
    power = 1 / (1 + (40 * frequency).square()) + 0.1
    return hartley_to_image(image_to_hartley(white) * power.sqrt().float())


def stack_of(
    box: int, generator: torch.Generator, *, snr: float, n: int = N_IMAGES, offset: float = 0.0
) -> ParticleStack:
    """Light particles up to a tenth of the box off their centre, one in twenty a bright spot."""
    ctf = in_float32(random_ctf(n, generator))
    axis = (torch.arange(box, dtype=torch.float64) - box // 2) / (box * PIXEL_SIZE_ANGSTROM)
    ky, kx = torch.meshgrid(axis, axis, indexing="ij")
    frequency = torch.stack([kx, ky], dim=-1).flatten(0, 1)
    transfer = transfer_function(ctf, frequency).unflatten(1, (box, box)).float()
    phantom = particle(box, generator)
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    shift = 0.1 * box * torch.stack([angle.cos(), angle.sin(), 0 * angle], dim=-1)
    shift *= torch.rand(n, 1, generator=generator).sqrt()
    clean = torch.stack(
        [
            phantom.turned(rotation).moved(s).projection(box)
            for rotation, s in zip(random_rotations(n, generator), shift, strict=True)
        ]
    )
    seen = hartley_to_image(image_to_hartley(clean.float()) * transfer)
    seen *= (snr / seen.var(dim=(1, 2)).mean()).sqrt()
    images = seen + coloured(torch.randn(n, box, box, generator=generator))
    # Dark contaminants, where particles are light.
    images[::20, box // 2 - 2 : box // 2 + 3, box // 2 - 2 : box // 2 + 3] -= 20.0
    optics = OpticsGroup(
        name="test",
        voltage_kilovolt=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
        pixel_size_angstrom=PIXEL_SIZE_ANGSTROM,
        box=box,
    )
    return ParticleStack(
        images=ArrayImages(values=3 * images + offset),
        ctf=ctf,
        optics=(optics,),
        optics_index=torch.zeros(n, dtype=torch.long),
    )


def negative(stack: ParticleStack) -> ParticleStack:
    assert isinstance(stack.images, ArrayImages)
    return replace(stack, images=ArrayImages(values=-stack.images.values))


@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize("diameter", [None, 90.0])
def test_particles_off_centre_in_coloured_noise_show_their_sign(
    side: int, diameter: float | None, generator: torch.Generator
) -> None:
    light = stack_of(side, generator, snr=0.1, offset=50.0)
    found, opposite = (measure_contrast(s, diameter) for s in (light, negative(light)))
    assert found.contrast == "light"
    assert found.is_certain
    assert found.n_images == N_IMAGES
    # The negative of a stack votes the other way, image by image.
    assert (opposite.contrast, opposite.is_certain) == ("dark", True)
    assert opposite.z == -found.z


def test_noise_alone_decides_nothing(generator: torch.Generator) -> None:
    stack = stack_of(24, generator, snr=1e-9)
    assert not measure_contrast(stack).is_certain


def test_many_images_are_sampled_evenly(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = stack_of(24, generator, snr=0.5, n=101)
    read: list[int] = []
    everything = stack.images.read

    class Counted:
        n_images, box = stack.images.n_images, stack.images.box

        def read(self, index: Tensor) -> Tensor:
            read.extend(index.tolist())
            return everything(index)

    monkeypatch.setattr(contrast, "MOST_IMAGES", 51)
    assert measure_contrast(replace(stack, images=Counted())).n_images == 51
    assert read == list(range(0, 101, 2))


def test_a_blob_at_its_shift_is_a_peak_of_its_own_sign(box: int) -> None:
    disc = make_disc(box, 6.0)
    # A blob of radius 0.2 boxes, 0.08 boxes to the right.
    blob = torch.exp(-2 * math.pi**2 * 0.2**2 / 5 * disc.radius_per_coefficient.square())
    phase = 2 * math.pi * 0.08 * disc.frequency_index[:, 0]
    row = blob * (phase.cos() + phase.sin())
    flat = torch.ones(disc.n_coefficients)
    rows, ctf = torch.stack([row, -row, row, -row]), torch.stack([flat, flat, -flat, -flat])
    signs = blob_peaks(rows, ctf, disc, 0.2).sign().tolist()
    assert signs == [1.0, -1.0, -1.0, 1.0]


def test_a_blank_image_breaks_nothing(generator: torch.Generator) -> None:
    stack = stack_of(24, generator, snr=0.5)
    assert isinstance(stack.images, ArrayImages)
    stack.images.values[3] = 0.0
    assert measure_contrast(stack).contrast == "light"


@pytest.mark.parametrize(
    ("n_light", "z", "is_certain"), [(100, 10.0, True), (75, 5.0, False), (24, -5.2, True)]
)
def test_z_is_the_excess_in_deviations_of_a_fair_coin(
    n_light: int, z: float, is_certain: bool
) -> None:
    found = ContrastMeasurement(n_images=100, n_light=n_light)
    assert found.z == pytest.approx(z)
    assert found.is_certain is is_certain
    assert contrast_to_sign(found.contrast) == math.copysign(1.0, z)


@pytest.mark.parametrize(
    ("table", "n_images", "n_light"),
    [
        # Declared light in its .cs file, and measurably dark.
        ("cryodrgn/empiar_10076_7.star", 7, 0),
        ("aspire/sample_particles_relion30.star", 17, 17),
    ],
)
def test_real_images_vote_as_one(
    reference_data: Path, table: str, n_images: int, n_light: int
) -> None:
    stack, _ = read_particles(reference_data / "particles" / table)
    found = measure_contrast(stack)
    assert (found.n_images, found.n_light) == (n_images, n_light)
