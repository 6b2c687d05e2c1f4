"""From stored images to disc rows: normalise, crop in Fourier space, centre by known shifts.

Each image is normalised so that its background (the ring outside the particle) has mean 0 and
standard deviation 1. Spectra are orthonormal, so white noise then has standard deviation 1 per
coefficient at every box, cropped or not. Other noise has its spectrum measured on the background.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.data.optics import CtfParameters, OpticsGroup
from cryogimbal.data.particles import ParticleStack
from cryogimbal.errors import InputError
from cryogimbal.fourier.disc import Disc, make_disc
from cryogimbal.fourier.transforms import hartley_to_image
from cryogimbal.imaging.backgrounds import Backgrounds
from cryogimbal.imaging.centres import Centres
from cryogimbal.imaging.ctf import transfer_function
from cryogimbal.imaging.image_rows import (
    places_of_one_kind,
    rows_of_images,
    transfer_rows,
)
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.noise import NoiseModel, excess_of_power, shell_mean
from cryogimbal.imaging.shifts import shift_row

READ_BATCH = 256
# What is in an image beside its particle shows below this, in cycles per box.
POWER_RADIUS = 8.0
# Most of the signal lies below this many cycles per box.
GROUP_SCALE_RADIUS = 12.0
GROUP_SCALE_RANGE = (0.05, 20.0)


@dataclass(frozen=True, kw_only=True)
class ParticleSpectra:
    """All images of a stack at the working box, as rows, with what their CTFs need."""

    disc: Disc
    rows: Float[Tensor, "particle coefficient"]
    ctf: CtfParameters
    pixel_size_angstrom: float
    """Sampling at the working box."""
    noise: NoiseModel
    """Of the rows; what :meth:`batch` gives is divided by it."""
    centres: Centres | None = None
    """What the rows have been moved back by beside given shifts; none: by nothing."""
    optics: tuple[OpticsGroup, ...] = ()
    """All groups, where images of some say nothing at some frequencies; else none are needed."""

    def __len__(self) -> int:
        """Number of particles."""
        return self.rows.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the rows live."""
        return self.rows.device

    def batch(self, index: Int[Tensor, " batch"], radius: float) -> ParticleBatch:
        """Rows and CTFs of the chosen images up to a band limit in cycles per box, noise 1.

        The CTFs contain the scale of each particle.
        """
        disc = self.disc.truncate(radius)
        frequency = disc.frequency_index / (disc.box * self.pixel_size_angstrom)
        weight = self.noise.weight(index, disc)
        ctf = transfer_function(self.ctf[index], frequency)
        if self.optics:
            width_angstrom = self.disc.box * self.pixel_size_angstrom
            ctf = transfer_rows(ctf, self.optics, self.noise.group[index], disc, width_angstrom)
        return ParticleBatch(
            disc=disc,
            observed=self.rows[index, : disc.n_coefficients] * weight,
            ctf=ctf.mul_(weight).mul_(self.noise.scale[index][:, None]),
            index=index,
        )

    def subset(self, index: Int[Tensor, " chosen"]) -> "ParticleSpectra":
        """The chosen particles, in the given order."""
        return replace(
            self,
            rows=self.rows[index],
            ctf=self.ctf[index],
            noise=self.noise.subset(index),
            centres=None if self.centres is None else self.centres[index],
        )


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images are read."""

    particle_diameter_angstrom: float | None = None
    """Background is what lies outside this circle; the inscribed circle where none is given."""
    contrast_sign: float = 1.0
    """Factor of every normalised image: 1 for light particles on a dark background, which is what the
    CTF expects, -1 for dark ones."""
    centring_shift_angstrom: Float[Tensor, "particle 2"] | None = None
    """Known displacement of each particle from its box centre, which is undone."""
    noise: Literal["estimate", "white"] = "white"
    """Its spectrum is that of each optics group's background, or taken as flat."""


