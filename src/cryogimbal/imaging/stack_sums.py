"""Back-projection of images straight from their files: nothing but a few images is held at a time.

The search works on cropped rows that it keeps in memory. The last maps are made from the whole band
of the images as they are stored, read once more.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from cryogimbal.data.particles import ParticleStack
from cryogimbal.data.poses import PoseSet
from cryogimbal.fourier.disc import Disc, make_disc
from cryogimbal.imaging.backgrounds import Backgrounds
from cryogimbal.imaging.backprojection import SufficientStatistics
from cryogimbal.imaging.ctf import transfer_function
from cryogimbal.imaging.image_rows import places_of_one_kind, rows_of_images, transfer_rows
from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.noise import NoiseModel
from cryogimbal.imaging.shifts import shift_row
from cryogimbal.imaging.spectra import silent_optics
from cryogimbal.imaging.symmetrisation import sum_on_grid, turned_off_grid
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.symmetry import SymmetryGroup

# Pixels read at a time: 256 images of 128 pixels a side.
PIXELS_AT_ONCE = 256 * 128**2


@dataclass(frozen=True, kw_only=True)
class StackReading:
    """How images become rows: background normalised, cropped to a box, noise whitened."""

    box: int
    """Pixels a side after Fourier cropping, at most the images'."""
    particle_diameter_angstrom: float | None = None
    """Background is what lies outside this circle; the inscribed circle where none is given."""
    contrast_sign: float = 1.0
    """Factor of every normalised image: 1 for light particles, -1 for dark ones."""
    noise: NoiseModel | None = None
    """Noise per shell of each optics group, of which the last shell stands for all beyond, and the
    scale of each particle; none: white, and all particles as strong as each other."""
    device: torch.device | str = "cpu"

    def disc(self) -> Disc:
        """All frequencies below the box's Nyquist frequency."""
        return make_disc(self.box).to(self.device)


def centred_batches(
    stack: ParticleStack, poses: PoseSet, index: Int[Tensor, " chosen"], reading: StackReading
) -> Iterator[ParticleBatch]:
    """Chosen images moved to their centres by their shifts, with their CTFs, batch by batch.

    Row and CTF of an image are both divided by the noise's standard deviation, so that its noise is
    1 in every coefficient; the CTF contains the particle's scale. Shifts are displacements from the
    box centre (see docs/conventions.md).

    Raises
    ------
    InputError
        If an image has no background to normalise by, or cannot be read.
    """
    disc, device = reading.disc(), reading.device
    width_angstrom = stack.box * stack.pixel_size_angstrom
    frequency = disc.frequency_index / width_angstrom
    backgrounds = Backgrounds(stack, reading.particle_diameter_angstrom)
    silent = silent_optics(stack)
    for batch in index.cpu().split(max(1, PIXELS_AT_ONCE // stack.box**2)):
        for group, places in places_of_one_kind(stack, batch):
            part = batch[places]
            images = backgrounds.normalised(stack.images.read(part), group, part)
            values = stack.ctf[part].to(device)
            rows = rows_of_images(images.to(device), values, group, disc, width_angstrom)
            shift_box = poses.shift_angstrom[part].to(device) / width_angstrom
            rows = shift_row(reading.contrast_sign * rows, -shift_box, disc)
            ctf = transfer_function(values, frequency)
            if silent:
                numbers = stack.optics_index[part].to(device)
                ctf = transfer_rows(ctf, silent, numbers, disc, width_angstrom)
            if reading.noise is not None:
                noise = reading.noise.subset(part.to(reading.noise.group.device)).to(disc.device)
                whiten = noise.weight(torch.arange(len(part), device=disc.device), disc)
                rows, ctf = rows * whiten, ctf * whiten * noise.scale[:, None]
            yield ParticleBatch(disc=disc, observed=rows, ctf=ctf, index=part)


def sum_stack(
    stack: ParticleStack,
    poses: PoseSet,
    index: Int[Tensor, " chosen"],
    reading: StackReading,
    geometry: GridGeometry,
    group: SymmetryGroup,
) -> SufficientStatistics:
    """CTF-weighted back-projection of the chosen images, at all poses that the group makes the same.

    Raises
    ------
    InputError
        As :func:`centred_batches`.
    """
    statistics = SufficientStatistics.zeros(geometry, torch.device(reading.device))
    for batch in centred_batches(stack, poses, index, reading):
        rotation = poses.rotation[batch.index].to(batch.observed)
        image = torch.arange(len(rotation), device=rotation.device)
        share = torch.ones_like(rotation[:, 0, 0])
        if reading.noise is not None:
            share = reading.noise.trust[batch.index.to(reading.noise.trust.device)].to(share)
        for turned in turned_off_grid(Hypotheses(rotation=rotation, image=image), group):
            statistics.add_hypotheses(batch, turned, share, geometry.oversampling)
    return sum_on_grid(statistics, group)
