"""Checkpoints of a run: whole or absent, the last two kept, read without running code."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryogimbal.errors import InputError
from cryogimbal.io.atomic import disk_full, is_disk_full
from cryogimbal.io.run_folder import RunFolder
from cryogimbal.io.tensor_files import read_tensors, write_tensors

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
    try:
        write_tensors(path, state)
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
    return read_tensors(
        path,
        expected="a checkpoint",
        advice="delete it and resume from the one before it",
    )


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
