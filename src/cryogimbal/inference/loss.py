"""How well predictions fit, during the search."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.data.poses import PoseHypotheses
from cryogimbal.imaging.model import ImageModel, ParticleBatch
from cryogimbal.imaging.pose_fit import hypotheses_of, pose_fits
from cryogimbal.imaging.slices import PreparedGrid

Residual = Callable[[Tensor, Tensor], Tensor]


def squared_residual(
    predicted: Float[Tensor, "batch head coefficient"],
    observed: Float[Tensor, "batch coefficient"],
) -> Float[Tensor, "batch head"]:
    """Mean of ``(predicted - observed)^2`` over coefficients (the paper's equation 3, noise 1).

    Twice the negative log-likelihood per coefficient: 1 for a perfect model.
    """
    return (predicted - observed[:, None]).square().mean(-1)


def modulus_residual(
    predicted: Float[Tensor, "batch head coefficient"],
    observed: Float[Tensor, "batch coefficient"],
) -> Float[Tensor, "batch head"]:
    """Mean of ``|predicted - observed|``: less drawn by outliers, no likelihood of Gaussian noise."""
    return (predicted - observed[:, None]).abs().mean(-1)


def residual_named(name: Literal["squared", "modulus"]) -> Residual:
    """The residual of that name."""
    return {"squared": squared_residual, "modulus": modulus_residual}[name]


def best_head(
    losses: Float[Tensor, "batch head"], hypotheses: PoseHypotheses
) -> tuple[Int[Tensor, " batch"], PoseHypotheses]:
    """The head of lowest loss of each image, and the hypotheses reduced to that one."""
    head = losses.argmin(dim=1)
    rotation = hypotheses.rotation.take_along_dim(head[:, None, None, None], dim=1)
    shift = hypotheses.shift_box
    if shift is not None:
        shift = shift.take_along_dim(head[:, None, None], dim=1)
    return head, PoseHypotheses(rotation=rotation, shift_box=shift)


@torch.no_grad()
def compared(
    model: ImageModel, hypotheses: PoseHypotheses, batch: ParticleBatch, residual: Residual
) -> Float[Tensor, "batch head"]:
    """:func:`loss_of` without gradients: in one pass and with no prediction kept, where possible."""
    decoder, rotation = model.decoder, hypotheses.rotation
    if residual is squared_residual and isinstance(decoder, PreparedGrid):
        left, _ = pose_fits(decoder, hypotheses_of(rotation, hypotheses.shift_box), batch)
        return left.view(rotation.shape[:2]) / batch.disc.n_coefficients
    return loss_of(model, hypotheses, batch, residual)


def loss_of(
    model: ImageModel, hypotheses: PoseHypotheses, batch: ParticleBatch, residual: Residual
) -> Float[Tensor, "batch head"]:
    """Residual of every hypothesis of every image."""
    return residual(model.predict(hypotheses, batch), batch.observed)
