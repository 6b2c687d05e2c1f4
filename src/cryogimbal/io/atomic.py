"""Whole files or none: what is written appears under its name only when it is complete."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryogimbal.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(OSError):
    """A file could not be written for lack of space; an earlier file of that name is intact."""


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` if the block succeeds.

    The temporary file is flushed to the disk before the rename and removed after a failure, so
    that a reader, a crash or a full disk never meets half a file.

    Raises
    ------
    InputError
        If the folder does not exist.
    DiskFullError
        If the disk, the quota or the file-size limit is exhausted.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; create it first")
    # One fixed name per file: what a killed process leaves behind is overwritten, not collected.
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(path)
        _flush_to_disk(path.parent)
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(path) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8, line ends as they are); see :func:`write_atomically`."""
    with write_atomically(path) as temporary:
        # Bytes that were no UTF-8 when they were read come back as they were.
        temporary.write_bytes(text.encode("utf-8", errors="surrogateescape"))


def disk_full(path: Path) -> DiskFullError:
    """Build the error for a file that did not fit."""
    kept = "the earlier version is intact" if path.exists() else "nothing was left behind"
    return DiskFullError(
        errno.ENOSPC,
        f"{path}: no space left (disk, quota or file-size limit); {kept}. "
        "Free some space and try again",
    )


def is_disk_full(error: OSError) -> bool:
    """Whether an error of the operating system says that there is no space left."""
    return error.errno in _FULL


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
