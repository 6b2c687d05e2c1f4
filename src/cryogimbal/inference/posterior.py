"""The exact posterior over a grid of orientations, by matrix products over disc rows.

For an image H with CTF C and a slice S, ``-1/2 |C S - H|^2 = (C H).S - 1/2 (C^2).(S^2)`` up to a
constant, so all images against all orientations are two products. The expectation step's sums over
images are two more, with the posterior as the left factor.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.imaging.model import ParticleBatch

LARGEST_LOG_TEMPERATURE = 8.0
BISECTIONS = 10


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Posterior-weighted sums per orientation, and what the posterior says of each image."""

    weighted_data: Float[Tensor, "orientation coefficient"]
    """``sum over images of posterior x C H``."""
    weight: Float[Tensor, "orientation coefficient"]
    """``sum over images of posterior x C^2``."""
    best: Int[Tensor, " batch"]
    """Most probable orientation of each image."""
    loss: Float[Tensor, " batch"]
    """Mean squared residual per coefficient at the most probable orientation."""
    effective_orientations: Float[Tensor, " batch"]
    """How many orientations share an image."""


def log_likelihoods(
    batch: ParticleBatch, slices: Float[Tensor, "orientation coefficient"]
) -> Float[Tensor, "batch orientation"]:
    """``log p(image | orientation)`` up to a constant per image, noise variance 1."""
    scores = (batch.ctf * batch.observed) @ slices.T
    return scores.addmm_(batch.ctf.square(), slices.square().T, alpha=-0.5)


def expectation(
    batch: ParticleBatch,
    slices: Float[Tensor, "orientation coefficient"],
    *,
    temperature: float,
    tile: int,
) -> Expectation:
    """Expectation step, streamed in tiles of images.

    Parameters
    ----------
    temperature
        Divides log-likelihoods; above 1 the posterior is broader than the data say.
    tile
        Images per matrix product, which bounds the memory.
    """
    weighted_data, weight = torch.zeros_like(slices), torch.zeros_like(slices)
    best, loss, effective = [], [], []
    for part in _tiles(batch, tile):
        scores = log_likelihoods(part, slices)
        top, index = scores.max(dim=1)
        posterior = torch.softmax(scores / temperature, dim=1)
        weighted_data.addmm_(posterior.T, part.ctf * part.observed)
        weight.addmm_(posterior.T, part.ctf.square())
        best.append(index)
        loss.append(residual_of(part, top))
        effective.append(effective_orientations(posterior))
    return Expectation(
        weighted_data=weighted_data,
        weight=weight,
        best=torch.cat(best),
        loss=torch.cat(loss),
        effective_orientations=torch.cat(effective),
    )


def temperature_for(
    scores: Float[Tensor, "batch orientation"], target_orientations: float
) -> float:
    """Temperature at which a median image is shared by about so many orientations, at least 1.

    Annealing by what the posterior looks like, rather than by a fixed temperature, follows each data
    set's own signal: where the data alone leave more orientations open, nothing is added.
    """
    low, high = 0.0, LARGEST_LOG_TEMPERATURE
    if _median_sharing(scores, low) >= target_orientations:
        return 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _median_sharing(scores, middle) < target_orientations:
            low = middle
        else:
            high = middle
    return math.exp(high)


def effective_orientations(
    posterior: Float[Tensor, "batch orientation"],
) -> Float[Tensor, " batch"]:
    """``1 / sum of squared posterior``: how many orientations share an image."""
    return 1 / posterior.square().sum(1)


def most_probable(
    batch: ParticleBatch, slices: Float[Tensor, "orientation coefficient"]
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """The orientation of highest likelihood of each image, and its mean squared residual."""
    top, index = log_likelihoods(batch, slices).max(dim=1)
    return index, residual_of(batch, top)


def residual_of(batch: ParticleBatch, scores: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Mean squared residual per coefficient of log-likelihoods from :func:`log_likelihoods`."""
    return (batch.observed.square().sum(1) - 2 * scores) / batch.disc.n_coefficients


def _median_sharing(scores: Tensor, log_temperature: float) -> float:
    posterior = torch.softmax(scores / math.exp(log_temperature), dim=1)
    return float(effective_orientations(posterior).median())


def _tiles(batch: ParticleBatch, size: int) -> Iterator[ParticleBatch]:
    for start in range(0, len(batch.index), size):
        yield batch.rows(slice(start, start + size))
