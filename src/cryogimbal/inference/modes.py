"""Distinct poses of an image, best first: what every search for poses hands on."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.imaging.pose_fit import hypotheses_of
from cryogimbal.symmetry import NO_SYMMETRY, SymmetryGroup, same_image_within_deg


@dataclass(frozen=True, kw_only=True)
class Modes:
    """The same number of poses for each image."""

    rotation: Float[Tensor, "particle mode 3 3"]
    residual: Float[Tensor, "particle mode"]
    """Sum of squared residuals; infinite where an image has fewer modes."""
    shift_box: Float[Tensor, "particle mode 2"] | None = None
    """Displacement (x, y) in fractions of the box; none: centred."""

    @property
    def hypotheses(self) -> Hypotheses:
        """All of them, one after the other."""
        return hypotheses_of(self.rotation, self.shift_box)

    def of_images(self, index: Int[Tensor, " chosen"]) -> "Modes":
        """All modes of some images."""
        shift = self.shift_box
        return Modes(
            rotation=self.rotation[index],
            residual=self.residual[index],
            shift_box=None if shift is None else shift[index],
        )

    def taken(self, order: Int[Tensor, "particle chosen"]) -> "Modes":
        """Some modes of each image, in the given order."""
        shift = self.shift_box
        return Modes(
            rotation=self.rotation.take_along_dim(order[:, :, None, None], dim=1),
            residual=self.residual.take_along_dim(order, dim=1),
            shift_box=None if shift is None else shift.take_along_dim(order[:, :, None], dim=1),
        )

    def without(self, excluded: Bool[Tensor, "particle mode"]) -> "Modes":
        """Excluded modes count as not there; the others stay where they are."""
        return Modes(
            rotation=self.rotation,
            residual=self.residual.masked_fill(excluded, torch.inf),
            shift_box=self.shift_box,
        )

    def best_first(self) -> "Modes":
        """By growing residual."""
        return self.taken(self.residual.argsort(dim=1))

    def first(self, n: int) -> "Modes":
        """The first n of each image."""
        shift = self.shift_box
        return Modes(
            rotation=self.rotation[:, :n],
            residual=self.residual[:, :n],
            shift_box=None if shift is None else shift[:, :n],
        )


def modes_of(
    hypotheses: Hypotheses, residual: Float[Tensor, " hypothesis"], n_images: int
) -> Modes:
    """Hypotheses that stand one after the other, the same number for each image."""
    shift = hypotheses.shift_box
    return Modes(
        rotation=hypotheses.rotation.view(n_images, -1, 3, 3),
        residual=residual.view(n_images, -1),
        shift_box=None if shift is None else shift.view(n_images, -1, 2),
    )


def joined_modes(parts: list[Modes]) -> Modes:
    """Modes of the images of all parts, one part after the other."""
    shifts = [part.shift_box for part in parts if part.shift_box is not None]
    return Modes(
        rotation=torch.cat([part.rotation for part in parts]),
        residual=torch.cat([part.residual for part in parts]),
        shift_box=torch.cat(shifts) if shifts else None,
    )


def distinct(
    ranked: Float[Tensor, "batch candidate 3 3"],
    n: int,
    separation_deg: float,
    group: SymmetryGroup = NO_SYMMETRY,
) -> Int[Tensor, "batch mode"]:
    """Which candidates (best first) are modes: each farther than the separation from all before.

    Distances are modulo the group. -1 where no candidate is left.
    """
    near = same_image_within_deg(ranked, separation_deg, group)
    free = torch.ones(ranked.shape[:2], dtype=torch.bool, device=ranked.device)
    rows = torch.arange(len(ranked), device=ranked.device)
    chosen = []
    for _ in range(n):
        first = free.int().argmax(dim=1)
        chosen.append(torch.where(free.any(dim=1), first, -1))
        # Rounding must not leave a candidate apart from itself.
        free[rows, first] = False
        free &= ~near[rows, first]
    return torch.stack(chosen, dim=1)
