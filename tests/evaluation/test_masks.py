import math

import pytest
import torch

from cryogimbal.evaluation.masks import soft_sphere_mask
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
