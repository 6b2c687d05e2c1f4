"""The matrix-product posterior equals direct sums."""

import pytest
import torch

from cryogimbal.fourier.disc import make_disc
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.inference.posterior import (
    effective_orientations,
    expectation,
    log_likelihoods,
    most_probable,
    temperature_for,
)
from tests.laws import relative_error
from tests.reference.posterior_sum import expectation_by_sums, log_likelihoods_by_sums


@pytest.fixture
def batch(generator: torch.Generator) -> ParticleBatch:
    disc = make_disc(16, 5.0)
    shape = (7, disc.n_coefficients)
    return ParticleBatch(
        disc=disc,
        observed=torch.randn(shape, generator=generator),
        ctf=torch.rand(shape, generator=generator) * 2 - 1,
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
    best, loss = most_probable(batch, slices)
    assert torch.equal(best, expected.argmax(dim=1))
    per_coefficient = -2 * expected.max(dim=1).values / batch.disc.n_coefficients
    assert relative_error(loss.double(), per_coefficient) < 1e-5


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("tile", [1, 3, 100])
def test_expectation_equals_direct_sums(
    batch: ParticleBatch, slices: torch.Tensor, temperature: float, tile: int
) -> None:
    found = expectation(batch, slices, temperature=temperature, tile=tile)
    data, weight = expectation_by_sums(batch.observed, batch.ctf, slices, temperature)
    assert relative_error(found.weighted_data.double(), data) < 1e-5
    assert relative_error(found.weight.double(), weight) < 1e-5


def test_loss_is_the_mean_squared_residual_of_the_best_orientation(
    batch: ParticleBatch, slices: torch.Tensor
) -> None:
    found = expectation(batch, slices, temperature=1.0, tile=4)
    residual = (batch.ctf * slices[found.best] - batch.observed).square().mean(1)
    assert relative_error(found.loss, residual) < 1e-5


def test_effective_orientations_count_equal_candidates(batch: ParticleBatch) -> None:
    same = torch.zeros(5, batch.disc.n_coefficients)
    found = expectation(batch, same, temperature=1.0, tile=4)
    assert torch.allclose(found.effective_orientations, torch.full((7,), 5.0))


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
