"""Signs of collapse on densities and poses made up for it, and none on particles."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cryogimbal.evaluation.collapse import (
    centre_over_rim,
    fullest_cells_share,
    radial_share,
    signs_in_map,
    signs_in_poses,
)
from cryogimbal.fourier.shells import radius_grid
from cryogimbal.rotations import random_rotations, rotvec_to_rotation
from cryogimbal.simulation.settings import SimulationSettings
from cryogimbal.simulation.sources import source_to_density
from tests.small_particles import blob_density


def ball(box: int) -> Tensor:
    return torch.exp(-((radius_grid(box, 3) / (0.25 * box)) ** 4)).float()


def shell(box: int) -> Tensor:
    radius = radius_grid(box, 3) / box
    return torch.exp(-(((radius - 0.3) / 0.05) ** 2)).float()


def test_a_ball_and_a_shell_are_the_same_in_all_directions(box: int) -> None:
    assert radial_share(ball(box)) > 0.97
    assert radial_share(shell(box)) > 0.9
    assert radial_share(torch.zeros(box, box, box)) == 1.0


def test_only_a_shell_is_hollow(box: int) -> None:
    assert centre_over_rim(shell(box)) < 0.05
    assert centre_over_rim(ball(box)) > 0.9


@pytest.mark.parametrize(("make", "word"), [(ball, "ball"), (shell, "hollow")])
def test_collapsed_maps_are_told(make: Callable[[int], Tensor], word: str) -> None:
    generator = torch.Generator().manual_seed(1)
    density = make(32)
    noisy = density + 0.02 * torch.randn(density.shape, generator=generator)
    for one in (density, noisy):
        (sign,) = signs_in_map(one)
        assert word in sign
    assert signs_in_map(3 * density) == signs_in_map(density)


@pytest.mark.parametrize("seed", range(4))
def test_particles_show_no_sign(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    assert signs_in_map(blob_density(32, generator)) == ()


@pytest.mark.parametrize("kind", ["asymmetric", "d7", "o", "i"])
def test_phantoms_show_no_sign(kind: str) -> None:
    density = source_to_density(kind, SimulationSettings(box=32))
    assert signs_in_map(density.values) == ()


def test_a_hollow_particle_with_features_is_no_sign() -> None:
    density = shell(32)
    x = torch.arange(32) - 16
    bumpy = density * (1 + 1.5 * torch.cos(x * 0.8))[:, None, None].clamp(min=0)
    bumpy = bumpy * (1 + torch.sin(x * 0.9))[None, :, None].clamp(min=0)
    assert centre_over_rim(bumpy) < 0.15
    assert signs_in_map(bumpy) == ()


def test_uniform_and_one_sided_poses_are_no_sign(generator: torch.Generator) -> None:
    uniform = random_rotations(5000, generator)
    assert fullest_cells_share(uniform) < 0.08
    assert signs_in_poses(uniform) == ()
    angle = torch.zeros(5000, 3)
    angle[:, 2] = 6.28 * torch.rand(5000, generator=generator)
    tilted = 0.2 * torch.randn(5000, 3, generator=generator)
    one_sided = rotvec_to_rotation(angle) @ rotvec_to_rotation(tilted)
    assert signs_in_poses(one_sided) == ()


def test_all_images_on_few_orientations_are_a_sign(generator: torch.Generator) -> None:
    few = random_rotations(2, generator)[torch.randint(2, (1000,), generator=generator)]
    near = rotvec_to_rotation(0.05 * torch.randn(1000, 3, generator=generator)) @ few
    (sign,) = signs_in_poses(near)
    assert "orientations" in sign
    assert signs_in_poses(near[:50]) == ()
