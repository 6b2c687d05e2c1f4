"""The poses of all images: one each, or several hypotheses while an image leaves them open."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryogimbal.data.poses import PoseHypotheses
from cryogimbal.imaging.kernels.contract import Hypotheses
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
    """Rotations of all images, up to H hypotheses each, with their posterior weights.

    A weight of 0 means that the hypothesis is dead; an image's weights sum to 1. Only rows of a batch
    ever change.
    """

    rotation: Float[Tensor, "particle hypothesis 3 3"]
    weight: Float[Tensor, "particle hypothesis"]

    @classmethod
    def starting_at(cls, rotation: Float[Tensor, "particle 3 3"]) -> "PoseTable":
        """One pose per image."""
        return cls(
            rotation=rotation[:, None].clone(),
            weight=torch.ones(len(rotation), 1, device=rotation.device),
        )

    @classmethod
    def of_residuals(
        cls,
        rotation: Float[Tensor, "particle hypothesis 3 3"],
        residual: Float[Tensor, "particle hypothesis"],
    ) -> "PoseTable":
        """Several poses per image, weighted by how well they fit (infinite: no pose)."""
        return cls(rotation=rotation.clone(), weight=torch.softmax(-residual / 2, dim=1))

    @classmethod
    def of_state(cls, state: dict[str, Tensor], device: torch.device) -> "PoseTable":
        """A table as it was saved by :meth:`state_dict`."""
        return cls(rotation=state["rotation"].to(device), weight=state["weight"].to(device))

    def best(self) -> Float[Tensor, "particle 3 3"]:
        """The most probable pose of each image."""
        return self._best_of(slice(None))

    def best_of(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch 3 3"]:
        """The most probable poses of some images."""
        return self._best_of(index)

    def propose(self, index: Int[Tensor, " batch"]) -> PoseHypotheses:
        """The most probable pose of each image of a batch, as a pose source gives it."""
        return PoseHypotheses(rotation=self.best_of(index)[:, None])

    def alive(
        self, index: Int[Tensor, " batch"], least_weight: float = 0.0
    ) -> tuple[TableRows, Float[Tensor, " hypothesis"]]:
        """Hypotheses of a batch above a weight, and their weights, which sum to 1 per image."""
        weight = self.weight[index]
        kept = weight > least_weight
        image, slot = kept.nonzero(as_tuple=True)
        rows = TableRows(
            hypotheses=Hypotheses(rotation=self.rotation[index][image, slot], image=image),
            slot=slot,
        )
        shares = torch.where(kept, weight, 0.0)
        return rows, (shares / shares.sum(1, keepdim=True))[image, slot]

    def update(
        self,
        index: Int[Tensor, " batch"],
        rows: TableRows,
        rotation: Float[Tensor, "hypothesis 3 3"],
        residual: Float[Tensor, " hypothesis"],
    ) -> Float[Tensor, " batch"]:
        """Enter moved poses and what is left of their images; losers and doubles are dropped.

        Returns how much of each image's weight has gone over to another hypothesis.
        """
        image = rows.hypotheses.image
        self.rotation[index[image], rows.slot] = rotation
        before = self.weight[index]
        left = torch.full_like(before, torch.inf)
        left[image, rows.slot] = residual
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

    def challenge(
        self,
        index: Int[Tensor, " batch"],
        rotation: Float[Tensor, "batch challenger 3 3"],
        possible: Bool[Tensor, "batch challenger"],
    ) -> None:
        """Set other hypotheses beside the best pose of some images.

        They come with so little weight that nothing changes until they have been compared at the
        band limit of the day.
        """
        slots = self.weight.shape[1] - 1
        rotation, possible = rotation[:, :slots], possible[:, :slots]
        self.rotation[index, 0] = self.best_of(index)
        self.rotation[index, 1 : 1 + rotation.shape[1]] = rotation
        weight = torch.zeros_like(self.weight[index])
        weight[:, 1 : 1 + rotation.shape[1]] = CHALLENGER_WEIGHT * possible
        weight[:, 0] = 1 - weight.sum(1)
        self.weight[index] = weight

    def state_dict(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint."""
        return {"rotation": self.rotation, "weight": self.weight}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a checkpoint."""
        device = self.rotation.device
        self.rotation, self.weight = state["rotation"].to(device), state["weight"].to(device)

    def _best_of(self, index: Tensor | slice) -> Tensor:
        best = self.weight[index].argmax(dim=1)
        return self.rotation[index].take_along_dim(best[:, None, None, None], dim=1)[:, 0]


def _best_at_the_same_pose(rotation: Tensor, residual: Tensor) -> Int[Tensor, "batch hypothesis"]:
    """For each hypothesis the one of lowest residual that has come close to it, mostly itself."""
    near = nearer_than_deg(rotation, SAME_DEG)
    near |= torch.eye(residual.shape[1], dtype=torch.bool, device=near.device)
    return torch.where(near, residual[:, None, :], torch.inf).argmin(dim=2)
