"""The matrix-product posterior equals direct sums."""

import pytest
import torch

from cryogimbal.fourier.disc import make_disc, mirror_row
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.shift_search import shift_grid
from cryogimbal.inference.posterior import (
    Displacements,
    direction_marginal,
    effective_orientations,
    expectation,
    fast_dtype,
    joined,
    log_likelihoods,
    posterior_centres,
    residual_of,
    temperature_for,
)
from cryogimbal.rotations import rotation_grid, sphere_grid
from tests.laws import relative_error
from tests.reference.posterior_sum import (
    expectation_by_sums,
    log_likelihoods_by_sums,
    shifted_by_sums,
)


@pytest.fixture
def batch(generator: torch.Generator) -> ParticleBatch:
    disc = make_disc(16, 5.0)
    shape = (7, disc.n_coefficients)
    ctf = torch.rand(shape, generator=generator) * 2 - 1
    return ParticleBatch(
        disc=disc,
        observed=torch.randn(shape, generator=generator),
        # Even in k, as every CTF is.
        ctf=(ctf + mirror_row(ctf)) / 2,
        index=torch.arange(7),
    )


@pytest.fixture
def slices(batch: ParticleBatch, generator: torch.Generator) -> torch.Tensor:
    return 0.4 * torch.randn(11, batch.disc.n_coefficients, generator=generator)


def test_scores_are_log_likelihoods_up_to_a_constant_per_image(
    batch: ParticleBatch, slices: torch.Tensor
) -> None:
    scores = log_likelihoods(batch, slices).double()
    expected = log_likelihoods_by_sums(batch.observed, batch.ctf, slices)
    constant = -0.5 * batch.observed.double().square().sum(1, keepdim=True)
    assert relative_error(scores + constant, expected) < 1e-6
    assert torch.equal(scores.argmax(dim=1), expected.argmax(dim=1))
    per_coefficient = -2 * expected.max(dim=1).values / batch.disc.n_coefficients
    loss = residual_of(batch, scores.max(dim=1).values.float())
    assert relative_error(loss.double(), per_coefficient) < 1e-5


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("tile", [1, 3, 100])
def test_expectation_equals_direct_sums(
    batch: ParticleBatch, slices: torch.Tensor, temperature: float, tile: int
) -> None:
    parts = [batch.rows(slice(first, first + tile)) for first in range(0, 7, tile)]
    found = joined([expectation(part, slices, temperature=temperature) for part in parts])
    data, weight = expectation_by_sums(batch.observed, batch.ctf, slices, temperature)
    assert relative_error(found.weighted_data.double(), data) < 1e-5
    assert relative_error(found.weight.double(), weight) < 1e-5


def test_loss_is_the_mean_squared_residual_of_the_best_orientation(
    batch: ParticleBatch, slices: torch.Tensor
) -> None:
    found = expectation(batch, slices, temperature=1.0)
    residual = (batch.ctf * slices[found.best] - batch.observed).square().mean(1)
    assert relative_error(found.loss, residual) < 1e-5


def test_effective_orientations_count_equal_candidates(batch: ParticleBatch) -> None:
    same = torch.zeros(5, batch.disc.n_coefficients)
    found = expectation(batch, same, temperature=1.0)
    assert torch.allclose(found.effective_orientations, torch.full((7,), 5.0))


def with_every_shift(
    batch: ParticleBatch, slices: torch.Tensor, shifts: torch.Tensor
) -> torch.Tensor:
    """Slices of displaced particles, the orientations of one shift after each other."""
    moved = [
        shifted_by_sums(row, shift, batch.disc.frequency_index)
        for shift in shifts
        for row in slices
    ]
    return torch.stack(moved)


