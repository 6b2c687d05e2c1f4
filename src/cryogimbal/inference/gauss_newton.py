"""Pose steps by Gauss and Newton with Levenberg's damping (Marquardt 1963), all hypotheses at once.

With ``r = CTF slice - observed`` the step in the rotation vector, and in a shift if there is one, is
``-(J'J + damping diag(J'J))^-1 J'r``. A step that lowers the residual is taken and the damping eased;
one that does not is dropped and tried again, shorter. One sweep over the coefficients gives all that
a step needs, so trying a step and preparing the next is the same pass.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.imaging.kernels.contract import Hypotheses, PoseSweep
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.pose_fit import pose_sweep
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.rotations import polish_rotation, rotvec_to_rotation

FIRST_DAMPING = 0.01
EASE, STIFFEN = 0.3, 4.0
LEAST_DAMPING, MOST_DAMPING = 1e-4, 1e3
# Keeps the system solvable where an image says nothing about a direction.
FLOOR = 1e-6
MOST_TURN_COEFFICIENTS = 2.0
MOST_SHIFT_PERIODS = 0.25


@dataclass(frozen=True, kw_only=True)
class Refined:
    """Poses after the steps."""

    hypotheses: Hypotheses
    damping: Float[Tensor, " hypothesis"]
    """To go on with at the next visit."""
    residual: Float[Tensor, " hypothesis"]
    """Sum of squared residuals at these poses."""
    power: Float[Tensor, " hypothesis"]
    """Sum of squared predictions."""


def gauss_newton(
    prepared: PreparedGrid,
    hypotheses: Hypotheses,
    batch: ParticleBatch,
    *,
    damping: Float[Tensor, " hypothesis"],
    n_steps: int,
) -> Refined:
    """Steps on the rotations of all hypotheses, and on their shifts where they have any.

    No step turns a pose by more than two coefficients at the band limit, or shifts it by more than a
    quarter of a period there: the residual is not known to be quadratic any farther.
    """
    radius = float(batch.disc.radius_per_coefficient[-1])
    at = pose_sweep(prepared, hypotheses, batch)
    for _ in range(n_steps):
        tried = _moved(hypotheses, _step(at, damping, radius))
        there = pose_sweep(prepared, tried, batch)
        better = there.residual < at.residual
        hypotheses = _better_poses(better, tried, hypotheses)
        at = PoseSweep(
            residual=_chosen(better, there.residual, at.residual),
            power=_chosen(better, there.power, at.power),
            gradient=_chosen(better, there.gradient, at.gradient),
            curvature=_chosen(better, there.curvature, at.curvature),
        )
        damping = _chosen(better, damping * EASE, damping * STIFFEN)
        damping = damping.clamp(LEAST_DAMPING, MOST_DAMPING)
    return Refined(hypotheses=hypotheses, damping=damping, residual=at.residual, power=at.power)


def _step(at: PoseSweep, damping: Tensor, radius: float) -> Float[Tensor, "hypothesis parameter"]:
    diagonal = at.curvature.diagonal(dim1=1, dim2=2)
    floor = FLOOR * diagonal + torch.finfo(diagonal.dtype).tiny
    floor[:, :3] += FLOOR * diagonal[:, :3].amax(dim=1, keepdim=True)
    damped = at.curvature + torch.diag_embed(damping[:, None] * diagonal + floor)
    step = -torch.linalg.solve(damped, at.gradient)
    limits = (MOST_TURN_COEFFICIENTS / radius, MOST_SHIFT_PERIODS / radius)
    parts = zip((step[:, :3], step[:, 3:]), limits, strict=True)
    return torch.cat([_shortened(part, limit) for part, limit in parts], dim=1)


def _shortened(step: Tensor, limit: float) -> Tensor:
    length = step.norm(dim=1, keepdim=True).clamp_min(torch.finfo(step.dtype).tiny)
    return step * (limit / length).clamp(max=1.0)


def _moved(hypotheses: Hypotheses, step: Tensor) -> Hypotheses:
    turned = polish_rotation(rotvec_to_rotation(step[:, :3]) @ hypotheses.rotation)
    shift = hypotheses.shift_box
    return replace(
        hypotheses, rotation=turned, shift_box=None if shift is None else shift + step[:, 3:]
    )


def _better_poses(better: Tensor, one: Hypotheses, other: Hypotheses) -> Hypotheses:
    shift = None
    if one.shift_box is not None and other.shift_box is not None:
        shift = _chosen(better, one.shift_box, other.shift_box)
    rotation = _chosen(better, one.rotation, other.rotation)
    return replace(other, rotation=rotation, shift_box=shift)


def _chosen(better: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(better.view(-1, *[1] * (one.dim() - 1)), one, other)
