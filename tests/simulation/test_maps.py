"""Maps sampled anew, against a density whose values are known everywhere."""

import math

import pytest
import torch
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.fourier.transforms import density_to_fourier
from cryogimbal.simulation.maps import regrid_density, soften_density

SIGMA_ANGSTROM = 5.0


def gaussian(
    box: int, voxel: float, centre: tuple[float, float, float], sigma: float = SIGMA_ANGSTROM
) -> Tensor:
    axis = (torch.arange(box, dtype=torch.float64) - box // 2) * voxel
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    return torch.exp(-squared / (2 * sigma**2)).float()


def gaussian_map(box: int, voxel: float, centre: tuple[float, float, float]) -> DensityMap:
    return DensityMap(values=gaussian(box, voxel, centre), voxel_size_angstrom=voxel)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((32, 3.0), (48, 2.0)),  # the same field of view, finer
        ((32, 3.0), (33, 2.7)),  # odd, and no simple ratio
        ((33, 3.0), (24, 3.0)),  # cropped
        ((33, 3.0), (64, 2.1)),  # finer, and padded
        ((48, 2.0), (30, 3.3)),  # coarser
    ],
)
def test_a_gaussian_keeps_its_place_and_values(
    old: tuple[int, float], new: tuple[int, float]
) -> None:
    centre = (6.0, -3.0, 1.5)
    found = regrid_density(gaussian_map(*old, centre), *new)
    assert (found.box, found.voxel_size_angstrom) == new
    assert (found.values - gaussian(*new, centre)).abs().max() < 2e-3


def test_coarser_voxels_hold_nothing_of_what_they_cannot_sample(
    generator: torch.Generator,
) -> None:
    noise = DensityMap(values=torch.randn(33, 33, 33, generator=generator), voxel_size_angstrom=2.0)
    coarse = regrid_density(noise, 20, 3.3)
    # The same frequencies before and after: those up to the coarse Nyquist are kept, others cut.
    before = density_to_fourier(noise.values.double()) * 33**1.5 * 2.0**3
    after = density_to_fourier(coarse.values.double()) * 20**1.5 * 3.3**3
    for k in ((0, 0, 0), (1, -2, 3), (0, 9, 0), (-9, 4, 7)):
        kept = before[k[2] + 16, k[1] + 16, k[0] + 16]
        found = after[k[2] + 10, k[1] + 10, k[0] + 10]
        assert abs(found - kept) < 1e-4 * before.abs().mean()


def test_beyond_the_old_box_there_is_nothing() -> None:
    padded = regrid_density(gaussian_map(32, 3.0, (0.0, 0.0, 0.0)), 64, 3.0).values
    inside = torch.zeros(64, dtype=torch.bool)
    inside[16:48] = True
    assert padded[~inside].abs().max() == 0
    assert padded[:, :, ~inside].abs().max() == 0
    assert padded[32, 32, 32] == pytest.approx(1.0, abs=1e-3)


def test_a_box_that_cuts_the_molecule_is_refused() -> None:
    with pytest.raises(InputError, match=r"within a box of 15\.0 Å, found \d+ % of its power out"):
        regrid_density(gaussian_map(32, 3.0, (0.0, 12.0, 0.0)), 5, 3.0)


@pytest.mark.parametrize("box", [32, 33])
def test_softening_widens_a_gaussian(box: int) -> None:
    # exp(-B s^2 / 4) is a convolution with a Gaussian of variance B / (8 pi^2).
    b_factor, centre = 1000.0, (3.0, 0.0, -4.0)
    soft = soften_density(gaussian_map(box, 3.0, centre), b_factor)
    sigma = math.sqrt(SIGMA_ANGSTROM**2 + b_factor / (8 * math.pi**2))
    expected = gaussian(box, 3.0, centre, sigma) * (SIGMA_ANGSTROM / sigma) ** 3
    assert (soft.values - expected).abs().max() < 1e-4
