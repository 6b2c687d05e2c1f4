"""Particle tables of RELION: writing poses into a table as it was read, and new tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from cryogimbal.data.particles import ParticleStack
from cryogimbal.data.poses import PoseSet
from cryogimbal.io.atomic import write_text_atomically
from cryogimbal.io.image_paths import find_image_file
from cryogimbal.io.star_edit import quoted, replace_columns
from cryogimbal.io.star_half_sets import half_set_columns
from cryogimbal.io.star_optics import read_pixel_size
from cryogimbal.io.star_table import (
    ANGLES,
    IMAGE_NAME,
    ORIGIN_ANGSTROM,
    ORIGIN_PIXEL,
    StarTable,
    image_names,
)
from cryogimbal.rotations import rotation_to_euler_zyz_deg

_OPTICS_HEADER = (
    "rlnOpticsGroupName",
    "rlnOpticsGroup",
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnImagePixelSize",
    "rlnImageSize",
    "rlnImageDimensionality",
)
_PARTICLE_HEADER = (
    IMAGE_NAME,
    "rlnOpticsGroup",
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnPhaseShift",
    "rlnCtfBfactor",
    "rlnCtfScalefactor",
)
_VERSION = "# version 30001"
CLASS_NUMBER = "rlnClassNumber"


def write_particles(
    path: Path,
    table: StarTable,
    poses: PoseSet,
    half_set: Int[Tensor, " particle"] | None = None,
    class_number: Int[Tensor, " particle"] | None = None,
    others: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write a table as it was read, with angles and origins replaced or added.

    Every other table, column, comment and number stays to the letter. Origins are written in the
    columns that the table has, in both if it has both; where it has none they are added only if
    some shift is not 0, in Å, or in pixels where there is no optics table (RELION 3.0).

    A relative image path is kept where a reader finds the same file from the new table's folder
    (working folder, that folder, its parents); otherwise it becomes absolute. RELION itself looks
    only from its project folder.

    Parameters
    ----------
    path : Path
        The new file; it may be the one that was read.
    table : StarTable
        From ``read_particles``; its ``image_files`` say which files are meant.
    poses : PoseSet
        One pose for each row of the table.
    half_set : Tensor, optional
        The half (1 or 2) that each particle belongs to, written over what the table has.
    class_number : Tensor, optional
        The class of each, from 1, likewise.
    others : mapping, optional
        Further columns, a text for each row.

    Raises
    ------
    ValueError
        If the numbers of poses and rows differ.
    """
    if len(poses) != table.n_particles:
        raise ValueError(f"{len(poses)} poses for the {table.n_particles} rows of {table.path}")
    values = {**_angle_columns(poses), **_origin_columns(table, poses)}
    if half_set is not None:
        values |= half_set_columns(half_set)
    if class_number is not None:
        values[CLASS_NUMBER] = [str(number) for number in class_number.tolist()]
    write_table(path, table, {**values, **(others or {})})


def with_image_files(table: StarTable) -> StarTable:
    """The table with the files of its images, where they can be found: their paths are to hold."""
    found = [find_image_file(written, table.path.parent) for written in image_names(table).written]
    files = tuple(file for file in found if file is not None)
    return replace(table, image_files=files if len(files) == len(found) else ())


def write_table(path: Path, table: StarTable, values: Mapping[str, Sequence[str]]) -> None:
    """Write a table as it was read, with some columns replaced or added.

    Paths of images follow as :func:`write_particles` says; ``values`` has a text for each row.
    """
    values = dict(values)
    if table.image_files:
        names = _names_to_be_found(path, table)
        if names is not None:
            values[IMAGE_NAME] = names
    write_text_atomically(path, replace_columns(table.document, table.particles, values).text)


