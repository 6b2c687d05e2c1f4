"""One pose per image, moved directly, with its own optimiser state."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.data.poses import PoseHypotheses
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.rotations import polish_rotation, rotvec_to_rotation

FIRST_DECAY = 0.9
SECOND_DECAY = 0.999
EPSILON = 1e-8


@dataclass(kw_only=True)
class PoseTable:
    """Rotations of all images and Adam's moments of each; only rows of a batch ever change.

    A pose moves as ``R <- exp(w^) R`` and the rotation vector w starts again at 0 after each step
    (the paper's supplement A), so moments live in the tangent space of the image frame.
    """

    rotation: Float[Tensor, "particle 3 3"]
    first_moment: Float[Tensor, "particle 3"]
    second_moment: Float[Tensor, "particle 3"]
    n_steps: Int[Tensor, " particle"]

    @classmethod
    def starting_at(cls, rotation: Float[Tensor, "particle 3 3"]) -> "PoseTable":
        """A table with fresh optimiser state."""
        n = rotation.shape[0]
        return cls(
            rotation=rotation.clone(),
            first_moment=rotation.new_zeros(n, 3),
            second_moment=rotation.new_zeros(n, 3),
            n_steps=torch.zeros(n, dtype=torch.long, device=rotation.device),
        )

    def propose(self, batch: ParticleBatch) -> PoseHypotheses:
        """The one pose of each image of the batch."""
        return PoseHypotheses(rotation=self.rotation[batch.index][:, None])

    def adam_step(
        self, index: Int[Tensor, " batch"], gradient: Float[Tensor, "batch 3"], rate: float
    ) -> None:
        """Move the poses of a batch against the gradient in w (radians)."""
        steps = self.n_steps[index] + 1
        first = torch.lerp(gradient, self.first_moment[index], FIRST_DECAY)
        second = torch.lerp(gradient.square(), self.second_moment[index], SECOND_DECAY)
        unbiased_first = first / (1 - FIRST_DECAY**steps)[:, None]
        unbiased_second = second / (1 - SECOND_DECAY**steps)[:, None]
        rotvec = -rate * unbiased_first / (unbiased_second.sqrt() + EPSILON)
        self.n_steps[index], self.first_moment[index] = steps, first
        self.second_moment[index] = second
        self.rotation[index] = polish_rotation(rotvec_to_rotation(rotvec) @ self.rotation[index])

    def state_dict(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint."""
        return {
            "rotation": self.rotation,
            "first_moment": self.first_moment,
            "second_moment": self.second_moment,
            "n_steps": self.n_steps,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value.to(self.rotation.device))
