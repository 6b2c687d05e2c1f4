"""Where the image files of a table lie: RELION writes paths relative to its project folder."""

from pathlib import Path

# A project's tables lie two folders below it (Refine3D/job012/); a few more cost nothing.
_LEVELS = 5


def image_file_candidates(
    written: str, table_folder: Path, image_root: Path | None = None
) -> tuple[Path, ...]:
    """Places to look for an image file, in this order, each once.

    1. the path as it is written, from the working folder;
    2. from the table's folder, then from each of its parents, five levels up;
    3. from ``image_root``, with and without the folder part of the path.
    """
    path = Path(written)
    if path.is_absolute():
        places = [path]
    else:
        folder = table_folder.resolve()
        folders = [Path.cwd(), folder, *folder.parents[:_LEVELS]]
        places = [base / path for base in folders]
    if image_root is not None:
        root = image_root.resolve()
        places += [root / path, root / path.name]
    return tuple(dict.fromkeys(places))


def find_image_file(
    written: str, table_folder: Path, image_root: Path | None = None
) -> Path | None:
    """The first candidate that is a file, as an absolute path; none if there is none."""
    candidates = image_file_candidates(written, table_folder, image_root)
    return next((place for place in candidates if place.is_file()), None)
