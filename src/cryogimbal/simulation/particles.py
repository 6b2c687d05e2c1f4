"""Particle stacks with a known answer: poses, CTF values, clean images and noise.

``image = scale * projection with CTF + noise``: white Gaussian noise of standard deviation 1, light
particles on a dark background as RELION has them. The scale is such that the mean over the stack of
the clean images' variance over the full box is the signal-to-noise ratio.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.data.optics import CtfParameters, OpticsGroup
from cryogimbal.data.particles import ParticleStack
from cryogimbal.data.poses import PoseSet
from cryogimbal.errors import InputError
from cryogimbal.fourier.disc import make_disc
from cryogimbal.fourier.transforms import hartley_to_image
from cryogimbal.imaging.ctf import transfer_function
from cryogimbal.imaging.shifts import shift_row
from cryogimbal.imaging.slices import central_slices
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.rotations import random_rotations
from cryogimbal.simulation.settings import SimulationSettings

OVERSAMPLING = 2
CHUNK_IMAGES = 128


@dataclass(frozen=True, kw_only=True)
class SimulatedImages:
    """Images that are made when they are read, each the same whenever and with whomever it is read.

    A stack of any size costs no memory; ``ArrayImages(values=images.read(index))`` keeps one.
    """

    grid: Float[Tensor, "side side side"]
    """Hartley grid of the density, ``OVERSAMPLING`` samples per cycle per box."""
    poses: PoseSet
    ctf: CtfParameters
    pixel_size_angstrom: float
    image_box: int
    scale: float
    """Factor from the density's own units to units of the noise."""
    noise_seed: int

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.poses)

    @property
    def box(self) -> int:
        """Pixels a side."""
        return self.image_box

    def read(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch box box"]:
        """The chosen images with their noise."""
        return self.read_clean(index) + self._noise(index)

    def read_clean(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch box box"]:
        """The chosen images without noise, with CTF."""
        return hartley_to_image(make_disc(self.box).scatter(self.clean_rows(index)))

    def clean_rows(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch coefficient"]:
        """Spectra of the images without noise, with CTF: slice, shift, CTF, scale."""
        disc, side_angstrom = make_disc(self.box), self.box * self.pixel_size_angstrom
        rows = central_slices(self.grid, self.poses.rotation[index], disc, OVERSAMPLING)
        shift = self.poses.shift_angstrom[index]
        if bool(shift.any()):
            rows = shift_row(rows, shift / side_angstrom, disc)
        frequency = disc.frequency_index.double() / side_angstrom
        return rows * transfer_function(self.ctf[index], frequency).float() * self.scale

    def _noise(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch box box"]:
        noise = torch.empty(len(index), self.box, self.box)
        for image, particle in zip(noise, index.tolist(), strict=True):
            # A seed of its own, so that an image does not depend on which others are read with it.
            generator = torch.Generator().manual_seed((self.noise_seed + particle) % (1 << 32))
            image.normal_(generator=generator)
        return noise


@dataclass(frozen=True, kw_only=True)
class SimulatedParticles:
    """A stack and the answer."""

    stack: ParticleStack
    """The true poses are in it; ``replace(stack, poses=None)`` is what a search is given."""
    images: SimulatedImages
    """The images of the stack, which can also be read without noise."""
    truth: DensityMap
    """The density in its own units; ``images.scale`` times its projections is the signal."""


def simulate_particles(
    density: DensityMap, settings: SimulationSettings, generator: torch.Generator
) -> SimulatedParticles:
    """Images of a density at uniform random poses, with CTF and noise.

    Parameters
    ----------
    density
        The truth; its box and voxel size are those of the images, whatever the settings say.
    settings
        Number, shifts, CTF values and signal-to-noise ratio.
    generator
        Poses, CTF values and noise are drawn from it.

    Raises
    ------
    InputError
        If the density is empty or not finite: its images would hold no signal.
    """
    poses = draw_poses(settings, generator)
    ctf = draw_ctf(settings, generator)
    geometry = GridGeometry(box=density.box, radius=density.box / 2, oversampling=OVERSAMPLING)
    noise_seed = int(torch.randint(1 << 32, (), generator=generator))
    unscaled = SimulatedImages(
        grid=geometry.grid_of_density(density.values),
        poses=poses,
        ctf=ctf,
        pixel_size_angstrom=density.voxel_size_angstrom,
        image_box=density.box,
        scale=1.0,
        noise_seed=noise_seed,
    )
    variance = mean_clean_variance(unscaled)
    if not (math.isfinite(variance) and variance > 0):
        raise InputError(
            f"density: expected images that vary, found a variance of {variance}; "
            "check the map or model"
        )
    images = replace(unscaled, scale=math.sqrt(settings.snr / variance))
    stack = ParticleStack(
        images=images,
        ctf=ctf,
        optics=(_optics_group(density, settings),),
        optics_index=torch.zeros(len(poses), dtype=torch.int64),
        poses=poses,
    )
    return SimulatedParticles(stack=stack, images=images, truth=density)


def draw_poses(settings: SimulationSettings, generator: torch.Generator) -> PoseSet:
    """Rotations uniform over SO(3), displacements normal in x and y."""
    n = settings.n_particles
    return PoseSet(
        rotation=random_rotations(n, generator),
        shift_angstrom=settings.shift_sd * torch.randn(n, 2, generator=generator),
    )


def draw_ctf(settings: SimulationSettings, generator: torch.Generator) -> CtfParameters:
    """Mean defocus uniform in its range, normal astigmatism at a uniform angle in [0, pi)."""
    one = torch.ones(settings.n_particles)
    low, high = settings.defocus_range
    defocus = low + (high - low) * torch.rand(one.shape, generator=generator)
    half = settings.astigmatism_sd / 2 * torch.randn(one.shape, generator=generator).abs()
    return CtfParameters(
        defocus_u_angstrom=defocus + half,
        defocus_v_angstrom=defocus - half,
        defocus_angle_rad=math.pi * torch.rand(one.shape, generator=generator),
        phase_shift_rad=0 * one,
        voltage_kilovolt=settings.voltage * one,
        spherical_aberration_mm=settings.spherical_aberration * one,
        amplitude_contrast=settings.amplitude_contrast * one,
        bfactor_angstrom2=0 * one,
        scale=one,
    )


def mean_clean_variance(images: SimulatedImages) -> float:
    """Mean over the stack of the variance of the clean image over the full box (float64).

    By Parseval's theorem the sum of squares of an image's orthonormal coefficients without the zero
    frequency, divided by the number of pixels: no image has to be made.
    """
    total = 0.0
    for index in chunks_of(images.n_images):
        total += float(images.clean_rows(index)[:, 1:].double().square().sum())
    return total / (images.n_images * images.box**2)


def chunks_of(n_images: int) -> Iterator[Int[Tensor, " batch"]]:
    """Consecutive indices of images, a chunk at a time."""
    yield from torch.arange(n_images).split(CHUNK_IMAGES)


def _optics_group(density: DensityMap, settings: SimulationSettings) -> OpticsGroup:
    return OpticsGroup(
        name="simulated",
        voltage_kilovolt=settings.voltage,
        spherical_aberration_mm=settings.spherical_aberration,
        amplitude_contrast=settings.amplitude_contrast,
        pixel_size_angstrom=density.voxel_size_angstrom,
        box=density.box,
    )
