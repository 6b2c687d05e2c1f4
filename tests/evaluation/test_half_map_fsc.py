import numpy
import pytest
import torch
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.data.half_sets import HalfMapFsc, HalfMaps
from cryogimbal.errors import InputError
from cryogimbal.evaluation.fsc import fourier_shell_correlation
from cryogimbal.evaluation.half_map_fsc import half_map_fsc, randomise_phases
from cryogimbal.evaluation.masks import soft_sphere_mask
from cryogimbal.fourier.shells import radius_grid
from cryogimbal.fourier.transforms import density_to_fourier, fourier_to_density
from tests.reference.half_map_fsc import half_map_fsc_by_loop

VOXEL_SIZE_ANGSTROM = 2.0


def maps_of(first: Tensor, second: Tensor) -> HalfMaps:
    a, b = (
        DensityMap(values=values, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)
        for values in (first, second)
    )
    return HalfMaps(first=a, second=b, poses="independent")


def measured(first: Tensor, second: Tensor, mask: Tensor) -> HalfMapFsc:
    return half_map_fsc(maps_of(first, second), mask, torch.Generator().manual_seed(3))


def low_passed(values: Tensor, radius: float) -> Tensor:
    spectrum = density_to_fourier(values)
    grid = radius_grid(values.shape[-1], 3).to(values.dtype)
    return fourier_to_density(spectrum * torch.exp(-(grid / radius).square()))


def test_all_curves_equal_those_of_loops(box: int, generator: torch.Generator) -> None:
    signal, one, other = torch.randn(3, box, box, box, generator=generator).double()
    first, second = (10 * low_passed(signal, 3.0) + 0.5 * noise for noise in (one, other))
    mask = soft_sphere_mask(box, 1.0, diameter_angstrom=7.0, edge_angstrom=2.0).double()
    found = measured(first, second, mask)
    same = torch.Generator().manual_seed(3)
    noises = [torch.randn(first.shape, generator=same, dtype=torch.float64) for _ in range(2)]
    expected = half_map_fsc_by_loop(
        first.numpy(), second.numpy(), mask.numpy(), tuple(noise.numpy() for noise in noises)
    )
    assert found.randomised_from == expected["begin"]
    assert 1 < found.randomised_from < box // 2 - 2
    for name, curve in found.curves.items():
        numpy.testing.assert_allclose(curve.correlation.numpy(), expected[name], atol=1e-9)
        assert curve.poses == "independent"
    assert found.mask_fraction == pytest.approx(float((mask > 0.5).double().mean()))


def test_random_phases_keep_amplitudes_and_what_lies_below(
    box: int, generator: torch.Generator
) -> None:
    values = torch.randn(box, box, box, generator=generator).double()
    begin = 4
    found = randomise_phases(values, begin, generator)
    before, after = density_to_fourier(values), density_to_fourier(found)
    torch.testing.assert_close(after.abs(), before.abs())
    below = radius_grid(box, 3) < begin
    torch.testing.assert_close(after[below], before[below])
    # What is left of the old phases is chance: n independent numbers in each shell.
    fsc = fourier_shell_correlation(maps_of(values, found).first, maps_of(values, found).second,
                                    poses="truth").correlation  # fmt: skip
    assert fsc[:begin].min() > 1 - 1e-9
    assert fsc[begin + 1 :].abs().max() < 0.35


def test_what_a_sharp_mask_adds_is_taken_off(generator: torch.Generator) -> None:
    # Beyond shell 6 the maps share nothing; the mask carries the strong low shells there.
    side = 48
    signal, one, other = torch.randn(3, side, side, side, generator=generator)
    inside = radius_grid(side, 3) <= 6
    shared = fourier_to_density(torch.where(inside, density_to_fourier(signal), 0.0))
    first, second = (shared + 0.05 * noise for noise in (one, other))
    mask = soft_sphere_mask(side, 1.0, diameter_angstrom=20.0, edge_angstrom=0.0)
    found = measured(first, second, mask)
    assert found.randomised_from == 7
    beyond = slice(9, 16)
    assert found.unmasked.correlation[beyond].abs().mean() < 0.05
    assert found.masked.correlation[beyond].mean() > 0.4
    assert found.corrected.correlation[beyond].mean().abs() < 0.1
    assert torch.equal(found.corrected.correlation[1:9], found.masked.correlation[1:9])


def test_independent_noise_stays_uncorrelated(generator: torch.Generator) -> None:
    one, other = torch.randn(2, 48, 48, 48, generator=generator)
    mask = soft_sphere_mask(48, 1.0, diameter_angstrom=24.0, edge_angstrom=6.0)
    found = measured(one, other, mask)
    assert found.randomised_from == 1
    assert found.corrected.correlation[6:].mean().abs() < 0.03
    assert found.corrected.correlation[6:].abs().max() < 0.35


def test_a_soft_mask_around_the_particle_gives_its_own_correlation(
    generator: torch.Generator,
) -> None:
    # White signal in a ball, white noise everywhere: in the ball their powers are 4 to 1, so the
    # correlation there is 4 / 5; over the whole box the noise of the empty part counts too.
    side = 48
    ball = (radius_grid(side, 3) <= 12).float()
    signal, one, other = torch.randn(3, side, side, side, generator=generator)
    first, second = (2 * signal * ball + noise for noise in (one, other))
    mask = soft_sphere_mask(side, 1.0, diameter_angstrom=20.0, edge_angstrom=2.0)
    found = measured(first, second, mask)
    share = float(ball.mean())
    band = slice(6, 24)
    expected = 4 * share / (4 * share + 1)
    assert found.unmasked.correlation[band].mean() == pytest.approx(expected, abs=0.03)
    assert found.corrected.correlation[band].mean() == pytest.approx(0.8, abs=0.03)


def test_masks_that_cannot_be_used() -> None:
    values = torch.ones(8, 8, 8)
    with pytest.raises(InputError, match="10 voxels a side for half-maps of 8"):
        measured(values, values, torch.ones(10, 10, 10))
    with pytest.raises(InputError, match="mask is empty"):
        measured(values, values, torch.zeros(8, 8, 8))


def test_the_dictionary_says_how_the_halves_came_by_their_poses(
    generator: torch.Generator,
) -> None:
    one, other = torch.randn(2, 8, 8, 8, generator=generator)
    told = measured(one, other, torch.ones(8, 8, 8)).to_dict()
    assert told["poses"] == "independent"
    assert told["mask_fraction"] == 1
    assert told["randomised_from_angstrom"] == 16
    for name in ("unmasked", "masked", "phase_randomised", "corrected"):
        assert len(told[name]["correlation"]) == 5
        assert told[name]["resolution_fsc0143_angstrom"] > 0
