"""The MRC2014 header: read in either byte order, checked against the file's size, written."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mrcfile.utils
import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from cryogimbal.errors import InputError

HEADER_BYTES = HEADER_DTYPE.itemsize
# Modes with one real number per pixel; 3, 4 are complex, 101 packs two pixels in a byte.
_REAL_MODES = (0, 1, 2, 6, 12)
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True)
class MrcHeader:
    """What is needed to read an MRC file's numbers."""

    path: Path
    shape: tuple[int, int, int]
    """Sections, rows, columns: the order in the file."""
    dtype: np.dtype
    data_offset: int
    axes: tuple[int, int, int]
    """Axis (1 = x, 2 = y, 3 = z) along sections, rows, columns: MAPS, MAPR, MAPC."""
    spacing_angstrom: tuple[float, float, float]
    """Sampling along x, y, z; 0 where the header does not say."""
    sections_per_volume: int
    """MZ: 1 marks a stack of images."""

    @property
    def section_bytes(self) -> int:
        """Bytes of one section."""
        return self.shape[1] * self.shape[2] * self.dtype.itemsize


def read_mrc_header(path: Path) -> MrcHeader:
    """Read and check a header; the numbers are not touched.

    A file without the map identifier or the machine stamp (older programs leave them out) is taken
    when its size is exactly what its header says.

    Raises
    ------
    InputError
        If the file is missing, no MRC file, of a mode without real numbers, or shorter than its
        header says.
    """
    raw, file_bytes = _first_bytes(path)
    header = cast(Any, _in_its_byte_order(path, raw))
    shape = (int(header["nz"]), int(header["ny"]), int(header["nx"]))
    offset = HEADER_BYTES + int(header["nsymbt"])
    dtype = mrcfile.utils.dtype_from_mode(int(header["mode"])).newbyteorder(
        header.dtype["mode"].byteorder
    )
    if min(shape) < 1 or offset < HEADER_BYTES:
        raise _not_mrc(path, f"its header gives the size {shape[2]} x {shape[1]} x {shape[0]}")
    expected = offset + dtype.itemsize * shape[0] * shape[1] * shape[2]
    if file_bytes < expected:
        raise InputError(
            f"{path}: the file is cut short: expected {expected} bytes for {shape[0]} sections of "
            f"{shape[1]} x {shape[2]} (mode {header['mode']}), found {file_bytes}; copy it again"
        )
    if bytes(header["map"])[:3] != b"MAP" and file_bytes != expected:
        raise _not_mrc(path, "it has no map identifier and its size does not fit its header")
    return MrcHeader(
        path=path,
        shape=shape,
        dtype=dtype,
        data_offset=offset,
        axes=_axes(path, header),
        spacing_angstrom=_spacing(header),
        sections_per_volume=int(header["mz"]),
    )


def header_bytes(
    shape: tuple[int, int, int],
    spacing_angstrom: float,
    statistics: tuple[float, float, float, float],
    *,
    space_group: int,
) -> bytes:
    """Little-endian header of float32 numbers, origin and start 0.

    Parameters
    ----------
    shape : tuple of int
        Sections, rows, columns.
    spacing_angstrom : float
        Sampling along all axes.
    statistics : tuple of float
        Minimum, maximum, mean and standard deviation of the numbers.
    space_group : int
        1 for a volume, 0 for a stack of images.
    """
    # numpy's annotations know no records.
    header = cast(Any, np.zeros((), dtype=HEADER_DTYPE.newbyteorder("<")))
    sections, rows, columns = shape
    volume_sections = 1 if space_group == 0 else sections
    header["nx"], header["ny"], header["nz"] = columns, rows, sections
    header["mx"], header["my"], header["mz"] = columns, rows, volume_sections
    header["mode"] = 2
    header["cella"] = tuple(n * spacing_angstrom for n in (columns, rows, volume_sections))
    header["cellb"] = (90.0, 90.0, 90.0)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["dmin"], header["dmax"], header["dmean"], header["rms"] = statistics
    header["ispg"] = space_group
    header["nversion"] = 20140
    header["map"] = b"MAP "
    header["machst"] = (0x44, 0x44, 0, 0)
    header["nlabl"] = 1
    # No date: equal runs write equal files.
    header["label"][0] = b"cryogimbal"
    return header.tobytes()


def _first_bytes(path: Path) -> tuple[bytes, int]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        raw = file.read(HEADER_BYTES)
    if raw.startswith(_GZIP_MAGIC):
        raise _not_mrc(path, "it is compressed; unpack it with gunzip")
    if len(raw) < HEADER_BYTES:
        raise InputError(
            f"{path}: not an MRC file, or cut short: expected a header of {HEADER_BYTES} bytes, "
            f"found {len(raw)}; copy it again"
        )
    return raw, path.stat().st_size


def _in_its_byte_order(path: Path, raw: bytes) -> np.void:
    little = np.frombuffer(raw, dtype=HEADER_DTYPE.newbyteorder("<"))[0]
    big = np.frombuffer(raw, dtype=HEADER_DTYPE.newbyteorder(">"))[0]
    try:
        stamped = mrcfile.utils.byte_order_from_machine_stamp(little["machst"])
    except ValueError:
        stamped = "<"
    # Some files carry the stamp of the wrong order: then only the other gives a sensible header.
    likely_first = (big, little) if stamped == ">" else (little, big)
    for header in likely_first:
        if int(header["mode"]) in _REAL_MODES and int(header["nx"]) > 0:
            return header
    raise _not_mrc(path, f"its mode is {likely_first[0]['mode']}")


def _axes(path: Path, header: np.void) -> tuple[int, int, int]:
    axes = (int(header["maps"]), int(header["mapr"]), int(header["mapc"]))
    if axes == (0, 0, 0):
        return (3, 2, 1)
    if sorted(axes) != [1, 2, 3]:
        raise _not_mrc(path, f"its axis order MAPC, MAPR, MAPS is {axes[::-1]}")
    return axes


def _spacing(header: np.void) -> tuple[float, float, float]:
    def along(axis: str, count: str) -> float:
        n, cell = int(header[count]), float(header["cella"][axis])
        return cell / n if n > 0 and math.isfinite(cell) and cell > 0 else 0.0

    return along("x", "mx"), along("y", "my"), along("z", "mz")


def _not_mrc(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path}: not an MRC file that can be read: {reason}; expected an MRC2014 file of mode 0 "
        "(int8), 1 (int16), 2 (float32), 6 (uint16) or 12 (float16)"
    )
