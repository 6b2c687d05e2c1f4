"""Views are as dense as asked for, smoothly, and turns about the beam are uniform."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from cryogimbal.simulation.settings import SimulationSettings
from cryogimbal.simulation.views import draw_poses, draw_rotations

N = 6000
# Kolmogorov's statistic stays below this once in a million.
KOLMOGOROV = 2.7 / math.sqrt(N)


@pytest.mark.parametrize("ratio", [1.0, 1.001, 10.0, 1000.0])
def test_view_directions_follow_the_density(ratio: float, generator: torch.Generator) -> None:
    direction = draw_rotations(N, ratio, generator)[:, 2].double().numpy()
    grid = np.linspace(-1, 1, 20001)
    # Density exp(kappa w) from one pole to the other, integrated numerically.
    density = ratio ** (grid / 2)
    distribution = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    distribution /= distribution[-1]
    assert density[-1] / density[0] == pytest.approx(ratio)
    along = np.interp(np.sort(direction[:, 2]), grid, distribution)
    assert np.abs(along - (np.arange(N) + 0.5) / N).max() < KOLMOGOROV
    around = np.arctan2(direction[:, 1], direction[:, 0]) / (2 * math.pi) + 0.5
    assert stats.kstest(around, "uniform").statistic < KOLMOGOROV


@pytest.mark.parametrize("ratio", [1.0, 10.0])
def test_they_are_rotations_with_uniform_turns_about_the_beam(
    ratio: float, generator: torch.Generator
) -> None:
    rotation = draw_rotations(N, ratio, generator).double()
    eye = torch.eye(3, dtype=torch.float64).expand(N, 3, 3)
    torch.testing.assert_close(rotation @ rotation.mT, eye, atol=1e-5, rtol=0)
    assert float((torch.linalg.det(rotation) - 1).abs().max()) < 1e-5
    # Where the axis of the views points in the image.
    turn = torch.atan2(rotation[:, 1, 2], rotation[:, 0, 2]).numpy() / (2 * math.pi) + 0.5
    assert stats.kstest(turn, "uniform").statistic < KOLMOGOROV


def test_displacements_have_their_deviation(generator: torch.Generator) -> None:
    poses = draw_poses(SimulationSettings(n_particles=N, shift_sd=16.0), generator)
    shift = poses.shift_angstrom.double()
    for axis in range(2):
        assert float(shift[:, axis].std()) == pytest.approx(16.0, rel=5 / math.sqrt(2 * N))
        assert abs(float(shift[:, axis].mean())) < 5 * 16 / math.sqrt(N)