def test_scores_are_those_of_the_best_displaced_slice(
    batch: ParticleBatch, slices: torch.Tensor
) -> None:
    shifts = shift_grid(0.12, batch.disc.radius)
    assert len(shifts) == 13
    scores = log_likelihoods(batch, slices, shifts=shifts).double()
    moved = with_every_shift(batch, slices, shifts)
    expected = log_likelihoods_by_sums(batch.observed, batch.ctf, moved)
    constant = -0.5 * batch.observed.double().square().sum(1, keepdim=True)
    best = expected.view(7, len(shifts), 11).amax(dim=1)
    assert relative_error(scores + constant, best) < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_expectation_over_shifts_equals_direct_sums(
    batch: ParticleBatch, slices: torch.Tensor, temperature: float
) -> None:
    shifts = shift_grid(0.12, batch.disc.radius)
    displacements = Displacements(shift_box=shifts, log_prior=torch.zeros(7, len(shifts)))
    found = expectation(batch, slices, temperature=temperature, displacements=displacements)
    moved = with_every_shift(batch, slices, shifts)
    data, weight = expectation_by_sums(batch.observed, batch.ctf, moved, temperature)
    # A displaced image is put back before it counts for the particle.
    data = data.view(len(shifts), 11, -1)
    back = torch.stack(
        [
            shifted_by_sums(row, -shift, batch.disc.frequency_index)
            for shift, rows in zip(shifts, data, strict=True)
            for row in rows
        ]
    )
    assert relative_error(found.weighted_data.double(), back.view_as(data).sum(0)) < 1e-5
    assert relative_error(found.weight.double(), weight.view_as(data).sum(0)) < 1e-5
    scores = log_likelihoods(batch, slices, shifts=shifts)
    assert torch.equal(found.best, scores.argmax(dim=1))


def test_centres_are_the_mean_displacement_over_all_orientations(
    batch: ParticleBatch, slices: torch.Tensor, generator: torch.Generator
) -> None:
    shifts = shift_grid(0.12, batch.disc.radius)
    prior = torch.randn(7, len(shifts), generator=generator)
    displacements = Displacements(shift_box=shifts, log_prior=prior)
    moved = with_every_shift(batch, slices, shifts)
    scores = log_likelihoods_by_sums(batch.observed, batch.ctf, moved).view(7, len(shifts), 11)
    joint = torch.softmax((scores + prior.double()[:, :, None]).flatten(1), 1).view_as(scores)
    mean = torch.einsum("nso,sa->na", joint, shifts.double())
    square = torch.einsum("nso,sa->n", joint, shifts.double().square())
    for found in (
        expectation(batch, slices, temperature=1.0, displacements=displacements).centres,
        posterior_centres(batch, slices, displacements),
    ):
        assert found is not None
        assert relative_error(found.shift_box.double(), mean) < 1e-5
        variance = (square - mean.square().sum(1)) / 2
        assert relative_error(found.variance_box2.double(), variance) < 1e-4


@pytest.mark.parametrize("target", [1.5, 3.0, 8.0])
def test_the_temperature_shares_a_median_image_among_the_target_number(
    batch: ParticleBatch, slices: torch.Tensor, target: float
) -> None:
    scores = 5 * log_likelihoods(batch, slices)
    posterior = torch.softmax(scores / temperature_for(scores, target), dim=1)
    assert float(effective_orientations(posterior).median()) == pytest.approx(target, rel=0.05)


def test_no_temperature_below_that_of_the_data(batch: ParticleBatch) -> None:
    flat = torch.zeros(7, 11)
    assert temperature_for(flat, 2.0) == 1.0


def test_low_precision_scores_are_close(batch: ParticleBatch, slices: torch.Tensor) -> None:
    exact = log_likelihoods(batch, slices)
    assert relative_error(log_likelihoods(batch, slices, dtype=torch.bfloat16), exact) < 0.01
    found = expectation(batch, slices, temperature=1.0, dtype=torch.bfloat16)
    expected = expectation(batch, slices, temperature=1.0)
    assert relative_error(found.weight, expected.weight) < 0.05
    assert fast_dtype(torch.device("cpu")) in (torch.bfloat16, torch.float32)


def test_the_direction_marginal_sums_over_in_plane_angles() -> None:
    n_side = 2
    grid, directions = rotation_grid(n_side), sphere_grid(n_side)
    posterior = torch.zeros(1, len(grid))
    chosen = torch.tensor([5, 100, 101])
    posterior[0, chosen] = torch.tensor([0.5, 0.2, 0.3])
    marginal = direction_marginal(posterior, 6 * n_side)
    expected = torch.zeros(1, len(directions))
    for orientation, share in zip(chosen, (0.5, 0.2, 0.3), strict=True):
        # The third row of a rotation is the viewing direction.
        seen = (directions - grid[orientation, 2]).norm(dim=1).argmin()
        expected[0, seen] += share
    torch.testing.assert_close(marginal, expected)
