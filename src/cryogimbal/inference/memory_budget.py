"""How much of a search is done at a time: tiles of images x orientations within a stated memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from cryogimbal.errors import InputError

Result = TypeVar("Result")

MIB = 2**20
BYTES_PER_NUMBER = 4
# A matrix product over fewer rows or columns than this is mostly overhead.
SMALLEST_EDGE = 32
# Scores, what is made of them, and room for the product's own workspace.
SCORE_COPIES = 3
# Rows of a tile: image times CTF and CTF squared, or slice and slice squared, and their sources.
ROW_COPIES = 4


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A block of the images x orientations matrix."""

    images: slice
    orientations: slice


@dataclass(kw_only=True)
class MemoryBudget:
    """Bytes that the tiles of a search may take; halved where a device turns out to have less."""

    n_bytes: int
    notices: list[str] = field(default_factory=list)
    """One line for each time that the budget was halved, for the caller to pass on."""

    @classmethod
    def of_mebibytes(cls, mebibytes: int) -> "MemoryBudget":
        """A budget in units that people give."""
        return cls(n_bytes=mebibytes * MIB)

    def images_at_once(
        self, n_images: int, n_orientations: int, n_coefficients: int, n_shifts: int = 1
    ) -> int:
        """Images that fit beside all orientations and shifts, for a posterior to be normalised.

        Raises
        ------
        InputError
            If not even one image fits; the message names the budget that is needed.
        """
        fixed = self._bytes_of(0, n_orientations, n_coefficients)
        each = self._bytes_of(n_shifts, n_orientations, n_coefficients) - fixed
        fitting = (self.n_bytes - fixed) // each
        if fitting < 1:
            raise _too_small(
                self.n_bytes, fixed + each, f"one image x {n_orientations} orientations"
            )
        return min(n_images, fitting)

    def edges(self, n_images: int, n_orientations: int, n_coefficients: int) -> tuple[int, int]:
        """Images and orientations of a tile: all at once if they fit, else as square as can be.

        Raises
        ------
        InputError
            If not even the smallest tile fits; the message names the budget that is needed.
        """
        images, orientations = n_images, n_orientations
        while self._bytes_of(images, orientations, n_coefficients) > self.n_bytes:
            if max(images, orientations) <= SMALLEST_EDGE:
                needed = self._bytes_of(images, orientations, n_coefficients)
                tile = f"one tile of {images} images x {orientations} orientations"
                raise _too_small(self.n_bytes, needed, tile)
            if orientations > 4 * images or images <= SMALLEST_EDGE:
                orientations = -(-orientations // 2)
            else:
                images = -(-images // 2)
        return images, orientations

    def tiles(self, n_images: int, n_orientations: int, n_coefficients: int) -> Iterator[Tile]:
        """Tiles of the whole matrix; all images for one block of orientations, then the next."""
        images, orientations = self.edges(n_images, n_orientations, n_coefficients)
        for first in range(0, n_orientations, orientations):
            block = slice(first, min(first + orientations, n_orientations))
            for start in range(0, n_images, images):
                yield Tile(images=slice(start, min(start + images, n_images)), orientations=block)

    def take_notices(self) -> list[str]:
        """What there is to tell, once."""
        told, self.notices = self.notices, []
        return told

    def until_it_fits(self, work: Callable[[], Result]) -> Result:
        """Do the work; where the device runs out of memory, halve the budget and do it again.

        Raises
        ------
        InputError
            If not even the smallest tile fits into the device.
        """
        while True:
            try:
                return work()
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                self.n_bytes //= 2
                self.notices.append(
                    f"the device is out of memory: tiles of the search are halved to "
                    f"{self.n_bytes / MIB:.0f} MiB"
                )

    @staticmethod
    def _bytes_of(images: int, orientations: int, n_coefficients: int) -> int:
        rows = ROW_COPIES * (images + orientations) * n_coefficients
        return BYTES_PER_NUMBER * (rows + SCORE_COPIES * images * orientations)


def _too_small(n_bytes: int, needed: int, purpose: str) -> InputError:
    return InputError(
        f"--posterior.memory-mib: expected at least {-(-needed // MIB)} MiB for {purpose}, found "
        f"{n_bytes / MIB:.3g} MiB; give more, or a coarser grid"
    )
