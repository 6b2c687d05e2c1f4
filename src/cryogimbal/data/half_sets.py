"""Two disjoint halves of a stack, their maps, and how these agree."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.data.fsc import FscCurve

HalfPoses = Literal["independent", "shared"]
"""Whether the halves came by their poses apart, sharing nothing, or together, in one search."""


@dataclass(frozen=True, kw_only=True)
class HalfSets:
    """Which half each particle belongs to."""

    number: Int[Tensor, " particle"]
    """1 or 2, as tables have it."""
    poses: HalfPoses

    def index(self, number: int) -> Int[Tensor, " chosen"]:
        """Particles of half 1 or 2, in the order of the stack."""
        return torch.nonzero(self.number == number)[:, 0]

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of particles of either half."""
        return int((self.number == 1).sum()), int((self.number == 2).sum())


@dataclass(frozen=True, kw_only=True)
class HalfMaps:
    """Maps of the two halves on one grid and in one frame, unfiltered and unmasked."""

    first: DensityMap
    second: DensityMap
    poses: HalfPoses


@dataclass(frozen=True, kw_only=True)
class HalfMapFsc:
    """Correlation of two half-maps: as they are, in a mask, and freed of what the mask adds."""

    unmasked: FscCurve
    masked: FscCurve
    randomised: FscCurve
    """Masked after the phases beyond a shell were drawn anew: the mask's own doing."""
    corrected: FscCurve
    """``(masked - randomised) / (1 - randomised)`` two shells beyond that shell, below it masked."""
    randomised_from: int
    """First shell with random phases."""
    mask_fraction: float
    """Share of the box in which the mask exceeds one half."""

    @property
    def poses(self) -> str:
        """How the halves came by their poses; stands beside every number that is told."""
        return self.corrected.poses

    @property
    def curves(self) -> dict[str, FscCurve]:
        """All four by their names."""
        return {
            "unmasked": self.unmasked,
            "masked": self.masked,
            "phase-randomised": self.randomised,
            "corrected": self.corrected,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        corrected = self.corrected
        told = {
            "poses": self.poses,
            "box": corrected.box,
            "voxel_size_angstrom": corrected.voxel_size_angstrom,
            "mask_fraction": self.mask_fraction,
            "randomised_from_angstrom": self.randomised_from_angstrom,
            "frequency_per_angstrom": corrected.frequency_per_angstrom.tolist(),
        }
        for name, curve in self.curves.items():
            key = name.replace("-", "_")
            told[key] = {
                "correlation": curve.correlation.tolist(),
                "resolution_fsc0143_angstrom": curve.resolution_angstrom(0.143),
                "resolution_fsc05_angstrom": curve.resolution_angstrom(0.5),
            }
        return told

    @property
    def randomised_from_angstrom(self) -> float:
        """The same shell as a period."""
        width = self.corrected.box * self.corrected.voxel_size_angstrom
        return width / max(1, self.randomised_from)
