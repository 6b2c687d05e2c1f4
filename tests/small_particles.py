"""A small asymmetric particle and images of it, made from formulas alone, in milliseconds."""

import torch
from torch import Tensor

from cryogimbal.data.optics import CtfParameters
from cryogimbal.fourier.disc import make_disc
from cryogimbal.imaging.ctf import transfer_function
from cryogimbal.imaging.noise import NoiseModel
from cryogimbal.imaging.shifts import shift_row
from cryogimbal.imaging.slices import central_slices
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.rotations import random_rotations

PIXEL_SIZE_ANGSTROM = 6.0


def blob_density(box: int, generator: torch.Generator, n_blobs: int = 12) -> Tensor:
    """Gaussian blobs at random places within half of the half-box."""
    axis = torch.arange(box) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    density = torch.zeros(box, box, box)
    for _ in range(n_blobs):
        centre = (torch.rand(3, generator=generator) - 0.5) * box * 0.45
        squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
        density += torch.exp(-squared / (2 * (0.06 * box) ** 2))
    return density


def constant_ctf(n: int, generator: torch.Generator) -> CtfParameters:
    """Usual optics with a spread of defocus."""
    one = torch.ones(n)
    defocus = 10000 + 10000 * torch.rand(n, generator=generator)
    return CtfParameters(
        defocus_u_angstrom=defocus + 300,
        defocus_v_angstrom=defocus,
        defocus_angle_rad=3 * torch.rand(n, generator=generator),
        phase_shift_rad=0 * one,
        voltage_kilovolt=300 * one,
        spherical_aberration_mm=2.7 * one,
        amplitude_contrast=0.1 * one,
        bfactor_angstrom2=0 * one,
        scale=one,
    )


def simulate_spectra(
    density: Tensor,
    n: int,
    generator: torch.Generator,
    *,
    signal_to_noise: float,
    shift_box: Tensor | None = None,
) -> tuple[ParticleSpectra, Tensor]:
    """Noisy rows of ``n`` random views, noise 1, and the true rotations.

    ``shift_box`` displaces them (fractions of the box).
    """
    box = density.shape[-1]
    geometry = GridGeometry(box=box, radius=box / 2, oversampling=2)
    disc, ctf = make_disc(box), constant_ctf(n, generator)
    rotation = random_rotations(n, generator)
    frequency = disc.frequency_index / (box * PIXEL_SIZE_ANGSTROM)
    clean = central_slices(geometry.grid_of_density(density), rotation, disc, 2)
    if shift_box is not None:
        clean = shift_row(clean, shift_box, disc)
    clean = clean * transfer_function(ctf, frequency)
    clean = clean * (signal_to_noise / clean.square().mean()).sqrt()
    rows = clean + torch.randn(clean.shape, generator=generator)
    spectra = ParticleSpectra(
        disc=disc,
        rows=rows,
        ctf=ctf,
        pixel_size_angstrom=PIXEL_SIZE_ANGSTROM,
        noise=NoiseModel.white(n, box, torch.zeros(n, dtype=torch.long)),
    )
    return spectra, rotation


def in_scale(
    spectra: ParticleSpectra, density: Tensor, rotation: Tensor, shift_box: Tensor | None = None
) -> Tensor:
    """The density times what fits its views to the images best (least squares)."""
    geometry = GridGeometry(box=density.shape[-1], radius=spectra.disc.radius, oversampling=2)
    batch = spectra.batch(torch.arange(len(spectra)), spectra.disc.radius)
    clean = central_slices(geometry.grid_of_density(density), rotation, batch.disc, 2)
    if shift_box is not None:
        clean = shift_row(clean, shift_box, batch.disc)
    clean = clean * batch.ctf
    return density * ((clean * batch.observed).sum() / clean.square().sum())