@dataclass(frozen=True, kw_only=True)
class SimulatedImageFile:
    """A file of simulated images, all of one optics group."""

    path: Path
    stack: ParticleStack
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further columns: a text for each image."""


def write_simulated_particles(path: Path, stack: ParticleStack, image_file: Path) -> None:
    """Write a new RELION 3.1 table for the images of one file, in their order.

    Parameters
    ----------
    path : Path
        The table.
    stack : ParticleStack
        Optics, CTF and, if the table is to have them, poses.
    image_file : Path
        The images; written relative to the table's folder if they lie in it or below.
    """
    write_simulated_files(path, [SimulatedImageFile(path=image_file, stack=stack)])


def write_simulated_files(path: Path, files: Sequence[SimulatedImageFile]) -> None:
    """Write a new RELION 3.1 table for the images of several files, one file after the other.

    Optics groups are numbered in the order of the files. All files have poses or none, and the same
    labels.

    Parameters
    ----------
    path : Path
        The table.
    files : sequence of SimulatedImageFile
        Written relative to the table's folder if they lie in it or below.
    """
    optics: list[list[str]] = []
    columns: dict[str, list[str]] = {}
    rows: list[list[str]] = []
    for file in files:
        rows += _simulated_rows(file.stack, _written_path(path, file.path), len(optics))
        optics += _optics_rows(file.stack, len(optics))
        for name, values in _columns_behind(file).items():
            columns.setdefault(name, []).extend(values)
    if columns:
        rows = [
            [*row, *more]
            for row, more in zip(rows, zip(*columns.values(), strict=True), strict=True)
        ]
    lines = [
        *_table_lines("optics", _OPTICS_HEADER, optics),
        *_table_lines("particles", (*_PARTICLE_HEADER, *columns), rows),
    ]
    write_text_atomically(path, "\n".join(lines) + "\n")


def _columns_behind(file: SimulatedImageFile) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    if file.stack.poses is not None:
        columns = {**_angle_columns(file.stack.poses), **_angstrom_columns(file.stack.poses)}
    return columns | {name: list(values) for name, values in file.labels.items()}


def _written_path(table: Path, image_file: Path) -> str:
    folder, images = table.parent.resolve(), image_file.resolve()
    return str(images.relative_to(folder) if images.is_relative_to(folder) else images)


def _optics_rows(stack: ParticleStack, n_before: int) -> list[list[str]]:
    return [
        [
            group.name,
            str(number),
            *_decimals(
                group.voltage_kilovolt,
                group.spherical_aberration_mm,
                group.amplitude_contrast,
                group.pixel_size_angstrom,
            ),
            str(group.box),
            "2",
        ]
        for number, group in enumerate(stack.optics, start=n_before + 1)
    ]


def _table_lines(name: str, header: tuple[str, ...], rows: Iterable[list[str]]) -> list[str]:
    columns = [f"_{column} #{number} " for number, column in enumerate(header, start=1)]
    values = [" ".join(f"{quoted(value):>12}" for value in row) for row in rows]
    return ["", _VERSION, "", f"data_{name}", "", "loop_ ", *columns, *values, ""]


def _simulated_rows(stack: ParticleStack, written: str, n_before: int) -> list[list[str]]:
    ctf = stack.ctf
    numbers = torch.stack(
        [
            ctf.defocus_u_angstrom,
            ctf.defocus_v_angstrom,
            torch.rad2deg(ctf.defocus_angle_rad),
            torch.rad2deg(ctf.phase_shift_rad),
            ctf.bfactor_angstrom2,
            ctf.scale,
        ],
        dim=-1,
    )
    groups = stack.optics_index.tolist()
    return [
        [f"{row + 1:06d}@{written}", str(groups[row] + n_before + 1), *_decimals(*values)]
        for row, values in enumerate(numbers.tolist())
    ]


def _angle_columns(poses: PoseSet) -> dict[str, list[str]]:
    euler_deg = rotation_to_euler_zyz_deg(poses.rotation.detach().cpu().double())
    return {
        name: _decimals(*column.tolist()) for name, column in zip(ANGLES, euler_deg.T, strict=True)
    }


def _angstrom_columns(poses: PoseSet) -> dict[str, list[str]]:
    # The table's origin moves the particle to the centre: the opposite of its displacement.
    origin = -poses.shift_angstrom.detach().cpu().double()
    return {
        name: _decimals(*column.tolist())
        for name, column in zip(ORIGIN_ANGSTROM, origin.T, strict=True)
    }


def _origin_columns(table: StarTable, poses: PoseSet) -> dict[str, list[str]]:
    has_angstrom, has_pixel = table.has(ORIGIN_ANGSTROM), table.has(ORIGIN_PIXEL)
    if not (has_angstrom or has_pixel):
        if not poses.shift_angstrom.any():
            return {}
        has_angstrom, has_pixel = table.optics is not None, table.optics is None
    columns = _angstrom_columns(poses) if has_angstrom else {}
    if has_pixel:
        origin = -poses.shift_angstrom.detach().cpu().double().numpy()
        in_pixels = origin / read_pixel_size(table)[:, None]
        for name, column in zip(ORIGIN_PIXEL, in_pixels.T, strict=True):
            columns[name] = _decimals(*column.tolist())
    return columns


def _names_to_be_found(path: Path, table: StarTable) -> list[str] | None:
    """Image names with the paths that a reader of ``path`` needs; none if all can stay."""
    names = image_names(table)
    paths = [
        written if _found_again(written, path, file) else str(file)
        for written, file in zip(names.written, table.image_files, strict=True)
    ]
    if paths == list(names.written):
        return None
    return [names.name_in(row, paths[names.file_index[row]]) for row in range(len(names))]


def _found_again(written: str, path: Path, file: Path) -> bool:
    found = find_image_file(written, path.parent)
    return found is not None and found.samefile(file)


def _decimals(*values: float) -> list[str]:
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return [f"{round(value, 6) + 0.0:.6f}" for value in values]
