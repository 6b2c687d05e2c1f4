"""Densities and image stacks in MRC files."""

import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.io.atomic import write_atomically
from cryogimbal.io.mrc_header import HEADER_BYTES, MrcHeader, header_bytes, read_mrc_header

# Headers round cell lengths: a voxel counts as cubic up to this relative difference of its sides.
_CUBIC_TOLERANCE = 1e-3


def read_density(path: Path, voxel_size_angstrom: float | None = None) -> DensityMap:
    """Read a cubic density as float32, axes (z, y, x) whatever their order in the file.

    Parameters
    ----------
    path : Path
        The file.
    voxel_size_angstrom : float, optional
        Replaces the header's value; needed where the header has none.

    Raises
    ------
    InputError
        If the file is no MRC file, is cut short, holds images or no cube, has voxels of unequal
        sides or none given, or holds values that are not finite.
    """
    header = read_mrc_header(path)
    _require_volume(header)
    stored = np.fromfile(
        path, dtype=header.dtype, count=math.prod(header.shape), offset=header.data_offset
    ).reshape(header.shape)
    to_zyx = tuple(header.axes.index(axis) for axis in (3, 2, 1))
    values = np.ascontiguousarray(stored.transpose(to_zyx), dtype=np.float32)
    n_bad = int(np.count_nonzero(~np.isfinite(values)))
    if n_bad:
        z, y, x = np.argwhere(~np.isfinite(values))[0]
        raise InputError(
            f"{path}: expected finite values, found {n_bad} that are NaN or infinite, the first at "
            f"(z, y, x) = ({z}, {y}, {x}); write the map again with the program it came from"
        )
    if voxel_size_angstrom is None:
        voxel_size_angstrom = _cubic_spacing(header)
    return DensityMap(values=torch.from_numpy(values), voxel_size_angstrom=voxel_size_angstrom)


def write_density(path: Path, density: DensityMap) -> None:
    """Write float32 with origin and start 0, so that maps overlay with RELION's in a viewer."""
    values = density.values.detach().cpu().numpy().astype("<f4")
    statistics = (
        float(values.min()),
        float(values.max()),
        float(values.mean(dtype=np.float64)),
        float(values.std(dtype=np.float64)),
    )
    shape = (density.box, density.box, density.box)
    header = header_bytes(shape, density.voxel_size_angstrom, statistics, space_group=1)
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        file.write(header)
        file.write(values.tobytes())


