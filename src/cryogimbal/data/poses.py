"""Poses: one per particle, or several hypotheses per image."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PoseSet:
    """One pose per particle.

    ``rotation`` is RELION's matrix A, volume frame to image frame; ``shift_angstrom`` (x, y) is the
    particle's displacement from the box centre, the negative of rlnOriginXAngst and rlnOriginYAngst.
    """

    rotation: Float[Tensor, "particle 3 3"]
    shift_angstrom: Float[Tensor, "particle 2"]

    def __len__(self) -> int:
        """Number of particles."""
        return self.rotation.shape[0]

    def __getitem__(self, index: Int[Tensor, " chosen"] | slice) -> "PoseSet":
        """The chosen particles, in the given order."""
        return replace(
            self, rotation=self.rotation[index], shift_angstrom=self.shift_angstrom[index]
        )

    def to(self, device: torch.device | str) -> "PoseSet":
        """The same poses on another device."""
        return replace(
            self,
            rotation=self.rotation.to(device),
            shift_angstrom=self.shift_angstrom.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class PoseHypotheses:
    """Candidate poses of each image of a batch; a pose source proposes them."""

    rotation: Float[Tensor, "batch head 3 3"]
    shift_box: Float[Tensor, "batch head 2"] | None = None
    """Displacement (x, y) in fractions of the box; none where every particle is taken as centred."""

    def __getitem__(self, index: Int[Tensor, " chosen"]) -> "PoseHypotheses":
        """Those of the chosen images, in the given order."""
        shift = self.shift_box
        return PoseHypotheses(
            rotation=self.rotation[index], shift_box=None if shift is None else shift[index]
        )
