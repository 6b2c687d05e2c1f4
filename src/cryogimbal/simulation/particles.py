"""Particle stacks with a known answer: poses, CTF values, clean images, noise and junk.

``image = sign * (scale * projection with CTF) + noise``: Gaussian noise of standard deviation 1, white
or coloured, and light particles on a dark background (sign +1) as RELION has them, or dark ones. The
scale is such that the mean over the images that are no junk of the clean images' variance over the
full box is the signal-to-noise ratio.
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
from cryogimbal.imaging.contrast import contrast_to_sign
from cryogimbal.imaging.ctf import transfer_function
from cryogimbal.imaging.shifts import shift_row
from cryogimbal.imaging.slices import central_slices
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.simulation.ctf_values import draw_ctf
from cryogimbal.simulation.junk import Junk, draw_junk, no_junk, with_contaminant, with_edge
from cryogimbal.simulation.noise import colour, noise_power, white_noise
from cryogimbal.simulation.settings import SimulationSettings
from cryogimbal.simulation.views import draw_poses

OVERSAMPLING = 2
CHUNK_IMAGES = 128
SEEDS = 1 << 32


@dataclass(frozen=True, kw_only=True)
class SimulatedImages:
    """Images that are made when they are read, each the same whenever and with whomever it is read.

    A stack of any size costs no memory; ``ArrayImages(values=images.read(index))`` keeps one.
    """

    grid: Float[Tensor, "side side side"]
    """Hartley grid of the density, ``OVERSAMPLING`` samples per cycle per box."""
    poses: PoseSet
    """Of the particle in each image; of two, the first."""
    ctf: CtfParameters
    junk: Junk
    pixel_size_angstrom: float
    image_box: int
    scale: float
    """Factor from the density's own units to units of the noise."""
    sign: float
    """1 for light particles on a dark background, -1 for dark ones."""
    noise_power: Float[Tensor, "box box"] | None
    """Power spectrum of the noise; none: white."""
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
        noise = white_noise([(self.noise_seed + i) % SEEDS for i in index.tolist()], self.box)
        if self.noise_power is not None:
            noise = colour(noise, self.noise_power)
        images = self.read_clean(index) + noise
        edge, spot = (self.junk.of_kind(kind)[index] for kind in ("edge", "contaminant"))
        for place in (edge | spot).nonzero()[:, 0].tolist():
            # A seed beyond those of the noise, so that junk does not depend on what is read with it.
            seed = (self.noise_seed + self.n_images + int(index[place])) % SEEDS
            generator = torch.Generator().manual_seed(seed)
            images[place] = (
                with_edge(images[place], generator)
                if edge[place]
                else with_contaminant(images[place], self.sign, generator)
            )
        return images

    def read_clean(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch box box"]:
        """The particles of the chosen images without noise, with CTF; blank where junk has none."""
        return hartley_to_image(make_disc(self.box).scatter(self.clean_rows(index)))

    def clean_rows(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch coefficient"]:
        """Spectra of the images without noise, with CTF: slice, shift, CTF, scale and sign."""
        disc, side_angstrom = make_disc(self.box), self.box * self.pixel_size_angstrom
        rows = self._projections(self.poses[index])
        pair = self.junk.of_kind("pair")[index]
        if bool(pair.any()):
            rows[pair] += self._projections(self.junk.second[index[pair]])
        rows[self.junk.is_junk[index] & ~pair] = 0
        frequency = disc.frequency_index.double() / side_angstrom
        transfer = transfer_function(self.ctf[index], frequency).float()
        return rows * transfer * (self.sign * self.scale)

    def _projections(self, poses: PoseSet) -> Float[Tensor, "batch coefficient"]:
        disc, side_angstrom = make_disc(self.box), self.box * self.pixel_size_angstrom
        rows = central_slices(self.grid, poses.rotation, disc, OVERSAMPLING)
        if bool(poses.shift_angstrom.any()):
            rows = shift_row(rows, poses.shift_angstrom / side_angstrom, disc)
        return rows


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
    """Images of a density at random poses, with CTF, noise and junk.

    Parameters
    ----------
    density
        The truth; its box and voxel size are those of the images, whatever the settings say.
    settings
        Number, views, shifts, CTF values, noise, junk, sign and signal-to-noise ratio.
    generator
        Poses, CTF values, noise and junk are drawn from it.

    Raises
    ------
    InputError
        If the density is empty or not finite (its images would hold no signal), the shifts leave the
        box, every image would be junk, or the table of CTF values cannot be used.
    """
    _refuse_leaving_the_box(density, settings)
    poses = draw_poses(settings, generator)
    ctf = draw_ctf(settings, generator)
    geometry = GridGeometry(box=density.box, radius=density.box / 2, oversampling=OVERSAMPLING)
    noise_seed = int(torch.randint(SEEDS, (), generator=generator))
    junk, poses = _junk_among(poses, density, settings, generator)
    unscaled = SimulatedImages(
        grid=geometry.grid_of_density(density.values),
        poses=poses,
        ctf=ctf,
        junk=junk,
        pixel_size_angstrom=density.voxel_size_angstrom,
        image_box=density.box,
        scale=1.0,
        sign=contrast_to_sign(settings.contrast),
        noise_power=_noise_power(density, settings),
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
        optics=(_optics_group(density, ctf),),
        optics_index=torch.zeros(len(poses), dtype=torch.int64),
        poses=poses,
    )
    return SimulatedParticles(stack=stack, images=images, truth=density)


def mean_clean_variance(images: SimulatedImages) -> float:
    """Mean over the images that are no junk of the clean image's variance over the box (float64).

    By Parseval's theorem the sum of squares of an image's orthonormal coefficients without the zero
    frequency, divided by the number of pixels: no image has to be made.
    """
    total = 0.0
    particles = (~images.junk.is_junk).nonzero()[:, 0]
    for index in particles.split(CHUNK_IMAGES):
        total += float(images.clean_rows(index)[:, 1:].double().square().sum())
    return total / (len(particles) * images.box**2)


def chunks_of(n_images: int) -> Iterator[Int[Tensor, " batch"]]:
    """Consecutive indices of images, a chunk at a time."""
    yield from torch.arange(n_images).split(CHUNK_IMAGES)


def _junk_among(
    poses: PoseSet,
    density: DensityMap,
    settings: SimulationSettings,
    generator: torch.Generator,
) -> tuple[Junk, PoseSet]:
    if settings.junk_fraction == 0:
        return no_junk(len(poses)), poses
    width_angstrom = density.box * density.voxel_size_angstrom
    junk, poses = draw_junk(
        poses, settings.junk_fraction, settings.junk_kinds, width_angstrom, generator
    )
    if bool(junk.is_junk.all()):
        raise InputError(
            f"--junk-fraction: expected a particle among the {len(poses)} images, found "
            f"{settings.junk_fraction}; give less or more --n-particles"
        )
    return junk, poses


def _noise_power(
    density: DensityMap, settings: SimulationSettings
) -> Float[Tensor, "box box"] | None:
    if settings.noise_length == 0:
        return None
    return noise_power(
        density.box, density.voxel_size_angstrom, settings.noise_length, settings.noise_floor
    )


def _refuse_leaving_the_box(density: DensityMap, settings: SimulationSettings) -> None:
    half_width = density.box * density.voxel_size_angstrom / 2
    if settings.shift_sd > half_width:
        raise InputError(
            f"--shift-sd: expected at most half the box ({half_width:.1f} Å), found "
            f"{settings.shift_sd:g} Å; it is in Å, not in pixels"
        )


def _optics_group(density: DensityMap, ctf: CtfParameters) -> OpticsGroup:
    return OpticsGroup(
        name="simulated",
        voltage_kilovolt=float(ctf.voltage_kilovolt[0]),
        spherical_aberration_mm=float(ctf.spherical_aberration_mm[0]),
        amplitude_contrast=float(ctf.amplitude_contrast[0]),
        pixel_size_angstrom=density.voxel_size_angstrom,
        box=density.box,
    )
