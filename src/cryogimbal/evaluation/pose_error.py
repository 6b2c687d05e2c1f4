"""How far estimated poses are from the true ones, once both are in one frame."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.poses import PoseSet
from cryogimbal.evaluation.alignment import Alignment, align_pose_frame
from cryogimbal.evaluation.pose_alignment import align_poses
from cryogimbal.rotations import geodesic_distance_rad
from cryogimbal.symmetry import NO_SYMMETRY, SymmetryGroup, nearest_same_image

CLOSE_DEG = 5.0


@dataclass(frozen=True, kw_only=True)
class PoseErrors:
    """Errors per particle after the best global rotation, hand and origin, modulo a symmetry group."""

    rotation_error_deg: Float[Tensor, " particle"]
    """Geodesic angle between the rotations."""
    view_direction_error_deg: Float[Tensor, " particle"]
    """Angle between the directions along the beam, whatever the in-plane angles."""
    shift_error_angstrom: Float[Tensor, " particle"]
    """Length of the difference of the in-plane shifts."""
    alignment: Alignment
    symmetry: str = "C1"
    """The group: poses that differ by one of its operators count as equal."""

    @property
    def mirrored(self) -> bool:
        """Whether the estimated poses have the other hand."""
        return self.alignment.mirrored

    @property
    def fraction_within_5_deg(self) -> float:
        """Share of the particles whose rotation error is below 5 degrees."""
        return float((self.rotation_error_deg < CLOSE_DEG).double().mean())

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; degrees and Å are in the names."""
        rotation, view = self.rotation_error_deg, self.view_direction_error_deg
        return {
            "n_particles": len(rotation),
            "rotation_error_mean_deg": float(rotation.mean()),
            "rotation_error_median_deg": float(rotation.quantile(0.5)),
            "rotation_error_90th_percentile_deg": float(rotation.quantile(0.9)),
            "rotation_error_fraction_within_5_deg": self.fraction_within_5_deg,
            "view_direction_error_mean_deg": float(view.mean()),
            "view_direction_error_median_deg": float(view.quantile(0.5)),
            "shift_error_mean_angstrom": float(self.shift_error_angstrom.mean()),
            "shift_error_median_angstrom": float(self.shift_error_angstrom.quantile(0.5)),
            "mirrored": self.mirrored,
            "symmetry": self.symmetry,
        }


def pose_errors(
    estimated: PoseSet,
    true: PoseSet,
    *,
    alignment: Alignment | None = None,
    group: SymmetryGroup = NO_SYMMETRY,
) -> PoseErrors:
    """Errors of the estimated poses, aligned by :func:`align_poses` unless an alignment is given.

    Of the true poses that a group, in the true frame, makes the same the nearest one counts.

    Raises
    ------
    InputError
        If the sets differ in length, or are empty.
    """
    alignment = align_poses(estimated, true, group) if alignment is None else alignment
    aligned = align_pose_frame(_double(estimated), alignment)
    truth = _double(true)
    same_image = nearest_same_image(truth.rotation, aligned.rotation, group)
    truth = PoseSet(rotation=same_image, shift_angstrom=truth.shift_angstrom)
    view, true_view = aligned.rotation[:, 2], truth.rotation[:, 2]
    # atan2 keeps its digits for small angles, where acos loses half of them.
    view_error = torch.atan2(
        torch.linalg.cross(view, true_view).norm(dim=-1), (view * true_view).sum(-1)
    )
    return PoseErrors(
        rotation_error_deg=torch.rad2deg(geodesic_distance_rad(aligned.rotation, truth.rotation)),
        view_direction_error_deg=torch.rad2deg(view_error),
        shift_error_angstrom=(aligned.shift_angstrom - truth.shift_angstrom).norm(dim=-1),
        alignment=alignment,
        symmetry=group.name,
    )


def _double(poses: PoseSet) -> PoseSet:
    return PoseSet(rotation=poses.rotation.double(), shift_angstrom=poses.shift_angstrom.double())
