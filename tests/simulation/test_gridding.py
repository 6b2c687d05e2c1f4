"""Spectra of scattered points against direct sums."""

import math

import pytest
import torch

from cryogimbal.simulation.gridding import fine_side, points_to_hartley


@pytest.mark.parametrize("box", [12, 13, 20, 21])
def test_spectrum_equals_the_direct_sum(box: int, generator: torch.Generator) -> None:
    side = fine_side(box)
    # Anywhere in the periodic field, its edges and exact grid points included.
    position = (torch.rand(40, 3, dtype=torch.float64, generator=generator) - 0.5) * side
    position[0], position[1] = 0.0, torch.tensor([-side / 2, side / 2, 3.0])
    weight = torch.randn(40, dtype=torch.float64, generator=generator)
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    kz, ky, kx = torch.meshgrid(axis, axis, axis, indexing="ij")
    phase = torch.stack([kx, ky, kz], dim=-1) @ position.T * (2 * math.pi / side)
    expected = (phase.cos() + phase.sin()) @ weight
    found = points_to_hartley(position, weight, box, side)
    assert (found - expected).norm() < 1e-4 * expected.norm()
    assert (found - expected).abs().max() < 1e-3 * expected.square().mean().sqrt()


@pytest.mark.parametrize("box", [2, 15, 64, 127, 128])
def test_fine_grid_is_fine_even_and_fast(box: int) -> None:
    side = fine_side(box)
    assert side >= 1.5 * box
    assert side % 2 == 0
    rest = side
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1
