"""Images of a particle table, read from their files when they are asked for."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryogimbal.errors import InputError
from cryogimbal.io.image_paths import find_image_file, image_file_candidates
from cryogimbal.io.mrc import MrcStack

# The usual limit is 1024 open files per process; a table may name 30,000.
_MOST_OPEN_FILES = 64


@dataclass(frozen=True, kw_only=True)
class ImageNames:
    """The column of image names (``section@file``), cut up."""

    written: tuple[str, ...]
    """Each distinct file, as it is written in the table."""
    file_index: Int[np.ndarray, " row"]
    """Place of each row's file in ``written``."""
    section: Int[np.ndarray, " row"]
    """Image of the file, from 0."""
    is_bare: Bool[np.ndarray, " row"]
    """Whether the name is that of a file without a number."""

    def __len__(self) -> int:
        """Number of rows."""
        return self.section.shape[0]

    def name(self, row: int) -> str:
        """Image name of a row, counted from 0."""
        return self.name_in(row, self.written[self.file_index[row]])

    def name_in(self, row: int, file: str) -> str:
        """Image name of a row if its file is called ``file``."""
        return file if self.is_bare[row] else f"{self.section[row] + 1:06d}@{file}"


def parse_image_names(names: Iterable[str], table_path: Path) -> ImageNames:
    """Cut ``NNNNNN@file`` (from 1) into section and file; a bare file is its only image.

    Raises
    ------
    InputError
        If a name has no number from 1 before its @, or no file behind it.
    """
    written: dict[str, int] = {}
    file_index: list[int] = []
    section: list[int] = []
    is_bare: list[bool] = []
    for row, name in enumerate(names, start=1):
        number, at, file = name.partition("@")
        if not at:
            number, file = "1", name
        if not (number.isascii() and number.isdigit() and int(number) >= 1 and file):
            raise InputError(
                f"{table_path}: row {row}: image name '{name}': expected NUMBER@FILE with a number "
                "from 1; correct the table"
            )
        file_index.append(written.setdefault(file, len(written)))
        section.append(int(number) - 1)
        is_bare.append(not at)
    return ImageNames(
        written=tuple(written),
        file_index=np.array(file_index, dtype=np.int64),
        section=np.array(section, dtype=np.int64),
        is_bare=np.array(is_bare, dtype=np.bool_),
    )


