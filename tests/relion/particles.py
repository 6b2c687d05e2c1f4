"""Particles that our model and RELION's programs both make: poses, optics and a map in files."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.data.optics import CtfParameters, OpticsGroup
from cryogimbal.data.particles import ArrayImages, ParticleStack
from cryogimbal.data.poses import PoseHypotheses, PoseSet
from cryogimbal.fourier.disc import Disc
from cryogimbal.imaging.ctf import transfer_function
from cryogimbal.imaging.model import ImageModel, ParticleBatch
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.io.mrc import write_density
from cryogimbal.io.star_write import write_simulated_particles
from cryogimbal.rotations import random_rotations

PIXEL_SIZE_ANGSTROM = 3.0
Relion = Callable[..., str]


def microscope(n: int, generator: torch.Generator) -> CtfParameters:
    """300 kV, Cs 2.7 mm, Q 0.1; defocus, astigmatism and phase shift of each particle its own."""
    one = torch.ones(n)
    defocus = 8e3 + 12e3 * torch.rand(n, generator=generator)
    return CtfParameters(
        defocus_u_angstrom=defocus + 800 * torch.rand(n, generator=generator),
        defocus_v_angstrom=defocus,
        defocus_angle_rad=3 * torch.rand(n, generator=generator),
        phase_shift_rad=torch.rand(n, generator=generator),
        voltage_kilovolt=300 * one,
        spherical_aberration_mm=2.7 * one,
        amplitude_contrast=0.1 * one,
        bfactor_angstrom2=0 * one,
        scale=one,
    )


def random_stack(n: int, box: int, generator: torch.Generator) -> ParticleStack:
    """Empty images with random poses, shifts up to 3 pixels, and CTFs."""
    shift_px = 6 * (torch.rand(n, 2, generator=generator) - 0.5)
    optics = OpticsGroup(
        name="opticsGroup1",
        voltage_kilovolt=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
        pixel_size_angstrom=PIXEL_SIZE_ANGSTROM,
        box=box,
    )
    return ParticleStack(
        images=ArrayImages(values=torch.zeros(n, box, box)),
        ctf=microscope(n, generator),
        optics=(optics,),
        optics_index=torch.zeros(n, dtype=torch.long),
        poses=PoseSet(
            rotation=random_rotations(n, generator),
            shift_angstrom=shift_px * PIXEL_SIZE_ANGSTROM,
        ),
    )


def write_inputs(folder: Path, density: Tensor, stack: ParticleStack) -> None:
    """``map.mrc`` and ``particles.star``, which names images in ``particles.mrcs``."""
    values = DensityMap(values=density.float(), voxel_size_angstrom=PIXEL_SIZE_ANGSTROM)
    write_density(folder / "map.mrc", values)
    write_simulated_particles(folder / "particles.star", stack, folder / "particles.mrcs")


def transfer_of(stack: ParticleStack, disc: Disc) -> Tensor:
    """CTF rows of every particle."""
    frequency = disc.frequency_index / (disc.box * stack.pixel_size_angstrom)
    return transfer_function(stack.ctf, frequency)


def predicted_rows(
    density: Tensor, stack: ParticleStack, disc: Disc, transfer: Tensor, oversampling: int
) -> Tensor:
    """What our image model says of every particle."""
    assert stack.poses is not None
    geometry = GridGeometry(box=disc.box, radius=disc.box / 2, oversampling=oversampling)
    model = ImageModel(
        decoder=PreparedGrid.of(geometry.grid_of_density(density.float()), geometry.oversampling)
    )
    box_angstrom = disc.box * stack.pixel_size_angstrom
    hypotheses = PoseHypotheses(
        rotation=stack.poses.rotation[:, None],
        shift_box=stack.poses.shift_angstrom[:, None] / box_angstrom,
    )
    batch = ParticleBatch(
        disc=disc,
        observed=torch.zeros_like(transfer),
        ctf=transfer,
        index=torch.arange(len(stack)),
    )
    return model.predict(hypotheses, batch)[:, 0]


def correlation_per_image(a: Tensor, b: Tensor) -> Tensor:
    """Cosine between rows."""
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
