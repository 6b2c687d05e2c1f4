"""Poses and map against the truth, in one frame and one hand."""

from dataclasses import dataclass
from typing import Any

from cryogimbal.data.density import DensityMap
from cryogimbal.data.poses import PoseSet
from cryogimbal.errors import InputError
from cryogimbal.evaluation.alignment import Alignment, apply_alignment
from cryogimbal.evaluation.fsc import FscCurve, fourier_shell_correlation
from cryogimbal.evaluation.map_alignment import align_maps
from cryogimbal.evaluation.pose_error import PoseErrors, pose_errors
from cryogimbal.evaluation.symmetry_axes import find_symmetry_axes
from cryogimbal.fourier.resample import resample_density
from cryogimbal.symmetry import NO_SYMMETRY, SymmetryGroup, turned_group

FIELD_OF_VIEW_TOLERANCE = 0.01
# A true map has its symmetry but for how it was sampled.
LEAST_AGREEMENT = 0.8
MAX_OFF_CENTRE_VOXELS = 1.0


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run found, or what is true: either part may be unknown."""

    poses: PoseSet | None = None
    density: DensityMap | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Errors of the poses and FSC of the map; None where one side lacks them."""

    pose_errors: PoseErrors | None
    fsc: FscCurve | None
    alignment: Alignment
    """From the estimated frame to the true one: of the maps where there are two, else of the
    poses. The hand is the poses' wherever there are two sets of them."""
    aligned_density: DensityMap | None
    """The estimated map in the true frame, on the grid of the FSC."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for evaluation.json."""
        found: dict[str, Any] = {} if self.pose_errors is None else self.pose_errors.to_dict()
        found["mirrored"] = self.alignment.mirrored
        if self.fsc is not None:
            found["resolution_fsc05_angstrom"] = self.fsc.resolution_angstrom(0.5)
            found["resolution_fsc0143_angstrom"] = self.fsc.resolution_angstrom(0.143)
            found["fsc05_crossed"] = self.fsc.crosses(0.5)
            found["fsc"] = self.fsc.to_dict()
        return found


def evaluate_against_truth(
    estimated: Result, truth: Result, group: SymmetryGroup = NO_SYMMETRY
) -> Evaluation:
    """Best frame and hand, pose errors and unmasked FSC of an estimate.

    Poses of both, where given, decide the hand and start the alignment of the maps; the maps alone
    are searched over all frames. Maps of different sampling are both brought to the coarser one by
    Fourier cropping.

    Poses that the group makes equal count as equal. Its axes are those of the true map, wherever they
    lie in it; without a true map they are those of the frame.

    Raises
    ------
    InputError
        If nothing is given on both sides, if the true map does not have the group, if the poses differ
        in number, or if the maps show fields of view that differ by more than 1 %.
    """
    errors = None
    if estimated.poses is not None and truth.poses is not None:
        errors = pose_errors(
            estimated.poses, truth.poses, group=_group_of_truth(truth.density, group)
        )
    frame = None if errors is None else errors.alignment
    fsc, aligned = None, None
    if estimated.density is not None and truth.density is not None:
        moving, fixed = _on_one_grid(estimated.density, truth.density)
        frame = align_maps(moving, fixed, initial=frame)
        aligned = apply_alignment(moving, frame)
        fsc = fourier_shell_correlation(aligned, fixed, poses="truth")
    if frame is None:
        raise InputError(
            "nothing to compare: expected the true poses for estimated poses, "
            "the true map for an estimated map, or both"
        )
    return Evaluation(pose_errors=errors, fsc=fsc, alignment=frame, aligned_density=aligned)


def _group_of_truth(density: DensityMap | None, group: SymmetryGroup) -> SymmetryGroup:
    """The group about the axes that it has in the true map."""
    if density is None or group.order == 1:
        return group
    axes = find_symmetry_axes(density, group)
    off_centre = float(axes.alignment.shift_angstrom.norm()) / density.voxel_size_angstrom
    if axes.agreement < LEAST_AGREEMENT or off_centre > MAX_OFF_CENTRE_VOXELS:
        raise InputError(
            f"the true map: expected the symmetry {group.name} about the middle of its box, found at "
            f"the best axes an agreement of {axes.agreement:.2f} with its own copies (1 is exact), "
            f"{off_centre:.1f} voxels off the middle; give another --symmetry"
        )
    return turned_group(group, axes.alignment.rotation)


def _on_one_grid(a: DensityMap, b: DensityMap) -> tuple[DensityMap, DensityMap]:
    """Both maps on the smaller box, with the second one's field of view."""
    field_a, field_b = (m.box * m.voxel_size_angstrom for m in (a, b))
    if abs(field_a / field_b - 1) > FIELD_OF_VIEW_TOLERANCE:
        raise InputError(
            "the two maps show fields of view of different width: "
            f"{field_a:.5g} Å ({a.box} voxels of {a.voxel_size_angstrom:.5g} Å) and "
            f"{field_b:.5g} Å ({b.box} voxels of {b.voxel_size_angstrom:.5g} Å); "
            "crop or pad one of them, or correct the voxel size in its header"
        )
    box = min(a.box, b.box)
    voxel_size_angstrom = field_b / box
    resampled = [
        DensityMap(
            values=m.values if m.box == box else resample_density(m.values, box),
            voxel_size_angstrom=voxel_size_angstrom,
        )
        for m in (a, b)
    ]
    return resampled[0], resampled[1]
