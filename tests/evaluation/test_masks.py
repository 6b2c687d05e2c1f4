import math

import pytest
import torch

from cryogimbal.evaluation.masks import soft_sphere_mask, soft_support_mask
from cryogimbal.fourier.shells import radius_grid


def test_it_is_one_inside_zero_outside_and_falls_between(box):
    voxel_size_angstrom = 2.0
    mask = soft_sphere_mask(box, voxel_size_angstrom, diameter_angstrom=12.0, edge_angstrom=4.0)
    radius = radius_grid(box, 3) * voxel_size_angstrom
    assert mask.shape == (box, box, box)
    assert (mask[radius <= 6.0] == 1).all()
    assert (mask[radius >= 10.0] == 0).all()
    order = torch.argsort(radius.flatten())
    assert (mask.flatten()[order].diff() <= 0).all()


def test_the_middle_of_the_edge_is_one_half():
    # Radius 3 voxels, edge 2 voxels: the voxel at distance 4 lies half way.
    mask = soft_sphere_mask(16, 1.0, diameter_angstrom=6.0, edge_angstrom=2.0)
    assert math.isclose(float(mask[8, 8, 12]), 0.5, abs_tol=1e-6)
    assert math.isclose(float(mask[4, 8, 8]), 0.5, abs_tol=1e-6)


def test_its_volume_is_that_of_the_ball():
    # Integral of the edge: for r from R to R + e, 4 pi r^2 (1 + cos(pi (r - R) / e)) / 2.
    mask = soft_sphere_mask(48, 1.0, diameter_angstrom=30.0, edge_angstrom=6.0)
    r = torch.linspace(0, 24, 24001, dtype=torch.float64)
    way = ((r - 15) / 6).clamp(0, 1)
    expected = torch.trapezoid(4 * math.pi * r.square() * (1 + torch.cos(math.pi * way)) / 2, r)
    assert math.isclose(float(mask.double().sum()), float(expected), rel_tol=2e-3)


def test_no_edge_gives_a_sharp_sphere():
    mask = soft_sphere_mask(8, 1.0, diameter_angstrom=4.0, edge_angstrom=0.0)
    assert torch.equal(mask, (radius_grid(8, 3) <= 2.0).float())


@pytest.mark.parametrize(("diameter", "edge"), [(0.0, 1.0), (-5.0, 1.0), (10.0, -1.0)])
def test_impossible_sizes_are_refused(diameter, edge):
    with pytest.raises(ValueError, match="positive diameter"):
        soft_sphere_mask(8, 1.0, diameter_angstrom=diameter, edge_angstrom=edge)


@pytest.fixture
def ball() -> tuple[torch.Tensor, torch.Tensor]:
    """A solid ball off the centre, and the mask it lies in."""
    density = soft_sphere_mask(32, 1.0, diameter_angstrom=10.0, edge_angstrom=1.0)
    within = soft_sphere_mask(32, 1.0, diameter_angstrom=28.0, edge_angstrom=3.0)
    return density.roll((4, -3, 0), (0, 1, 2)), within


def support_of(density: torch.Tensor, within: torch.Tensor) -> torch.Tensor:
    return soft_support_mask(density, within, blur_radius=8.0, margin_voxels=1.5, edge_voxels=3.0)


def test_a_support_holds_the_particle_and_leaves_the_rest(
    ball: tuple[torch.Tensor, torch.Tensor],
) -> None:
    density, within = ball
    support = support_of(density, within)
    assert bool((support[density > 0.5] > 0.999).all())
    assert float(support.mean()) < 0.4 * float(within.mean())
    assert float(support.min()) >= 0 and bool((support <= within).all())


def test_a_support_does_not_depend_on_scale_and_moves_with_the_particle(
    ball: tuple[torch.Tensor, torch.Tensor],
) -> None:
    density, _ = ball
    everywhere = torch.ones_like(density)
    support = support_of(density, everywhere)
    torch.testing.assert_close(support_of(1e-4 * density, everywhere), support)
    moved = support_of(density.roll(3, 2), everywhere)
    torch.testing.assert_close(moved, support.roll(3, 2), atol=1e-4, rtol=0)


def test_noise_outside_is_masked_away(
    ball: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator
) -> None:
    density, within = ball
    noisy = density + 0.5 * torch.randn(density.shape, generator=generator)
    support = support_of(noisy, within)
    assert float((support * density).sum()) > 0.99 * float(density.sum())
    assert float((support * within).sum()) < 0.6 * float(within.sum())


def test_without_a_particle_the_whole_mask_is_kept() -> None:
    within = soft_sphere_mask(16, 1.0, diameter_angstrom=12.0, edge_angstrom=2.0)
    torch.testing.assert_close(support_of(torch.zeros(16, 16, 16), within), within)
