"""The poses of all images: one each, or several hypotheses while an image leaves them open."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.data.poses import PoseHypotheses
from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.inference.modes import Modes
from cryogimbal.rotations import nearer_than_deg

# Posterior weight below which a hypothesis is dropped for good (log-odds of 14).
DROP_BELOW = 1e-6
CHALLENGER_WEIGHT = 1e-4
# Hypotheses nearer than this to a better one have become the same.
SAME_DEG = 3.0


@dataclass(frozen=True, kw_only=True)
class TableRows:
    """The hypotheses that are alive in some rows of a table, one after the other."""

    hypotheses: Hypotheses
    slot: Int[Tensor, " hypothesis"]
    """Column of the table."""


@dataclass(kw_only=True)
class PoseTable:
    """Poses of all images, up to H hypotheses each, with their posterior weights.

    A weight of 0 means that the hypothesis is dead; an image's weights sum to 1. Only rows of a batch
    ever change.
    """

    rotation: Float[Tensor, "particle hypothesis 3 3"]
    weight: Float[Tensor, "particle hypothesis"]
    shift_box: Float[Tensor, "particle hypothesis 2"] | None = None
    """Displacement (x, y) in fractions of the box; none where particles are taken as centred."""

    @classmethod
    def starting_at(
        cls,
        rotation: Float[Tensor, "particle 3 3"],
        shift_box: Float[Tensor, "particle 2"] | None = None,
    ) -> "PoseTable":
        """One pose per image."""
        return cls(
            rotation=rotation[:, None].clone(),
            weight=torch.ones(len(rotation), 1, device=rotation.device),
            shift_box=None if shift_box is None else shift_box[:, None].clone(),
        )

    @classmethod
    def of_modes(cls, modes: Modes) -> "PoseTable":
        """Several poses per image, weighted by how well they fit."""
        shift = modes.shift_box
        return cls(
            rotation=modes.rotation.clone(),
            weight=torch.softmax(-modes.residual / 2, dim=1),
            shift_box=None if shift is None else shift.clone(),
        )

    @classmethod
    def of_state(cls, state: dict[str, Tensor], device: torch.device) -> "PoseTable":
        """A table as it was saved by :meth:`state_dict`."""
        shift = state.get("shift_box")
        return cls(
            rotation=state["rotation"].to(device),
            weight=state["weight"].to(device),
            shift_box=None if shift is None else shift.to(device),
        )

    def best(self) -> Float[Tensor, "particle 3 3"]:
        """Rotation of the most probable pose of each image."""
        return self._best_of(slice(None)).rotation

    def best_of(self, index: Int[Tensor, " batch"]) -> Hypotheses:
        """The most probable pose of each of some images, one after the other."""
        return self._best_of(index)

    def best_shift_box(self) -> Float[Tensor, "particle 2"] | None:
        """Shift of the most probable pose of each image; none where they are taken as centred."""
        return self._best_of(slice(None)).shift_box

    def propose(self, index: Int[Tensor, " batch"]) -> PoseHypotheses:
        """The most probable pose of each image of a batch, as a pose source gives it."""
        best = self._best_of(index)
        shift = best.shift_box
        return PoseHypotheses(
            rotation=best.rotation[:, None], shift_box=None if shift is None else shift[:, None]
        )

    def alive(
        self, index: Int[Tensor, " batch"], least_weight: float = 0.0
    ) -> tuple[TableRows, Float[Tensor, " hypothesis"]]:
        """Hypotheses of a batch above a weight, and their weights, which sum to 1 per image."""
        weight = self.weight[index]
        kept = weight > least_weight
        image, slot = kept.nonzero(as_tuple=True)
        shift = self.shift_box
        hypotheses = Hypotheses(
            rotation=self.rotation[index[image], slot],
            image=image,
            shift_box=None if shift is None else shift[index[image], slot],
        )
        shares = torch.where(kept, weight, 0.0)
        shares = (shares / shares.sum(1, keepdim=True))[image, slot]
        return TableRows(hypotheses=hypotheses, slot=slot), shares

    def update(
        self,
        index: Int[Tensor, " batch"],
        slot: Int[Tensor, " hypothesis"],
        moved: Hypotheses,
        residual: Float[Tensor, " hypothesis"],
    ) -> Float[Tensor, " batch"]:
        """Enter moved poses and what is left of their images; losers and doubles are dropped.

        Returns how much of each image's weight has gone over to another hypothesis.
        """
        image = moved.image
        self.rotation[index[image], slot] = moved.rotation
        if self.shift_box is not None:
            assert moved.shift_box is not None
            self.shift_box[index[image], slot] = moved.shift_box
        before = self.weight[index]
        left = torch.full_like(before, torch.inf)
        left[image, slot] = residual
        same_as = _best_at_the_same_pose(self.rotation[index], left)
        place = torch.arange(left.shape[1], device=left.device)
        left = left.masked_fill(same_as != place, torch.inf)
        weight = torch.softmax(-left / 2, dim=1)
        weight = torch.where(weight < DROP_BELOW, 0.0, weight)
        weight = weight / weight.sum(1, keepdim=True)
        self.weight[index] = weight
        # What a double had goes to the one that it has become, and has not gone over.
        inherited = torch.zeros_like(before).scatter_add(1, same_as, before)
        return (weight - inherited).abs().sum(1) / 2

    def challenge(self, index: Int[Tensor, " batch"], modes: Modes) -> None:
        """Set other poses beside the best one of some images; a mode of infinite residual is none.

        They come with so little weight that nothing changes until they have been compared at the
        band limit of the day.
        """
        modes = modes.first(self.weight.shape[1] - 1)
        end = 1 + modes.residual.shape[1]
        best = self._best_of(index)
        self.rotation[index, 0] = best.rotation
        self.rotation[index, 1:end] = modes.rotation
        if self.shift_box is not None:
            assert best.shift_box is not None
            assert modes.shift_box is not None
            self.shift_box[index, 0] = best.shift_box
            self.shift_box[index, 1:end] = modes.shift_box
        weight = torch.zeros_like(self.weight[index])
        weight[:, 1:end] = CHALLENGER_WEIGHT * torch.isfinite(modes.residual)
        weight[:, 0] = 1 - weight.sum(1)
        self.weight[index] = weight

    def state_dict(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint."""
        state = {"rotation": self.rotation, "weight": self.weight}
        return state if self.shift_box is None else state | {"shift_box": self.shift_box}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a checkpoint."""
        other = PoseTable.of_state(state, self.rotation.device)
        self.rotation, self.weight, self.shift_box = other.rotation, other.weight, other.shift_box

    def _best_of(self, index: Tensor | slice) -> Hypotheses:
        best = self.weight[index].argmax(dim=1)
        rotation, shift = self.rotation[index], self.shift_box
        if shift is not None:
            shift = shift[index].take_along_dim(best[:, None, None], dim=1)[:, 0]
        return Hypotheses(
            rotation=rotation.take_along_dim(best[:, None, None, None], dim=1)[:, 0],
            image=torch.arange(len(best), device=best.device),
            shift_box=shift,
        )


def _best_at_the_same_pose(rotation: Tensor, residual: Tensor) -> Int[Tensor, "batch hypothesis"]:
    """For each hypothesis the one of lowest residual that has come close to it, mostly itself."""
    near = nearer_than_deg(rotation, SAME_DEG)
    near |= torch.eye(residual.shape[1], dtype=torch.bool, device=near.device)
    return torch.where(near, residual[:, None, :], torch.inf).argmin(dim=2)