def read_spectra(
    stack: ParticleStack,
    working_box: int,
    preprocessing: Preprocessing | None = None,
    device: torch.device | str = "cpu",
) -> ParticleSpectra:
    """Read, normalise, crop and centre every image of a stack.

    Parameters
    ----------
    working_box
        Pixels a side after Fourier cropping; even or odd, at most the stack's box.

    Raises
    ------
    InputError
        If the working box is larger than the images, or an image has no background to normalise by.
    """
    how = preprocessing or Preprocessing()
    if working_box > stack.box:
        raise InputError(
            f"--working-box: expected at most the images' {stack.box} pixels, found {working_box}; "
            "choose a smaller one"
        )
    pixel_size = stack.pixel_size_angstrom * stack.box / working_box
    disc = make_disc(working_box)
    seen = Backgrounds(stack, how.particle_diameter_angstrom)
    rows = torch.empty(len(stack), disc.n_coefficients)
    for index in torch.arange(len(stack)).split(READ_BATCH):
        for group, places in places_of_one_kind(stack, index):
            part = index[places]
            images = seen.normalised(stack.images.read(part), group, part)
            if how.noise == "estimate":
                seen.add(images, group, part)
            chunk = how.contrast_sign * rows_of_images(
                images, stack.ctf[part], group, disc, stack.width_angstrom
            )
            if how.centring_shift_angstrom is not None:
                shift_box = -how.centring_shift_angstrom[part] / (working_box * pixel_size)
                chunk = shift_row(chunk, shift_box, disc)
            rows[part] = chunk
    model = NoiseModel.white(len(stack), working_box, stack.optics_index)
    if how.noise == "estimate":
        variance = seen.variance(working_box // 2 + 1)
        model = replace(model, variance=variance, estimated=True)
        model = replace(model, excess=excess_of_power(_low_power(rows, disc, model)))
    spectra = ParticleSpectra(
        disc=disc.to(device),
        rows=rows.to(device),
        ctf=stack.ctf.to(device),
        pixel_size_angstrom=pixel_size,
        noise=model.to(device),
        optics=silent_optics(stack),
    )
    if not stack.has_one_sampling:
        enter_group_scales(spectra)
    return spectra


def enter_group_scales(spectra: ParticleSpectra) -> None:
    """Scale of each optics group's signal beside all images', from their power above the noise.

    With P the power of a shell behind all images, ``s^2 = sum C^2 P (H^2 - 1) / sum (C^2 P)^2`` over the
    images of a group; where the noise leaves s^2 uncertain by more than a quarter it stays 1.
    """
    noise, radius = spectra.noise, min(GROUP_SCALE_RADIUS, spectra.disc.radius)
    disc = spectra.disc.truncate(radius)
    shape = (len(noise.variance), disc.n_coefficients)
    excess, fourths = torch.zeros(2, *shape, device=spectra.device)
    for index in torch.arange(len(spectra), device=spectra.device).split(READ_BATCH):
        batch, group = spectra.batch(index, radius), noise.group[index]
        power = batch.ctf.square()
        above = power * (batch.observed.square() - 1)
        excess.index_add_(0, group, above)
        fourths.index_add_(0, group, power.square())
    shell = disc.shell_per_coefficient
    behind = shell_mean(excess.sum(0), disc) / shell_mean(fourths.sum(0), disc).clamp_min(1e-20)
    # The zero frequency holds what normalisation has left of it.
    behind[0] = 0.0
    weight = behind.clamp_min(0)[shell]
    scale = torch.ones(len(noise.variance), device=spectra.device)
    for number in range(len(scale)):
        information = (fourths[number] * weight.square()).sum()
        if information * 0.25**2 > 2:
            found = (excess[number] * weight).sum() / information
            scale[number] = found.clamp(*GROUP_SCALE_RANGE).sqrt()
    noise.scale.mul_(scale[noise.group] / scale[noise.group].median())


def silent_optics(stack: ParticleStack) -> tuple[OpticsGroup, ...]:
    """All groups of a stack in which some images say nothing at some frequencies; else none."""
    multiplied = any(group.treatment == "multiplied" for group in stack.optics)
    return stack.optics if multiplied or not stack.has_one_sampling else ()


def _low_power(
    rows: Float[Tensor, "particle coefficient"], disc: Disc, noise: NoiseModel
) -> Float[Tensor, " particle"]:
    """Mean square of each image in units of the noise, at low frequencies but for the mean."""
    low = disc.truncate(POWER_RADIUS)
    index = torch.arange(len(rows))
    power = [
        (rows[part, 1 : low.n_coefficients] * noise.weight(part, low)[:, 1:]).square().mean(1)
        for part in index.split(READ_BATCH)
    ]
    return torch.cat(power)


def images_from_rows(
    rows: Float[Tensor, "batch coefficient"], disc: Disc, box: int
) -> Float[Tensor, "batch box box"]:
    """Real-space images of ``box`` pixels a side from the leading part of rows."""
    small = make_disc(box, disc.radius).to(rows.device)
    return hartley_to_image(small.scatter(rows[:, : small.n_coefficients]))


def index_batches(index: Int[Tensor, " n"], size: int) -> Iterator[Int[Tensor, " batch"]]:
    """Consecutive batches of an index; the last one may be shorter."""
    yield from index.split(size)


def nyquist_angstrom(spectra: ParticleSpectra) -> float:
    """Shortest period the working box can hold."""
    return 2 * spectra.pixel_size_angstrom


def working_box_for(box: int, pixel_size_angstrom: float, nyquist_target_angstrom: float) -> int:
    """Default working box: Nyquist near the target, even, at most 128 and at most the box itself."""
    wanted = math.ceil(2 * box * pixel_size_angstrom / nyquist_target_angstrom / 2) * 2
    return min(box, wanted, 128)
