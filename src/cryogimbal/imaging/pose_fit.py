"""How well poses fit their images, and how the fit changes with them: fused, without autograd."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.imaging.kernels.contract import Hypotheses, PoseSweep
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.slices import PreparedGrid, slice_points


def pose_sweep(prepared: PreparedGrid, hypotheses: Hypotheses, batch: ParticleBatch) -> PoseSweep:
    """Residual, power, gradient and Gauss-Newton matrix of every hypothesis, in one pass.

    ``hypotheses.image`` are rows of the batch.
    """
    points = slice_points(batch.disc, prepared.oversampling, hypotheses.rotation.dtype)
    found = prepared.kernels.sweep(prepared.values, hypotheses, points, batch.ctf, batch.observed)
    residual, power = _zero_frequency(prepared, batch)
    # No pose moves the zero frequency: it adds to the sums and to no derivative.
    return replace(
        found,
        residual=found.residual + residual[hypotheses.image],
        power=found.power + power[hypotheses.image],
    )


def pose_fits(
    prepared: PreparedGrid, hypotheses: Hypotheses, batch: ParticleBatch
) -> tuple[Float[Tensor, " hypothesis"], Float[Tensor, " hypothesis"]]:
    """Sum of squared residuals and of squared predictions of every hypothesis."""
    points = slice_points(batch.disc, prepared.oversampling, hypotheses.rotation.dtype)
    found = prepared.kernels.fits(prepared.values, hypotheses, points, batch.ctf, batch.observed)
    residual, power = _zero_frequency(prepared, batch)
    return found[0] + residual[hypotheses.image], found[1] + power[hypotheses.image]


def _zero_frequency(prepared: PreparedGrid, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
    predicted = batch.ctf[:, 0] * prepared.zero_frequency()
    return (predicted - batch.observed[:, 0]).square(), predicted.square()


def hypotheses_of(
    rotation: Float[Tensor, "batch head 3 3"],
    shift_box: Float[Tensor, "batch head 2"] | None = None,
) -> Hypotheses:
    """All heads of all images of a batch, one after the other."""
    n, heads = rotation.shape[:2]
    image = torch.arange(n, device=rotation.device).repeat_interleave(heads)
    return Hypotheses(
        rotation=rotation.reshape(-1, 3, 3),
        image=image,
        shift_box=None if shift_box is None else shift_box.reshape(-1, 2),
    )
