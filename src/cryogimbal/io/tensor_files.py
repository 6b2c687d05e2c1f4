"""Files of tensors and plain values: whole or absent, and read without running code."""

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cryogimbal.errors import InputError
from cryogimbal.io.atomic import write_atomically


def write_tensors(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers, texts and containers of them.

    Raises
    ------
    InputError
        If the folder does not exist.
    DiskFullError
        If they do not fit; an earlier file of that name is intact.
    """
    # Through memory: torch reports a full disk as an error of its archive, not of the disk.
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    with write_atomically(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_tensors(path: Path, *, expected: str, advice: str) -> dict[str, Any]:
    """Read a file of :func:`write_tensors` onto the CPU; only tensors and plain values, never code.

    ``expected`` says what the file should be, ``advice`` what to do if it is broken.

    Raises
    ------
    InputError
        If the file is broken or holds anything else.
    """
    broken = InputError(
        f"{path}: expected {expected}, found a broken file of {path.stat().st_size} bytes; {advice}"
    )
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.load itself does not compare the checksums that torch.save wrote.
            if archive.testzip() is not None:
                raise broken
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise broken from error
    if not isinstance(state, dict):
        raise InputError(f"{path}: expected {expected}, found {type(state).__name__}")
    return state
