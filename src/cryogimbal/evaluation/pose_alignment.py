"""Best global rotation, hand and origin between two sets of poses, whatever a part of them does."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryogimbal.data.poses import PoseSet
from cryogimbal.errors import InputError
from cryogimbal.evaluation.alignment import Alignment
from cryogimbal.rotations import (
    mirror_rotation,
    orthonormalise,
    rotation_to_rotvec,
    rotvec_to_rotation,
)
from cryogimbal.symmetry import NO_SYMMETRY, SymmetryGroup, nearest_same_image

# A pose further off than this says nothing about the frame: it sits on another mode.
OUTLIER_ANGLE_RAD = math.radians(30.0)
MAX_CANDIDATES = 1024
MIN_CANDIDATES = 64
MAX_JUDGES = 8192
MAX_ITERATIONS = 100
# Residuals below this floor, rad or Å, are rounding.
RESIDUAL_FLOOR = 1e-6


def align_poses(estimated: PoseSet, true: PoseSet, group: SymmetryGroup = NO_SYMMETRY) -> Alignment:
    """Frame of ``true`` as seen from ``estimated``, from row i of one and row i of the other.

    Every image alone proposes a rotation, ``Q_i = A_true_i^T A_i``, for either hand. The proposal
    with the least mean of ``min(angle, 30 degrees)`` over all images is refined to the L1 mean of
    the proposals within 30 degrees of it, so poses on a wrong mode have no say. The origin is the
    robust least-squares solution of ``(A_true_i s)_xy = t_i - t_true_i``. No chance is involved.

    A group, whose axes are those of the true frame, makes ``A_true_i S`` as good as ``A_true_i``: of
    these the one nearest to the estimated pose counts.

    Raises
    ------
    InputError
        If the sets differ in length, or are empty.
    """
    if len(estimated) != len(true) or len(true) == 0:
        raise InputError(
            f"{len(estimated)} estimated poses and {len(true)} true poses; "
            "expected two tables with the same particles in the same order"
        )
    true_rotation = true.rotation.double()
    same_hand = estimated.rotation.double()
    fits = [
        _robust_mean(rotation, true_rotation, group)
        for rotation in (same_hand, mirror_rotation(same_hand))
    ]
    mirrored = fits[1][1] < fits[0][1]
    rotation, _ = fits[int(mirrored)]
    turned = mirror_rotation(same_hand) if mirrored else same_hand
    true_rotation = nearest_same_image(true_rotation, turned @ rotation.T, group)
    inlier = _angle(rotation.mT @ (true_rotation.mT @ turned)) < OUTLIER_ANGLE_RAD
    difference = estimated.shift_angstrom.double() - true.shift_angstrom.double()
    return Alignment(
        rotation=rotation,
        shift_angstrom=_origin(true_rotation, difference, inlier),
        mirrored=mirrored,
        score=float(inlier.double().mean()),
    )


def _robust_mean(
    rotation: Float[Tensor, "particle 3 3"],
    true_rotation: Float[Tensor, "particle 3 3"],
    group: SymmetryGroup,
) -> tuple[Float[Tensor, "3 3"], float]:
    """Rotation in the middle of the densest part, and the mean truncated angle to it in rad."""
    relative = true_rotation.mT @ rotation
    # Every right pose proposes one of the equal frames, so that fewer proposals are enough.
    n_candidates = max(MIN_CANDIDATES, MAX_CANDIDATES // group.order)
    candidates = relative[_spread(len(relative), n_candidates)]
    judges = relative[_spread(len(relative), MAX_JUDGES)]
    trace = torch.full((len(candidates), len(judges)), -torch.inf, dtype=relative.dtype)
    for operator in group.operators.to(relative):
        torch.maximum(trace, (operator @ candidates).flatten(1) @ judges.flatten(1).T, out=trace)
    angle = torch.acos(((trace - 1) / 2).clamp(-1, 1))
    start = candidates[angle.clamp(max=OUTLIER_ANGLE_RAD).mean(dim=1).argmin()]
    nearest = nearest_same_image(true_rotation, rotation @ start.T, group)
    best = _l1_mean(start, nearest.mT @ rotation)
    nearest = nearest_same_image(true_rotation, rotation @ best.T, group)
    final = _angle(best.mT @ nearest.mT @ rotation).clamp(max=OUTLIER_ANGLE_RAD).mean()
    return best, float(final)


def _l1_mean(
    start: Float[Tensor, "3 3"], rotation: Float[Tensor, "particle 3 3"]
) -> Float[Tensor, "3 3"]:
    """Weiszfeld's iteration on SO(3), over the rotations within the outlier angle.

    Weights ``1 / max(angle, half the median angle)``: the floor keeps the iteration from sticking
    to the one rotation it starts at.
    """
    mean = start
    for _ in range(MAX_ITERATIONS):
        rotvec = rotation_to_rotvec(mean.mT @ rotation)
        angle = rotvec.norm(dim=-1)
        rotvec, angle = (part[angle < OUTLIER_ANGLE_RAD] for part in (rotvec, angle))
        weight = _robust_weight(angle)
        step = (weight[:, None] * rotvec).sum(0) / weight.sum()
        mean = orthonormalise(mean @ rotvec_to_rotation(step))
        if step.norm() < RESIDUAL_FLOOR * 1e-3:
            break
    return mean


def _origin(
    rotation: Float[Tensor, "particle 3 3"],
    difference: Float[Tensor, "particle 2"],
    inlier: Bool[Tensor, " particle"],
) -> Float[Tensor, "3"]:
    """Robust solution s of ``(A_i s)_xy = d_i`` by reweighted least squares, in Å."""
    rows, d = rotation[inlier, :2], difference[inlier]
    s = d.new_zeros(3)
    for _ in range(MAX_ITERATIONS):
        weight = _robust_weight((rows @ s - d).norm(dim=-1))
        normal = torch.einsum("p,pia,pib->ab", weight, rows, rows)
        right = torch.einsum("p,pia,pi->a", weight, rows, d)
        # Views all along one axis leave the origin on it unknown: the pseudo-inverse gives 0 there.
        step = torch.linalg.pinv(normal, hermitian=True, rtol=1e-6) @ right - s
        s = s + step
        if step.norm() < RESIDUAL_FLOOR:
            break
    return s


def _robust_weight(residual: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    if residual.numel() == 0:
        return residual
    return 1 / residual.clamp_min(max(0.5 * float(residual.median()), RESIDUAL_FLOOR))


def _angle(rotation: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n"]:
    return rotation_to_rotvec(rotation).norm(dim=-1)


def _spread(n: int, limit: int) -> Tensor:
    """At most ``limit`` indices, evenly spread."""
    if n <= limit:
        return torch.arange(n)
    return torch.linspace(0, n - 1, limit, dtype=torch.float64).round().long()
