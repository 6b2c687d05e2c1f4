"""Particle tables of RELION 3.0, 3.1, 4 and 5: reading.

Other programs write the same dialects. Shifts change sign here and angles leave degrees here.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from cryogimbal.data.optics import OpticsGroup
from cryogimbal.data.particles import ParticleStack
from cryogimbal.data.poses import PoseSet
from cryogimbal.errors import InputError
from cryogimbal.io.stack_images import StackImages
from cryogimbal.io.star_aberrations import read_aberrations
from cryogimbal.io.star_optics import TableOptics, read_optics, read_pixel_size
from cryogimbal.io.star_table import (
    ANGLES,
    ORIGIN_ANGSTROM,
    ORIGIN_PIXEL,
    StarTable,
    image_names,
    read_table,
    table_euler_deg,
    table_shifts_angstrom,
)
from cryogimbal.rotations import euler_zyz_deg_to_rotation


def read_particles(path: Path, image_root: Path | None = None) -> tuple[ParticleStack, StarTable]:
    """Read a particle table; of the images only the headers.

    A particle's own CTF columns come before those of its optics group. Where both lack a value
    RELION's default is used: 200 kV, spherical aberration 0, amplitude contrast 0, defocus V equal
    to U, defocus angle 0 (each told in ``StarTable.warnings``), phase shift 0, B-factor 0, scale 1.

    Parameters
    ----------
    path : Path
        The STAR file.
    image_root : Path, optional
        A further folder to look for images, after the working folder, the table's folder and its
        parents; paths are tried there with and without their folder part.

    Returns
    -------
    ParticleStack, StarTable
        ``poses`` where the table has all three angles, ``given_shift_angstrom`` where it has
        origins; the table, to be written again by ``write_particles``.

    Raises
    ------
    InputError
        If the table or its images cannot be used as they are; the message names the row.
    """
    table = read_table(path)
    optics = read_optics(table)
    images = StackImages(path, image_names(table), image_root)
    groups = _optics_groups(path, optics, images)
    pixel_size = optics.pixel_size_angstrom[optics.index]
    shift = table_shifts_angstrom(table, pixel_size)
    stack = ParticleStack(
        images=images,
        ctf=optics.ctf,
        optics=groups,
        optics_index=torch.from_numpy(optics.index),
        poses=_poses(table_euler_deg(table), shift),
        given_shift_angstrom=None if shift is None else _float32(shift),
    )
    table = replace(table, warnings=optics.warnings, aberrations=read_aberrations(table))
    return stack, replace(table, image_files=images.files)


def read_poses(path: Path) -> PoseSet:
    """Poses of a table, whose images need not be there; shifts are 0 where it has no origins.

    Raises
    ------
    InputError
        If the table has no angles, or origins in pixels and no pixel size.
    """
    table = read_table(path)
    euler_deg = table_euler_deg(table)
    if euler_deg is None:
        raise InputError(
            f"{path}: table data_{table.particles.name}: expected angles, found not all of "
            f"_{', _'.join(ANGLES)}; name a table of refined particles"
        )
    in_pixels = table.has(ORIGIN_PIXEL) and not table.has(ORIGIN_ANGSTROM)
    pixel_size = read_pixel_size(table) if in_pixels else np.ones(table.n_particles)
    poses = _poses(euler_deg, table_shifts_angstrom(table, pixel_size))
    assert poses is not None
    return poses


def _poses(
    euler_deg: Float[np.ndarray, "particle 3"] | None,
    shift_angstrom: Float[np.ndarray, "particle 2"] | None,
) -> PoseSet | None:
    if euler_deg is None:
        return None
    if shift_angstrom is None:
        shift_angstrom = np.zeros((len(euler_deg), 2))
    rotation = euler_zyz_deg_to_rotation(torch.from_numpy(euler_deg))
    return PoseSet(rotation=rotation.float(), shift_angstrom=_float32(shift_angstrom))


def _float32(values: Float[np.ndarray, "..."]) -> Float[torch.Tensor, "..."]:
    return torch.from_numpy(values.astype(np.float32))


def _optics_groups(path: Path, optics: TableOptics, images: StackImages) -> tuple[OpticsGroup, ...]:
    boxes = images.box_per_row
    first = np.unique(optics.index, return_index=True)[1]
    declared = optics.declared_box[optics.index]
    bad = np.flatnonzero((declared != 0) & (declared != boxes))
    if len(bad):
        row = int(bad[0])
        raise InputError(
            f"{path}: row {row + 1}: expected a box of {declared[row]} pixels as the table says of "
            f"optics group '{optics.names[optics.index[row]]}', found {boxes[row]} in "
            f"{images.file_of(row)}; the stack or the table belongs to another extraction"
        )
    bad = np.flatnonzero(boxes != boxes[first][optics.index])
    if len(bad):
        row = int(bad[0])
        group = int(optics.index[row])
        raise InputError(
            f"{path}: row {row + 1}: image {images.names.name(row)} in {images.file_of(row)}: "
            f"expected a box of {boxes[first[group]]} pixels as in row {first[group] + 1}, which is of "
            f"the same optics group '{optics.names[group]}', found {boxes[row]}; give images of "
            "another box an optics group of their own"
        )
    ctf = optics.ctf
    return tuple(
        OpticsGroup(
            name=name,
            voltage_kilovolt=float(ctf.voltage_kilovolt[row]),
            spherical_aberration_mm=float(ctf.spherical_aberration_mm[row]),
            amplitude_contrast=float(ctf.amplitude_contrast[row]),
            pixel_size_angstrom=float(size),
            box=int(boxes[row]),
            treatment=treatment,
        )
        for name, size, row, treatment in zip(
            optics.names, optics.pixel_size_angstrom, first, optics.treatment, strict=True
        )
    )
