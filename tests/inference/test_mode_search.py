"""Modes are what a plain search over the whole grid finds, apart from each other, best first."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cryogimbal.imaging.centres import Centres
from cryogimbal.imaging.slices import central_slices
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.memory_budget import MemoryBudget
from cryogimbal.inference.mode_search import ModeSearch, find_modes, orientation_posterior
from cryogimbal.rotations import geodesic_distance_deg, rotation_grid
from tests.reference.posterior_sum import log_likelihoods_by_sums
from tests.small_particles import blob_density, in_scale, simulate_spectra

SEARCH = ModeSearch(radius=6.0, n_side=4, n_modes=3)
ROOMY = MemoryBudget.of_mebibytes(200)


@pytest.fixture
def known(generator: torch.Generator) -> tuple[ParticleSpectra, Tensor, Tensor]:
    """Images with hardly any noise, the density in their scale, and the true rotations."""
    density = blob_density(20, generator)
    spectra, truth = simulate_spectra(density, 40, generator, signal_to_noise=4.0)
    return spectra, in_scale(spectra, density, truth), truth


def test_the_best_mode_is_near_the_truth(known: tuple[ParticleSpectra, Tensor, Tensor]) -> None:
    spectra, density, truth = known
    modes = find_modes(spectra, density, SEARCH, ROOMY)
    errors = geodesic_distance_deg(modes.rotation[:, 0], truth)
    assert float(errors.median()) < 3.0
    assert float((errors < 10).float().mean()) > 0.9


def test_modes_lie_apart_and_come_best_first(
    known: tuple[ParticleSpectra, Tensor, Tensor],
) -> None:
    spectra, density, _ = known
    modes = find_modes(spectra, density, SEARCH, ROOMY)
    assert bool((modes.residual[:, 1:] >= modes.residual[:, :-1]).all())
    for one, other in ((0, 1), (0, 2), (1, 2)):
        found = torch.isfinite(modes.residual[:, one] + modes.residual[:, other])
        distance = geodesic_distance_deg(modes.rotation[:, one], modes.rotation[:, other])
        assert float(distance[found].min()) > SEARCH.separation_deg / 2


def test_shifts_are_looked_for_around_centres(generator: torch.Generator) -> None:
    density = blob_density(20, generator)
    shift = 0.12 * torch.nn.functional.normalize(torch.randn(40, 2, generator=generator))
    spectra, truth = simulate_spectra(density, 40, generator, signal_to_noise=4.0, shift_box=shift)
    density = in_scale(spectra, density, truth, shift)
    nearby = replace(SEARCH, shift_range_box=0.05)
    about = Centres(
        shift_box=shift + 0.02 * torch.randn(40, 2, generator=generator).clamp(-1, 1),
        variance_box2=torch.full((40,), 0.02**2),
    )
    around = find_modes(spectra, density, nearby, ROOMY, about)
    without = find_modes(spectra, density, nearby, ROOMY)
    assert around.shift_box is not None and without.shift_box is not None
    assert float((around.shift_box[:, 0] - shift).norm(dim=1).median()) < 0.01
    assert float((without.shift_box[:, 0] - shift).norm(dim=1).median()) > 0.04


@pytest.mark.parametrize("mebibytes", [1, 2])
def test_tiles_do_not_show(mebibytes: int, known: tuple[ParticleSpectra, Tensor, Tensor]) -> None:
    spectra, density, _ = known
    at_once = find_modes(spectra, density, SEARCH, ROOMY)
    tiled = find_modes(spectra, density, SEARCH, MemoryBudget.of_mebibytes(mebibytes))
    distance = geodesic_distance_deg(at_once.rotation[:, 0], tiled.rotation[:, 0])
    assert float(distance.max()) < 1e-2


def test_an_image_with_fewer_modes_says_so(
    known: tuple[ParticleSpectra, Tensor, Tensor],
) -> None:
    """No more than four rotations are all (nearly) half a turn from each other."""
    spectra, density, _ = known
    search = ModeSearch(radius=6.0, n_side=2, n_modes=6, separation_deg=170.0)
    modes = find_modes(spectra, density, search, ROOMY)
    assert bool(torch.isfinite(modes.residual[:, 0]).all())
    assert bool(torch.isinf(modes.residual[:, 4:]).all())


def test_the_residual_is_that_of_the_pose(known: tuple[ParticleSpectra, Tensor, Tensor]) -> None:
    spectra, density, _ = known
    modes = find_modes(spectra, density, SEARCH, ROOMY)
    geometry = GridGeometry(box=20, radius=6.0, oversampling=2)
    batch = spectra.batch(torch.arange(40), 6.0)
    grid = geometry.grid_of_density(density)
    predicted = batch.ctf * central_slices(grid, modes.rotation[:, 0], batch.disc, 2)
    expected = (predicted - batch.observed).square().sum(1)
    torch.testing.assert_close(modes.residual[:, 0], expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("mebibytes", [1, 200])
def test_the_posterior_over_the_grid_is_the_softmax_of_direct_sums(
    mebibytes: int, known: tuple[ParticleSpectra, Tensor, Tensor]
) -> None:
    spectra, density, _ = known
    few = spectra.subset(torch.arange(5))
    search = ModeSearch(radius=4.0, n_side=2, n_modes=1)
    budget = MemoryBudget.of_mebibytes(mebibytes)
    found = orientation_posterior(few, density, search, budget)
    batch = few.batch(torch.arange(5), 4.0)
    geometry = GridGeometry(box=20, radius=4.0, oversampling=1)
    grid = geometry.grid_of_density(density)
    slices = central_slices(grid, rotation_grid(2), batch.disc, 1)
    scores = log_likelihoods_by_sums(batch.observed, batch.ctf, slices)
    torch.testing.assert_close(found.double(), scores.softmax(dim=1), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(5))
