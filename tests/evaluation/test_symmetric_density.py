"""Symmetrised maps are those of the symmetrised particle."""

import pytest
import torch

from cryogimbal.data.density import DensityMap
from cryogimbal.evaluation.fsc import fourier_shell_correlation
from cryogimbal.evaluation.symmetric_density import symmetrise_density
from cryogimbal.symmetry import symmetry_group
from tests.evaluation.gaussians import VOXEL_SIZE_ANGSTROM, gaussian_density, random_positions
from tests.laws import relative_error

GROUPS = ["C1", "C2", "C3", "C4", "C7", "D2", "D3", "D7", "T", "O", "I", "I3"]


@pytest.mark.parametrize("name", GROUPS)
def test_the_mean_over_the_operators_is_that_of_the_particle(
    name: str, box: int, generator: torch.Generator
) -> None:
    group = symmetry_group(name)
    position = random_positions(20, box, generator, reach=0.3)
    copies = (position @ group.operators.mT).flatten(0, 1)
    expected = gaussian_density(copies, box).values / group.order
    found = symmetrise_density(gaussian_density(position, box), group).values
    # Gaussians of 1.2 voxels hold a little beyond the band limit, which turned maps lose.
    assert relative_error(found, expected) < 0.01


@pytest.mark.parametrize("name", ["C4", "D2", "O"])
def test_on_the_grid_nothing_is_lost(name: str, box: int, generator: torch.Generator) -> None:
    noise = torch.randn(box, box, box, generator=generator, dtype=torch.float64)
    group = symmetry_group(name)
    once = symmetrise_density(DensityMap(values=noise, voxel_size_angstrom=2.0), group)
    twice = symmetrise_density(once, group)
    torch.testing.assert_close(twice.values, once.values)
    # Independent values are averaged over orbits, most of which have the group's order.
    assert float(once.values.var()) == pytest.approx(1 / group.order, rel=0.5)


@pytest.mark.parametrize("name", ["C3", "D7", "T", "I"])
def test_a_symmetric_map_stays_as_it_is(name: str, box: int, generator: torch.Generator) -> None:
    group = symmetry_group(name)
    copies = (random_positions(3, box, generator, reach=0.3) @ group.operators.mT).flatten(0, 1)
    density = gaussian_density(copies, box)
    curve = fourier_shell_correlation(
        symmetrise_density(density, group), density, poses="truth"
    ).correlation
    assert density.voxel_size_angstrom == VOXEL_SIZE_ANGSTROM
    assert curve[: int(0.45 * box) + 1].min() > 0.99
