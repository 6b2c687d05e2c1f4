"""Posterior over orientations by direct sums, one image and one orientation at a time."""

import torch
from torch import Tensor


def log_likelihoods_by_sums(observed: Tensor, ctf: Tensor, slices: Tensor) -> Tensor:
    """``-1/2 sum |C S - H|^2`` for every image and slice, float64."""
    scores = torch.empty(len(observed), len(slices), dtype=torch.float64)
    for image in range(len(observed)):
        for orientation in range(len(slices)):
            difference = (
                ctf[image].double() * slices[orientation].double() - observed[image].double()
            )
            scores[image, orientation] = -0.5 * (difference**2).sum()
    return scores


def expectation_by_sums(
    observed: Tensor, ctf: Tensor, slices: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Posterior-weighted sums of ``C H`` and ``C^2`` per orientation, float64."""
    scores = log_likelihoods_by_sums(observed, ctf, slices) / temperature
    data = torch.zeros(slices.shape, dtype=torch.float64)
    weight = torch.zeros(slices.shape, dtype=torch.float64)
    for image in range(len(observed)):
        posterior = (scores[image] - scores[image].max()).exp()
        posterior /= posterior.sum()
        for orientation in range(len(slices)):
            data[orientation] += posterior[orientation] * ctf[image] * observed[image]
            weight[orientation] += posterior[orientation] * ctf[image] ** 2
    return data, weight
