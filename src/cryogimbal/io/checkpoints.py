"""Checkpoints of a run: whole or absent, the last two kept, read without running code."""

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cryogimbal.errors import InputError
from cryogimbal.io.atomic import disk_full, is_disk_full, write_atomically
from cryogimbal.io.run_folder import RunFolder

_KEPT_CHECKPOINTS = 2
_CHECKPOINT_NAME = "checkpoint_*.pt"


def save_checkpoint(run: RunFolder, step: int, state: Mapping[str, Any]) -> Path:
    """Write a state and keep the one before it.

    Parameters
    ----------
    run : RunFolder
        The run.
    step : int
        Number of the checkpoint; must grow during a run.
    state : mapping
        Tensors, numbers, texts and containers of them.

    Raises
    ------
    DiskFullError
        If it does not fit; the previous checkpoint is intact.
    """
    path = run.checkpoints / f"checkpoint_{step:08d}.pt"
    if run.metrics.exists():
        # The lines that the state counts must not be lost after it is safe.
        with run.metrics.open("rb") as file:
            os.fsync(file.fileno())
    # Through memory: torch reports a full disk as an error of its archive, not of the disk.
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    try:
        with write_atomically(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
    except OSError as error:
        if is_disk_full(error):
            raise _checkpoint_did_not_fit(run, path) from error
        raise
    for old in list_checkpoints(run)[:-_KEPT_CHECKPOINTS]:
        old.unlink()
    return path


def list_checkpoints(run: RunFolder) -> list[Path]:
    """Checkpoints of a run, the latest last."""
    return sorted(run.checkpoints.glob(_CHECKPOINT_NAME))


def latest_checkpoint(run: RunFolder) -> Path:
    """The last complete checkpoint.

    Raises
    ------
    InputError
        If there is none.
    """
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        raise InputError(
            f"{run.path}: expected a checkpoint to resume from, found none; the run ended before "
            "its first one: start it again with another --out"
        )
    return checkpoints[-1]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a state onto the CPU; only tensors and plain values, never code.

    Raises
    ------
    InputError
        If the file is missing, broken, or holds anything else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    broken = InputError(
        f"{path}: expected a checkpoint, found a broken file of {path.stat().st_size} bytes; "
        "delete it and resume from the one before it"
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
        raise InputError(f"{path}: expected a checkpoint, found {type(state).__name__}")
    return state


def _checkpoint_did_not_fit(run: RunFolder, path: Path) -> OSError:
    error = disk_full(path)
    existing = list_checkpoints(run)
    kept = (
        f"the previous checkpoint {existing[-1].name} is intact: free some space, then "
        f"cryogimbal resume {run.path}"
        if existing
        else "there is no earlier one: free some space and start again with another --out"
    )
    return type(error)(error.errno, f"{path}: no space left for a checkpoint; {kept}")
