"""Correlation of two maps, shell by shell, and where it falls below a threshold."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

PoseOrigin = Literal["independent", "shared", "truth"]
"""How the two maps came by their poses: two halves that shared nothing, two halves of one set of
poses, or a map compared with the known answer."""


@dataclass(frozen=True, kw_only=True)
class FscCurve:
    """Correlation per shell ``round(|k|)``, shells 0 to ``box // 2``."""

    box: int
    voxel_size_angstrom: float
    correlation: Float[Tensor, " shell"]
    poses: PoseOrigin

    @property
    def frequency_per_angstrom(self) -> Float[Tensor, " shell"]:
        """Frequency of each shell, ``shell / (box * voxel size)``."""
        shells = torch.arange(len(self.correlation), dtype=torch.float64)
        return shells / (self.box * self.voxel_size_angstrom)

    def crosses(self, threshold: float) -> bool:
        """Whether the curve falls below the threshold before its last shell ends."""
        return bool((self.correlation[1:] < threshold).any())

    def resolution_angstrom(self, threshold: float = 0.143) -> float:
        """Resolution at the first crossing, by linear interpolation in frequency between shells.

        Shell 0, the mean density, counts as 1 whatever its sign. A curve that never falls below the
        threshold resolves at least its last shell, which is returned then (twice the voxel size for
        an even box); :meth:`crosses` tells the two cases apart.
        """
        before = self._last_shell_above(threshold)
        if before == len(self.correlation) - 1:
            return self._shell_to_angstrom(float(before))
        above = 1.0 if before == 0 else float(self.correlation[before])
        below = float(self.correlation[before + 1])
        return self._shell_to_angstrom(before + (above - threshold) / (above - below))

    def resolution_last_shell_angstrom(self, threshold: float = 0.143) -> float:
        """RELION's estimate: the last shell before the first one below the threshold."""
        return self._shell_to_angstrom(float(max(self._last_shell_above(threshold), 1)))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        return {
            "poses": self.poses,
            "box": self.box,
            "voxel_size_angstrom": self.voxel_size_angstrom,
            "frequency_per_angstrom": self.frequency_per_angstrom.tolist(),
            "correlation": self.correlation.tolist(),
        }

    def _last_shell_above(self, threshold: float) -> int:
        if not 0 < threshold < 1:
            raise ValueError(f"an FSC threshold lies between 0 and 1, not {threshold}")
        below = (self.correlation[1:] < threshold).nonzero()
        return int(below[0]) if len(below) else len(self.correlation) - 1

    def _shell_to_angstrom(self, shell: float) -> float:
        return self.box * self.voxel_size_angstrom / shell
