"""Bringing the map of one half to the frame of the other, by what both are sure of alone.

Two searches that share nothing end in different frames, and perhaps in opposite hands. The frame is
found from frequencies below the one where the aligned maps correlate by 0.5: no shell near the
resolution that is told later takes part in it.
"""

from dataclasses import dataclass
from typing import Any

from cryogimbal.data.density import DensityMap
from cryogimbal.data.fsc import FscCurve
from cryogimbal.evaluation.alignment import Alignment, apply_alignment
from cryogimbal.evaluation.fsc import fourier_shell_correlation
from cryogimbal.evaluation.map_alignment import align_maps

COARSE = 0.5
# Shells that the search over all frames looks at, and the fewest that say anything of a frame.
FIRST_SHELLS, LEAST_SHELLS = 6, 3
MAX_ROUNDS = 5
# Any two particles agree by chance in their coarsest shells once one is turned to fit the other.
LEAST_AGREEING_SHELLS = 5


@dataclass(frozen=True, kw_only=True)
class HalfAlignment:
    """The frame of half 2 as seen from half 1, and from what it was found."""

    alignment: Alignment
    limit_angstrom: float
    """Only longer periods were looked at."""
    fsc: FscCurve
    """Of the two maps in one frame, without a mask."""

    @property
    def is_certain(self) -> bool:
        """Whether the two maps agree further than any two particles would."""
        width = self.fsc.box * self.fsc.voxel_size_angstrom
        return width / self.fsc.resolution_angstrom(COARSE) >= LEAST_AGREEING_SHELLS

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        return {
            "rotation": self.alignment.rotation.tolist(),
            "shift_angstrom": self.alignment.shift_angstrom.tolist(),
            "mirrored": self.alignment.mirrored,
            "correlation": self.alignment.score,
            "limit_angstrom": self.limit_angstrom,
            "resolution_fsc05_angstrom": self.fsc.resolution_angstrom(COARSE),
            "is_certain": self.is_certain,
        }


def align_half_map(moving: DensityMap, fixed: DensityMap) -> HalfAlignment:
    """Frame in which the map of one half looks like that of the other.

    All rotations, shifts and both hands are searched at the coarsest shells; then the frame is refined
    up to where the aligned maps correlate by 0.5, and again while that moves on.

    Raises
    ------
    InputError
        If box or voxel size of the maps differ, or the maps have fewer than two shells.
    """
    width = fixed.box * fixed.voxel_size_angstrom
    largest = (fixed.box - 1) // 2
    shells = min(FIRST_SHELLS, largest)
    found = align_maps(moving, fixed, resolution_limit_angstrom=_limit(width, shells))
    fsc = _correlation(moving, fixed, found)
    for _ in range(MAX_ROUNDS):
        agreeing = min(largest, max(LEAST_SHELLS, int(width / fsc.resolution_angstrom(COARSE))))
        if agreeing == shells:
            break
        narrower, shells = agreeing < shells, agreeing
        limit = _limit(width, shells)
        found = align_maps(moving, fixed, initial=found, resolution_limit_angstrom=limit)
        fsc = _correlation(moving, fixed, found)
        if narrower:
            break
    return HalfAlignment(alignment=found, limit_angstrom=width / shells, fsc=fsc)


def _limit(width_angstrom: float, shells: int) -> float:
    """Period that takes in a shell, rounding or not."""
    return width_angstrom / (shells + 0.01)


def _correlation(moving: DensityMap, fixed: DensityMap, frame: Alignment) -> FscCurve:
    return fourier_shell_correlation(apply_alignment(moving, frame), fixed, poses="independent")