class StackImages:
    """An image source over MRC files, with a bounded number of them open at a time.

    Parameters
    ----------
    table_path : Path
        The table, for messages.
    names : ImageNames
        Its image names.
    image_root : Path, optional
        A further folder to search for the files.

    Raises
    ------
    InputError
        If a file is missing, is no stack of square images, holds fewer images than the table
        names. Only headers are read here.
    """

    def __init__(self, table_path: Path, names: ImageNames, image_root: Path | None = None) -> None:
        self.names = names
        self._table_path = table_path
        first_rows = np.unique(names.file_index, return_index=True)[1]
        self._stacks = tuple(
            MrcStack(_existing_file(table_path, names, int(row), image_root)) for row in first_rows
        )
        self._open: OrderedDict[int, MrcStack] = OrderedDict()
        self._lock = threading.Lock()
        _require_sections(table_path, names, self._stacks)

    @property
    def files(self) -> tuple[Path, ...]:
        """Absolute path of each distinct file, in the order of ``names.written``."""
        return tuple(stack.path for stack in self._stacks)

    @property
    def n_images(self) -> int:
        """Number of images: rows of the table."""
        return len(self.names)

    @property
    def box(self) -> int:
        """Pixels a side, of the first where they differ."""
        return self._stacks[0].box

    @property
    def box_per_row(self) -> Int[np.ndarray, " row"]:
        """Pixels a side of each row's image."""
        return np.array([stack.box for stack in self._stacks])[self.names.file_index]

    def file_of(self, row: int) -> Path:
        """File of the image of a row, counted from 0."""
        return self._stacks[self.names.file_index[row]].path

    def read(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch box box"]:
        """Images of the chosen rows (from 0), all of one box, as they are stored.

        Raises
        ------
        InputError
            If an image holds NaN or infinity, or is constant, or its file changed meanwhile.
        """
        rows = index.cpu().numpy()
        boxes = set(self.box_per_row[rows].tolist()) or {self.box}
        if len(boxes) > 1:
            raise ValueError(f"images of one box can be read at a time, not of {sorted(boxes)}")
        images = np.empty((len(rows), *[boxes.pop()] * 2), dtype=np.float32)
        with self._lock:
            # One file after the other, so that each is opened once.
            for place in np.lexsort((self.names.section[rows], self.names.file_index[rows])):
                row = int(rows[place])
                images[place] = self._stack(row).read(int(self.names.section[row]))
        self._require_contrast(rows, images)
        return torch.from_numpy(images)

    def close(self) -> None:
        """Close all files; the next read opens them again."""
        with self._lock:
            for stack in self._open.values():
                stack.close()
            self._open.clear()

    def _stack(self, row: int) -> MrcStack:
        number = int(self.names.file_index[row])
        if number not in self._open:
            if len(self._open) == _MOST_OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            self._open[number] = self._stacks[number]
        self._open.move_to_end(number)
        return self._open[number]

    def _require_contrast(
        self, rows: Int[np.ndarray, " batch"], images: Float[np.ndarray, "batch box box"]
    ) -> None:
        if not len(rows):
            return
        # A NaN or an infinity anywhere makes the range NaN or infinite.
        lowest, highest = images.min(axis=(1, 2)), images.max(axis=(1, 2))
        finite = np.isfinite(lowest) & np.isfinite(highest)
        bad = np.flatnonzero(~finite | (lowest == highest))
        if len(bad):
            place = int(bad[0])
            row = int(rows[place])
            found = (
                f"found the constant {lowest[place]:g}"
                if finite[place]
                else "found NaN or infinity"
            )
            raise InputError(
                f"{self._table_path}: row {row + 1}: image {self.names.name(row)} in "
                f"{self._stack(row).path}: expected an image with finite, varying values, {found}; "
                "extract this particle again or remove its row"
            )


def _existing_file(table_path: Path, names: ImageNames, row: int, image_root: Path | None) -> Path:
    written = names.written[names.file_index[row]]
    found = find_image_file(written, table_path.parent, image_root)
    if found is None:
        tried = image_file_candidates(written, table_path.parent, image_root)
        listed = "\n  ".join(str(place) for place in tried)
        raise InputError(
            f"{table_path}: row {row + 1}: image {names.name(row)}: no such image file; tried\n"
            f"  {listed}\nstart from the project folder or name the folder of the images with "
            "--image-root"
        )
    return found.resolve()


def _require_sections(table_path: Path, names: ImageNames, stacks: tuple[MrcStack, ...]) -> None:
    available = np.array([stack.n_images for stack in stacks])
    ambiguous = np.flatnonzero(names.is_bare & (available[names.file_index] > 1))
    if len(ambiguous):
        row = int(ambiguous[0])
        stack = stacks[names.file_index[row]]
        raise InputError(
            f"{table_path}: row {row + 1}: image {names.name(row)}: expected one image in "
            f"{stack.path}, found {stack.n_images} sections; write NUMBER@FILE for an image of a "
            "stack; subtomograms cannot be used"
        )
    beyond = np.flatnonzero(names.section >= available[names.file_index])
    if len(beyond):
        row = int(beyond[0])
        stack = stacks[names.file_index[row]]
        raise InputError(
            f"{table_path}: row {row + 1}: image {names.name(row)}: expected at least "
            f"{names.section[row] + 1} images in {stack.path}, found {stack.n_images}; "
            "the stack or the table belongs to another extraction"
        )
