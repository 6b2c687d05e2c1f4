"""Central slices of a density and likelihoods of images by sums over every voxel, float64."""

import math

import torch
from torch import Tensor


def slice_by_sums(density: Tensor, rotation: Tensor, frequencies: Tensor) -> Tensor:
    """``sum_x f(x) cas(2 pi (q @ A) . x / box) / box`` for each frequency q (x, y) of an image."""
    box = density.shape[-1]
    place = (density != 0).nonzero()
    points = (place - box // 2).flip(1).double()
    turned = frequencies.double() @ rotation[:2].double()
    angle = 2 * math.pi / box * turned @ points.T
    return (angle.cos() + angle.sin()) @ density[tuple(place.T)].double() / box


def agreement_and_power(
    density: Tensor, observed: Tensor, ctf: Tensor, rotations: Tensor, frequencies: Tensor
) -> tuple[Tensor, Tensor]:
    """``sum_k C S V H`` and ``sum_k (C S V)^2`` of each image."""
    both = []
    for image, rotation in enumerate(rotations):
        predicted = ctf[image].double() * slice_by_sums(density, rotation, frequencies)
        both.append(((predicted * observed[image].double()).sum(), predicted.square().sum()))
    return torch.tensor([a for a, _ in both]), torch.tensor([p for _, p in both])
