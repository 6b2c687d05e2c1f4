"""Posterior over orientations by direct sums, one image and one orientation at a time."""

import math

import torch
from torch import Tensor


def shifted_by_sums(row: Tensor, shift_box: Tensor, frequency_index: Tensor) -> Tensor:
    """A row whose particle is displaced, coefficient by coefficient, float64.

    The phase ``exp(-2 pi i k.t)`` on the Fourier coefficient ``((1 + i) H(k) + (1 - i) H(-k)) / 2``.
    """
    place = {tuple(k.tolist()): n for n, k in enumerate(frequency_index)}
    moved = torch.empty(len(row), dtype=torch.float64)
    for n, k in enumerate(frequency_index):
        here, mirrored = row[n].double(), row[place[tuple((-k).tolist())]].double()
        fourier = complex((here + mirrored) / 2, (mirrored - here) / 2)
        phase = -2 * math.pi * float(k.double() @ shift_box.double())
        turned = fourier * complex(math.cos(phase), math.sin(phase))
        moved[n] = turned.real - turned.imag
    return moved


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
