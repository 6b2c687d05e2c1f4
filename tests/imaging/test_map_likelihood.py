"""What back-projected sums say of a map is what its slices say image by image."""

import pytest
import torch
from torch import Tensor

from cryogimbal.evaluation.masks import soft_sphere_mask
from cryogimbal.fourier.disc import make_disc
from cryogimbal.imaging.backprojection import SufficientStatistics
from cryogimbal.imaging.map_likelihood import fit_per_shell
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.rotations import random_rotations
from tests.reference.projection_slice import agreement_and_power, slice_by_sums

N_IMAGES = 400


def random_map(box: int, generator: torch.Generator) -> Tensor:
    """White noise in a ball of half the box, which no image has anything to do with."""
    ball = soft_sphere_mask(box, 1.0, diameter_angstrom=0.45 * box, edge_angstrom=1.0)
    return torch.randn(box, box, box, generator=generator) * ball


@pytest.mark.parametrize("box", [12, 13])
@pytest.mark.parametrize("oversampling", [1, 2])
def test_sums_agree_with_every_image_by_itself(
    box: int, oversampling: int, generator: torch.Generator
) -> None:
    geometry = GridGeometry(box=box, radius=box / 2 - 1, oversampling=oversampling)
    disc, rotation = make_disc(box, box / 2 - 1), random_rotations(N_IMAGES, generator)
    density = random_map(box, generator)
    # A factor per image and ring stands for the CTF: it changes sign and has zeros.
    defocus = 0.1 + 0.2 * torch.rand(N_IMAGES, 1, generator=generator)
    ctf = torch.sin(0.3 + defocus * disc.radius_per_coefficient.square())
    clean = torch.stack([slice_by_sums(density, r, disc.frequency_index) for r in rotation])
    noise = torch.randn(clean.shape, generator=generator)
    observed = 0.6 * ctf * clean.float() + noise
    statistics = SufficientStatistics.zeros(geometry)
    statistics.add_slices(ctf * observed, ctf.square(), rotation, disc, oversampling)
    found = fit_per_shell(density, statistics, geometry)
    agreement, power = agreement_and_power(density, observed, ctf, rotation, disc.frequency_index)
    # Trilinear slices are not the density's own: a little is left with, more without padding.
    tolerance = {1: 0.03, 2: 0.01}[oversampling]
    assert float(found.power.sum()) == pytest.approx(float(power.sum()), rel=tolerance)
    assert float(found.agreement.sum()) == pytest.approx(float(agreement.sum()), rel=tolerance)
    expected = float((agreement - power / 2).sum())
    assert found.log_likelihood() == pytest.approx(expected, abs=tolerance * float(power.sum()))


def test_a_filter_on_shells_is_a_filter_of_the_map(generator: torch.Generator) -> None:
    geometry, disc = GridGeometry(box=12, radius=5.0, oversampling=2), make_disc(12, 5.0)
    rows = torch.randn(20, disc.n_coefficients, generator=generator)
    statistics = SufficientStatistics.zeros(geometry)
    statistics.add_slices(rows, rows.square(), random_rotations(20, generator), disc, 2)
    density = random_map(12, generator)
    factor = torch.full((6,), 0.3, dtype=torch.float64)
    filtered = fit_per_shell(density, statistics, geometry).filtered(factor)
    weaker = fit_per_shell(0.3 * density, statistics, geometry)
    torch.testing.assert_close(filtered.agreement, weaker.agreement, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(filtered.power, weaker.power, rtol=1e-4, atol=1e-4)


def test_noise_alone_scatters_the_agreement_by_the_root_of_the_power(
    generator: torch.Generator,
) -> None:
    geometry, disc = GridGeometry(box=12, radius=5.0, oversampling=2), make_disc(12, 5.0)
    rotation, density = random_rotations(60, generator), random_map(12, generator)
    ones = torch.ones(60, disc.n_coefficients)
    agreements, power = [], 0.0
    for _ in range(100):
        noise = torch.randn(ones.shape, generator=generator)
        statistics = SufficientStatistics.zeros(geometry)
        statistics.add_slices(noise, ones, rotation, disc, 2)
        fit = fit_per_shell(density, statistics, geometry)
        agreements.append(float(fit.agreement.sum()))
        power = float(fit.power.sum())
    # A standard deviation of 100 draws is known to 7 %.
    assert float(torch.tensor(agreements).std()) == pytest.approx(power**0.5, rel=0.25)
