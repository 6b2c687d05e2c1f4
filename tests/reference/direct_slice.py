"""Central slices and their adjoint, one coefficient and one corner at a time, float64."""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor


def corners_and_weights(
    frequency: Tensor, rotation: Tensor, side: int, oversampling: int
) -> Iterator[tuple[tuple[int, int, int], float]]:
    """(z, y, x) of the eight grid points around ``k @ A`` and their trilinear weights."""
    kx, ky = (float(k) for k in frequency)
    point = [
        oversampling * (kx * float(rotation[0, axis]) + ky * float(rotation[1, axis])) + side // 2
        for axis in range(3)
    ]
    lower = [min(max(math.floor(p), 0), side - 2) for p in point]
    for step in itertools.product((0, 1), repeat=3):
        weight = 1.0
        for p, low, s in zip(point, lower, step, strict=True):
            weight *= (p - low) if s else 1 - (p - low)
        x, y, z = (low + s for low, s in zip(lower, step, strict=True))
        yield (z, y, x), weight


def slices_by_loop(
    grid: Tensor, rotations: Tensor, frequencies: Tensor, oversampling: int
) -> Tensor:
    """Trilinear values of the grid, image by image, coefficient by coefficient."""
    out = torch.zeros(len(rotations), len(frequencies), dtype=torch.float64)
    for image, rotation in enumerate(rotations):
        for place, k in enumerate(frequencies):
            for corner, weight in corners_and_weights(k, rotation, grid.shape[-1], oversampling):
                out[image, place] += weight * float(grid[corner])
    return out


def backprojection_by_loop(
    rows: Tensor, rotations: Tensor, frequencies: Tensor, side: int, oversampling: int
) -> Tensor:
    """Every coefficient spread to its eight corners."""
    grid = torch.zeros(side, side, side, dtype=torch.float64)
    for image, rotation in enumerate(rotations):
        for place, k in enumerate(frequencies):
            for corner, weight in corners_and_weights(k, rotation, side, oversampling):
                grid[corner] += weight * float(rows[image, place])
    return grid
