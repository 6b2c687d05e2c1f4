"""Files of a folder that belong together, replaced all or none.

New versions are made in a hidden folder beside the old ones. Renaming that folder is the one step that
decides: before it the old files stand, after it the new ones are moved into place, by the next call if a
crash comes in between.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BEGUN, _DECIDED = ".replacing.partial", ".replacing"


@contextmanager
def replace_together(folder: Path) -> Iterator[Path]:
    """Give an empty folder for new versions of files; put them all in place if the block succeeds."""
    finish_replacing(folder)
    begun = folder / _BEGUN
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir()
    try:
        yield begun
        begun.rename(folder / _DECIDED)
        _flush(folder)
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    finish_replacing(folder)


def finish_replacing(folder: Path) -> bool:
    """Move into place what an interrupted replacement has left; whether there was any."""
    decided = folder / _DECIDED
    if not decided.is_dir():
        return False
    for file in sorted(decided.iterdir()):
        file.replace(folder / file.name)
    decided.rmdir()
    _flush(folder)
    return True


def is_half_replaced(folder: Path) -> bool:
    """Whether a replacement was interrupted after it was decided."""
    return (folder / _DECIDED).is_dir()


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
