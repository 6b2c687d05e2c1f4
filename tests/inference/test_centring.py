"""Particles are found near the middle of their images by the average image alone."""

import torch

from cryogimbal.data.poses import PoseSet
from cryogimbal.evaluation.pose_error import pose_errors
from cryogimbal.imaging.shifts import shift_row
from cryogimbal.inference.centring import centred, centres_from_density
from cryogimbal.inference.memory_budget import MemoryBudget
from cryogimbal.inference.mode_search import ModeSearch
from tests.small_particles import PIXEL_SIZE_ANGSTROM, blob_density, in_scale, simulate_spectra


def globule(box: int) -> torch.Tensor:
    """A slightly lopsided round particle."""
    axis = torch.arange(box) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    density = torch.zeros(box, box, box)
    for dx, weight in ((-0.06, 1.0), (0.08, 0.6)):
        squared = (x - dx * box) ** 2 + (y - dx * box / 2) ** 2 + z**2
        density += weight * torch.exp(-squared / (2 * (0.1 * box) ** 2))
    return density


def test_most_of_the_displacement_is_found(box: int, generator: torch.Generator) -> None:
    shift = 0.06 * torch.randn(600, 2, generator=generator).clamp(-1.5, 1.5)
    spectra, rotation = simulate_spectra(
        globule(box), 600, generator, signal_to_noise=0.2, shift_box=shift
    )
    width = box * PIXEL_SIZE_ANGSTROM
    moved = centred(spectra, 0.15)
    centres = moved.centres
    assert centres is not None
    found = centres.shift_box
    expected = shift_row(spectra.rows, -found, spectra.disc)
    torch.testing.assert_close(moved.rows, expected, atol=1e-5, rtol=1e-4)
    few = moved.subset(torch.tensor([5, 3])).centres
    assert few is not None
    assert torch.equal(few.shift_box, found[[5, 3]])
    truth = PoseSet(rotation=rotation, shift_angstrom=shift * width)
    nothing = PoseSet(rotation=rotation, shift_angstrom=torch.zeros(600, 2))
    after = PoseSet(rotation=rotation, shift_angstrom=found * width)
    left, all_of_it = (
        pose_errors(poses, truth).shift_error_angstrom.square().mean().sqrt()
        for poses in (after, nothing)
    )
    assert left < 0.6 * all_of_it
    # Per axis; what is told of the error is about what it is.
    told = float(centres.variance_box2.mean().sqrt()) * width
    assert 0.6 < told / (float(left) / 2**0.5) < 1.6


def test_a_range_three_times_as_wide_leaves_particles_as_well_centred(
    box: int, generator: torch.Generator
) -> None:
    shift = 0.03 * torch.randn(600, 2, generator=generator)
    spectra, _ = simulate_spectra(
        globule(box), 600, generator, signal_to_noise=0.05, shift_box=shift
    )
    left, told = [], []
    for range_box in (0.06, 0.18):
        centres = centred(spectra, range_box).centres
        assert centres is not None
        left.append(float((centres.shift_box - shift).square().mean().sqrt()))
        told.append(float(centres.variance_box2.mean().sqrt()))
    assert left[1] < 1.1 * left[0]
    assert told[1] < 1.25 * told[0]


def test_images_that_say_nothing_are_left_where_they_are(
    box: int, generator: torch.Generator
) -> None:
    shift = 0.04 * torch.randn(200, 2, generator=generator)
    spectra, _ = simulate_spectra(
        globule(box), 200, generator, signal_to_noise=1e-5, shift_box=shift
    )
    centres = centred(spectra, 0.1).centres
    assert centres is not None
    found = centres.shift_box
    assert float(found.square().mean().sqrt()) < 0.5 * float(shift.square().mean().sqrt())


def test_a_density_tells_where_particles_are(box: int, generator: torch.Generator) -> None:
    shift = 0.05 * torch.randn(200, 2, generator=generator).clamp(-2, 2)
    density = blob_density(box, generator)
    spectra, truth = simulate_spectra(density, 200, generator, signal_to_noise=0.3, shift_box=shift)
    density = in_scale(spectra, density, truth, shift)
    search = ModeSearch(radius=6.0, n_side=4, n_modes=1, shift_range_box=0.1)
    budget = MemoryBudget.of_mebibytes(100)
    found = centres_from_density(spectra, density, search, budget)
    left = (found.shift_box - shift).square().mean().sqrt()
    assert left < 0.7 * shift.square().mean().sqrt()
    assert 0.5 < float(found.variance_box2.mean().sqrt() / left) < 2.0
