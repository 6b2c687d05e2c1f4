"""The best shift of a rotation is that of the largest likelihood, found for all shifts at once."""

import pytest
import torch
from torch import Tensor

from cryogimbal.imaging.pose_fit import hypotheses_of, pose_fits
from cryogimbal.imaging.shift_search import best_shifts, centres_by_mean_slice, shift_grid
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.rotations import random_rotations, rotation_grid
from tests.small_particles import blob_density, simulate_spectra

RANGE = 0.15


def displaced(
    box: int, n: int, generator: torch.Generator, *, signal_to_noise: float
) -> tuple[ParticleSpectra, PreparedGrid, Tensor, Tensor]:
    """Images, the density in their scale, true rotations and shifts (fractions of the box)."""
    density = blob_density(box, generator)
    shift = (torch.rand(n, 2, generator=generator) - 0.5) * 1.2 * RANGE
    spectra, rotation = simulate_spectra(
        density, n, generator, signal_to_noise=signal_to_noise, shift_box=shift
    )
    grid = GridGeometry(box=box, radius=box / 2, oversampling=2)
    batch = spectra.batch(torch.arange(n), box / 2).centred(shift)
    clean = PreparedGrid.of(grid.grid_of_density(density), 2).slices(rotation, batch.disc)
    clean = clean * batch.ctf
    scale = float((clean * batch.observed).sum() / clean.square().sum())
    return spectra, PreparedGrid.of(grid.grid_of_density(density * scale), 2), rotation, shift


@pytest.mark.parametrize(("range_box", "radius"), [(0.1, 8.0), (0.15, 4.0), (0.0, 6.0)])
def test_the_grid_fills_the_disc(
    range_box: float, radius: float, generator: torch.Generator
) -> None:
    shifts = shift_grid(range_box, radius)
    assert shifts[0].tolist() == [0.0, 0.0]
    lengths = shifts.norm(dim=1)
    assert bool((lengths[1:] >= lengths[:-1]).all())
    assert float(lengths.max()) <= range_box + 1e-6
    assert torch.equal(shifts.sum(0).round(decimals=5), torch.zeros(2))
    anywhere = torch.rand(500, 2, generator=generator) * 2 - 1
    inside = anywhere[anywhere.norm(dim=1) < 1] * range_box
    nearest = torch.cdist(inside, shifts).amin(dim=1)
    # A square grid: half a diagonal inside, at most one step at the rim.
    assert float(nearest.max()) <= 0.3 / radius


def test_the_best_shift_is_that_of_least_residual(box: int, generator: torch.Generator) -> None:
    spectra, prepared, _, _ = displaced(box, 5, generator, signal_to_noise=0.5)
    batch = spectra.batch(torch.arange(5), 5.0)
    rotation = random_rotations(15, generator).view(5, 3, 3, 3)
    shifts = shift_grid(RANGE, 5.0)
    found = best_shifts(prepared, hypotheses_of(rotation), batch, shifts)
    left = torch.stack(
        [
            pose_fits(prepared, hypotheses_of(rotation, shift.expand(5, 3, 2)), batch)[0]
            for shift in shifts
        ]
    )
    assert torch.equal(found, shifts[left.argmin(dim=0)])


def test_a_known_shift_is_the_centre_of_the_search(box: int, generator: torch.Generator) -> None:
    spectra, prepared, truth, shift = displaced(box, 30, generator, signal_to_noise=4.0)
    batch = spectra.batch(torch.arange(30), 6.0)
    near = shift_grid(0.12, 6.0)
    around = hypotheses_of(truth[:, None], (shift + 0.04)[:, None])
    found = best_shifts(prepared, around, batch, near)
    assert float((found - shift).norm(dim=1).median()) < 0.3 / 6.0 * 0.71


def test_the_mean_slice_finds_centres_without_poses(box: int, generator: torch.Generator) -> None:
    spectra, prepared, _, shift = displaced(box, 200, generator, signal_to_noise=1.0)
    batch = spectra.batch(torch.arange(200), 5.0)
    slices = prepared.slices(rotation_grid(2), batch.disc)
    mean = slices.mean(0)
    varies = (slices - mean).square().mean(0)
    found = centres_by_mean_slice(batch, mean, varies, RANGE).shift_box
    before, after = shift.square().mean().sqrt(), (found - shift).square().mean().sqrt()
    assert after < 0.8 * before
