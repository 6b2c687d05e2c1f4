"""A map against its own copies under a point group, in frames that are to be found.

For a frame with rotation Q and centre c, ``p' = Q (p - c)``, in which a map has a group, each operator S
takes the map to itself by ``p' = R p + (I - R) c`` with ``R = Q^T S Q``.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.evaluation.map_comparison import (
    DIFFERENCE_CYCLES,
    Frames,
    MapComparison,
    correlation,
    predict,
)
from cryogimbal.rotations import rotvec_to_rotation

FIRST_DAMPING = 1e-3
# Turns in rad and moves in boxes below which a frame has arrived.
ARRIVED = 1e-5
# Directions that a group leaves open (a cyclic one, two of six) have no slope but rounding.
OPEN_DIRECTION = 1e-6


@dataclass(frozen=True, kw_only=True)
class GroupFrames:
    """Candidate frames of a group in a map."""

    rotation: Float[Tensor, "candidate 3 3"]
    """Q: takes points of the map's frame to the group's."""
    centre: Float[Tensor, "candidate 3"]
    """c (x, y, z) in fractions of the box, from its middle."""

    def __len__(self) -> int:
        """Number of candidates."""
        return len(self.centre)

    def __getitem__(self, index: Int[Tensor, " chosen"] | slice) -> "GroupFrames":
        """The chosen candidates."""
        return GroupFrames(rotation=self.rotation[index], centre=self.centre[index])


def copies(
    frames: GroupFrames, operators: Float[Tensor, "operator 3 3"]
) -> tuple[Float[Tensor, "candidate operator 3 3"], Float[Tensor, "candidate operator 3"]]:
    """R and ``(I - R) c`` of every operator in every frame."""
    rotation = frames.rotation[:, None]
    turn = rotation.mT @ operators @ rotation
    return turn, frames.centre[:, None] - (turn @ frames.centre[:, None, :, None])[..., 0]


def agreement_per_operator(
    comparison: MapComparison, frames: GroupFrames, operators: Float[Tensor, "operator 3 3"]
) -> Float[Tensor, "candidate operator"]:
    """Correlation of the whitened map with each of its copies."""
    turn, shift = copies(frames, operators)
    return correlation(comparison, _as_frames(turn, shift)).view(turn.shape[:2])


def best_centres(
    comparison: MapComparison,
    frames: GroupFrames,
    operators: Float[Tensor, "operator 3 3"],
    offsets: Float[Tensor, "offset 3"],
) -> tuple[Float[Tensor, " candidate"], GroupFrames]:
    """Highest agreement of each frame with its centre moved by one of the offsets, and that frame.

    The copies are sampled once: moving one is a phase at each frequency.
    """
    turn, _ = copies(frames, operators)
    still = _as_frames(turn, torch.zeros_like(turn[..., 0]))
    predicted = predict(comparison, still).unflatten(0, turn.shape[:2])
    here, there = comparison.fixed.unbind(0)
    m_here, m_there = predicted.unbind(2)
    even, odd = here * m_here + there * m_there, here * m_there - there * m_here
    norm = (predicted.square().sum((2, 3)) * comparison.fixed.square().sum()).sqrt()
    norm = norm.clamp_min(torch.finfo(norm.dtype).tiny)
    scores = []
    for offset in offsets:
        centre = frames.centre + offset
        shift = centre[:, None] - (turn @ centre[:, None, :, None])[..., 0]
        phase = 2 * math.pi * shift @ comparison.frequency.T
        cross = (even * phase.cos() + odd * phase.sin()).sum(-1)
        scores.append((cross / norm).mean(dim=1))
    score, place = torch.stack(scores).max(dim=0)
    return score, GroupFrames(rotation=frames.rotation, centre=frames.centre + offsets[place])


def refine_frame(
    comparison: MapComparison,
    frame: GroupFrames,
    operators: Float[Tensor, "operator 3 3"],
    *,
    free: Float[Tensor, "6"],
    n_iterations: int,
) -> tuple[float, GroupFrames]:
    """Levenberg-Marquardt steps of one frame towards the highest agreement, which comes first.

    Parameters
    ----------
    free
        1 for each of the three turns and the three coordinates of the centre that may change, else 0.
    """
    damping = FIRST_DAMPING
    predicted = _copies_of_map(comparison, frame, operators)
    score = _mean_correlation(comparison, predicted)
    for _ in range(n_iterations):
        step = _step(comparison, frame, operators, predicted, damping) * free
        trial = GroupFrames(
            rotation=frame.rotation @ rotvec_to_rotation(step[:3]), centre=frame.centre + step[3:]
        )
        trial_predicted = _copies_of_map(comparison, trial, operators)
        trial_score = _mean_correlation(comparison, trial_predicted)
        if trial_score > score:
            frame, score, predicted = trial, trial_score, trial_predicted
            damping /= 5
        else:
            damping *= 20
        if float(step.abs().max()) < ARRIVED:
            break
    return score, frame


def _step(
    comparison: MapComparison,
    frame: GroupFrames,
    operators: Float[Tensor, "operator 3 3"],
    predicted: Float[Tensor, "operator 2 point"],
    damping: float,
) -> Float[Tensor, "6"]:
    """Damped Gauss-Newton step of turn (rad, about the map's axes) and centre (boxes).

    Least squares of ``map - a_S copy_S`` over all operators, the scales ``a_S`` being solved for.
    """
    power = predicted.square().sum((1, 2)).clamp_min(torch.finfo(predicted.dtype).tiny)
    scale = (predicted * comparison.fixed).sum((1, 2)) / power
    slope = scale[:, None, None] * _slopes(comparison, frame, operators, predicted)
    residual = comparison.fixed - scale[:, None, None] * predicted
    slope, residual = slope.flatten(1), residual.flatten()
    normal = slope @ slope.T
    damped = (normal + damping * torch.diag(normal.diagonal())).double()
    inverse = torch.linalg.pinv(damped, hermitian=True, rtol=OPEN_DIRECTION)
    return (inverse @ (slope @ residual).double()).to(slope)


def _slopes(
    comparison: MapComparison,
    frame: GroupFrames,
    operators: Float[Tensor, "operator 3 3"],
    predicted: Float[Tensor, "operator 2 point"],
) -> Float[Tensor, "6 operator 2 point"]:
    """Derivatives by turns of the frame (forward differences) and by its centre (exact)."""
    step = DIFFERENCE_CYCLES * 2 / float(comparison.frequency.norm(dim=-1).max())
    slopes = []
    for axis in torch.eye(3).to(predicted):
        turned = GroupFrames(
            rotation=frame.rotation @ rotvec_to_rotation(step * axis), centre=frame.centre
        )
        there = _copies_of_map(comparison, turned, operators)
        slopes.append((there - predicted) / step)
    # d/dphi of (cos h+ + sin h-, cos h- - sin h+) is its second row and minus its first.
    quarter = torch.stack([predicted[:, 1], -predicted[:, 0]], dim=1)
    moved = torch.eye(3).to(predicted) - copies(frame, operators)[0][0]
    wave = 2 * math.pi * torch.einsum("pj,oji->iop", comparison.frequency, moved)
    slopes += [wave_of_axis[:, None] * quarter for wave_of_axis in wave]
    return torch.stack(slopes)


def _copies_of_map(
    comparison: MapComparison, frame: GroupFrames, operators: Float[Tensor, "operator 3 3"]
) -> Float[Tensor, "operator 2 point"]:
    return predict(comparison, _as_frames(*copies(frame, operators)))


def _mean_correlation(
    comparison: MapComparison, predicted: Float[Tensor, "operator 2 point"]
) -> float:
    cross = (predicted * comparison.fixed).sum((1, 2))
    power = predicted.square().sum((1, 2)) * comparison.fixed.square().sum()
    return float((cross / power.sqrt().clamp_min(torch.finfo(power.dtype).tiny)).mean())


def _as_frames(
    turn: Float[Tensor, "candidate operator 3 3"], shift: Float[Tensor, "candidate operator 3"]
) -> Frames:
    flat = turn.flatten(0, 1)
    return Frames(rotation=flat, shift=shift.flatten(0, 1), hand=torch.ones_like(flat[:, 0, 0]))
