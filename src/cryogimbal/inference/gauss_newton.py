"""Pose steps by Gauss and Newton with Levenberg's damping (Marquardt 1963), all hypotheses at once.

With ``r = CTF slice - observed`` the step in the rotation vector is
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


@dataclass(frozen=True, kw_only=True)
class Refined:
    """Poses after the steps."""

    rotation: Float[Tensor, "hypothesis 3 3"]
    damping: Float[Tensor, " hypothesis"]
    """To go on with at the next visit."""
    residual: Float[Tensor, " hypothesis"]
    """Sum of squared residuals at these rotations."""
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
    """Steps on the rotations of all hypotheses, centred or with their shifts held.

    No step turns a pose by more than two coefficients at the band limit: the residual is not known
    to be quadratic any farther.
    """
    longest_rad = 2.0 / float(batch.disc.radius_per_coefficient[-1])
    at = pose_sweep(prepared, hypotheses, batch)
    for _ in range(n_steps):
        rotvec = _step(at, damping, longest_rad)
        turned = polish_rotation(rotvec_to_rotation(rotvec) @ hypotheses.rotation)
        tried = replace(hypotheses, rotation=turned)
        there = pose_sweep(prepared, tried, batch)
        better = there.residual < at.residual
        hypotheses = replace(
            hypotheses, rotation=_chosen(better, tried.rotation, hypotheses.rotation)
        )
        at = PoseSweep(
            residual=_chosen(better, there.residual, at.residual),
            power=_chosen(better, there.power, at.power),
            gradient=_chosen(better, there.gradient, at.gradient),
            curvature=_chosen(better, there.curvature, at.curvature),
        )
        damping = _chosen(better, damping * EASE, damping * STIFFEN)
        damping = damping.clamp(LEAST_DAMPING, MOST_DAMPING)
    return Refined(
        rotation=hypotheses.rotation, damping=damping, residual=at.residual, power=at.power
    )


def _step(at: PoseSweep, damping: Tensor, longest_rad: float) -> Float[Tensor, "hypothesis 3"]:
    gradient, curvature = at.gradient[:, :3], at.curvature[:, :3, :3]
    diagonal = curvature.diagonal(dim1=1, dim2=2)
    floor = FLOOR * diagonal.amax(dim=1, keepdim=True) + torch.finfo(diagonal.dtype).tiny
    damped = curvature + torch.diag_embed(damping[:, None] * diagonal + floor)
    rotvec = -torch.linalg.solve(damped, gradient)
    length = rotvec.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rotvec.dtype).tiny)
    return rotvec * (longest_rad / length).clamp(max=1.0)


def _chosen(better: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(better.view(-1, *[1] * (one.dim() - 1)), one, other)
