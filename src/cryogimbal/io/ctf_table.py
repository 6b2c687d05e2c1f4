"""CTF values as cryoDRGN keeps them: a pickled array with one row of nine numbers per particle.

Columns: box (pixels), pixel size (Å), defocus U and V (Å), angle of U (degrees), voltage (kV),
spherical aberration (mm), amplitude contrast, phase shift (degrees). A pickle may hold any program;
only what makes a NumPy array of numbers is let through.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float

from cryogimbal.data.optics import CtfParameters
from cryogimbal.errors import InputError

N_COLUMNS = 9
# An optics group has one of each.
_SHARED = {5: "voltage", 6: "spherical aberration", 7: "amplitude contrast"}


def read_ctf_table(path: Path) -> CtfParameters:
    """Read a ``ctf.pkl``; box and pixel size, which belong to its images, are left out.

    Raises
    ------
    InputError
        If the file is missing, holds anything but such an array, has values that are not finite, or
        more than one voltage, spherical aberration or amplitude contrast.
    """
    table = _read_array(path)
    if table.ndim != 2 or table.shape[1] != N_COLUMNS or not len(table):
        raise InputError(
            f"{path}: expected {N_COLUMNS} columns of CTF values, found an array of shape "
            f"{tuple(table.shape)}; name a ctf.pkl of cryoDRGN"
        )
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(bad):
        raise InputError(f"{path}: row {bad[0] + 1}: expected finite values; remove the row")
    for column, name in _SHARED.items():
        apart = np.flatnonzero(table[:, column] != table[0, column])
        if len(apart):
            raise InputError(
                f"{path}: row {apart[0] + 1}: expected one {name}, found {table[0, column]:g} and "
                f"{table[apart[0], column]:g}; keep the rows of one optics group"
            )
    columns = torch.from_numpy(table.astype(np.float32)).unbind(-1)
    one = torch.ones(len(table))
    return CtfParameters(
        defocus_u_angstrom=columns[2],
        defocus_v_angstrom=columns[3],
        defocus_angle_rad=torch.deg2rad(columns[4]),
        phase_shift_rad=torch.deg2rad(columns[8]),
        voltage_kilovolt=columns[5],
        spherical_aberration_mm=columns[6],
        amplitude_contrast=columns[7],
        bfactor_angstrom2=0 * one,
        scale=one,
    )


class _ArraysOnly(pickle.Unpickler):
    """Knows the constructors of NumPy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        # The module of the constructors moved from numpy.core to numpy._core in NumPy 2.
        known: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy.multiarray", "_reconstruct"): _constructor(protocol=4),
            ("numpy.numeric", "_frombuffer"): _constructor(protocol=5),
            ("_codecs", "encode"): _latin_bytes,
        }
        found = known.get((module.replace("._core", "").replace(".core", ""), name))
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name} is no array")
        return found


def _constructor(protocol: int) -> Callable[..., Any]:
    """What pickles of this protocol call to make an array."""
    return cast(tuple[Any, ...], np.zeros(1).__reduce_ex__(protocol))[0]


def _latin_bytes(text: str, encoding: str) -> bytes:
    """What protocol 2 calls to make bytes of a text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding} belong to no array")
    return text.encode("latin1")


def _read_array(path: Path) -> Float[np.ndarray, "..."]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected CTF values, a ctf.pkl of cryoDRGN")
    try:
        with path.open("rb") as file:
            found = _ArraysOnly(file).load()
    except (
        pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError,
        AttributeError, UnicodeError, MemoryError, OverflowError, ImportError,
    ) as error:  # fmt: skip
        raise InputError(
            f"{path}: expected a pickled array of CTF values, found something else ({error}); name "
            "a ctf.pkl of cryoDRGN"
        ) from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: expected a pickled array of numbers, found {type(found).__name__}; name a "
            "ctf.pkl of cryoDRGN"
        )
    return found.astype(np.float64)