class MrcStack:
    """Square images of one MRC file, read where they lie.

    Reading goes through the file's descriptor and not through a memory map: a file that shrinks
    during a run is then an error with a name, not a signal that ends the process.
    """

    def __init__(self, path: Path) -> None:
        header = read_mrc_header(path)
        _, rows, columns = header.shape
        if rows != columns:
            raise InputError(
                f"{path}: expected square images, found {columns} x {rows} pixels; "
                "extract the particles again with a square box"
            )
        if header.axes[0] != 3:
            raise InputError(
                f"{path}: expected images one after the other (MAPS = 3), found sections along "
                f"{'xyz'[header.axes[0] - 1]}; write the stack again with its axes in order"
            )
        self.header = header
        self._file: int | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return self.header.path

    @property
    def n_images(self) -> int:
        """Number of images."""
        return self.header.shape[0]

    @property
    def box(self) -> int:
        """Pixels a side."""
        return self.header.shape[-1]

    @property
    def pixel_size_angstrom(self) -> float:
        """Sampling that the header gives; 0 if it gives none."""
        return self.header.spacing_angstrom[0]

    @property
    def is_open(self) -> bool:
        """Whether the stack holds a file descriptor."""
        return self._file is not None

    def read(self, section: int) -> Float[np.ndarray, "box box"]:
        """One image (counted from 0) as float32, axes (y, x).

        Raises
        ------
        InputError
            If the file vanished or became shorter since its header was read.
        """
        size = self.header.section_bytes
        try:
            if self._file is None:
                self._file = os.open(self.path, os.O_RDONLY)
            raw = os.pread(self._file, size, self.header.data_offset + section * size)
        except FileNotFoundError as error:
            raise InputError(
                f"{self.path}: the file was removed while it was in use; put it back"
            ) from error
        if len(raw) != size:
            raise InputError(
                f"{self.path}: the file became shorter while it was in use: expected {size} bytes "
                f"for image {section + 1}, found {len(raw)}; put the whole file back"
            )
        image = np.frombuffer(raw, dtype=self.header.dtype).reshape(self.box, self.box)
        image = image.astype(np.float32)
        return image if self.header.axes[1:] == (2, 1) else np.ascontiguousarray(image.T)

    def close(self) -> None:
        """Give the file descriptor back; the next read opens the file again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def write_image_stack(
    path: Path,
    chunks: Iterable[Float[Tensor, "_ _ _"]],
    pixel_size_angstrom: float,
) -> int:
    """Write images as they come, float32, and return their number.

    Parameters
    ----------
    path : Path
        The stack; RELION wants the suffix ``.mrcs``.
    chunks : iterable of Tensor
        Groups of images, all of one box; never held together in memory.
    pixel_size_angstrom : float
        Sampling, for the header.

    Raises
    ------
    InputError
        If there is no image, or the boxes differ.
    DiskFullError
        If the images do not fit; no part of them is left.
    """
    summary = _Summary()
    box: int | None = None
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        file.write(bytes(HEADER_BYTES))
        for chunk in chunks:
            box = box or chunk.shape[-1]
            if tuple(chunk.shape[1:]) != (box, box):
                raise InputError(
                    f"{path}: expected images of {box} x {box} pixels, found "
                    f"{chunk.shape[2]} x {chunk.shape[1]} at image {summary.n_images + 1}"
                )
            values = chunk.detach().cpu().numpy().astype("<f4")
            summary.add(values)
            file.write(values.tobytes())
        if box is None or summary.n_images == 0:
            raise InputError(f"{path}: expected at least one image to write, found none")
        file.seek(0)
        shape = (summary.n_images, box, box)
        file.write(header_bytes(shape, pixel_size_angstrom, summary.statistics(), space_group=0))
    return summary.n_images


class _Summary:
    """Running minimum, maximum, mean and standard deviation."""

    def __init__(self) -> None:
        self.n_images = 0
        self._n = 0
        self._sum = 0.0
        self._sum_of_squares = 0.0
        self._minimum, self._maximum = math.inf, -math.inf

    def add(self, values: Float[np.ndarray, "chunk box box"]) -> None:
        wide = values.astype(np.float64)
        self.n_images += values.shape[0]
        self._n += wide.size
        self._sum += float(wide.sum())
        self._sum_of_squares += float(np.square(wide).sum())
        if wide.size:
            self._minimum = min(self._minimum, float(wide.min()))
            self._maximum = max(self._maximum, float(wide.max()))

    def statistics(self) -> tuple[float, float, float, float]:
        mean = self._sum / self._n
        variance = max(self._sum_of_squares / self._n - mean**2, 0.0)
        return self._minimum, self._maximum, mean, math.sqrt(variance)


def _require_volume(header: MrcHeader) -> None:
    sections, rows, columns = header.shape
    is_stack = header.sections_per_volume == 1 and sections > 1
    if is_stack or header.path.suffix == ".mrcs":
        raise InputError(
            f"{header.path}: expected a density, found a stack of {sections} images; "
            "name a map (.mrc)"
        )
    if not sections == rows == columns:
        raise InputError(
            f"{header.path}: expected a cube, found {columns} x {rows} x {sections} voxels; "
            "crop or pad the map to a cube"
        )


def _cubic_spacing(header: MrcHeader) -> float:
    x, y, z = header.spacing_angstrom
    if min(x, y, z) <= 0:
        raise InputError(
            f"{header.path}: the header gives no voxel size (found {x:g} x {y:g} x {z:g} Å); "
            "state it, or write it into the header (relion_image_handler --force_header_angpix, "
            "or mrcfile)"
        )
    if max(x, y, z) - min(x, y, z) > _CUBIC_TOLERANCE * max(x, y, z):
        raise InputError(
            f"{header.path}: expected cubic voxels, found {x:g} x {y:g} x {z:g} Å; "
            "resample the map to equal sides"
        )
    return x
