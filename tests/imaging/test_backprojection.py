import itertools
import math

import pytest
import torch
from torch import Tensor

from cryogimbal.fourier.disc import make_disc
from cryogimbal.fourier.shells import shell_sum
from cryogimbal.fourier.transforms import density_to_hartley
from cryogimbal.imaging.backprojection import (
    SufficientStatistics,
    mean_weight_per_shell,
    solve_density,
)
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.rotations import random_rotations
from tests.imaging.gaussian_phantom import random_phantom
from tests.laws import relative_error
from tests.reference.direct_slice import backprojection_by_loop


def shell_correlation(a: Tensor, b: Tensor) -> Tensor:
    """``sum H1 H2 / sqrt(sum H1^2 sum H2^2)`` per shell."""
    one, other = density_to_hartley(a.double()), density_to_hartley(b.double())
    power = shell_sum(one.square(), 3) * shell_sum(other.square(), 3)
    return shell_sum(one * other, 3) / power.sqrt()


def test_statistics_are_sums_over_images(generator: torch.Generator) -> None:
    geometry, disc = GridGeometry(box=6, radius=3.0, oversampling=2), make_disc(6)
    rotation = random_rotations(4, generator)
    data, weight = torch.randn(2, 4, disc.n_coefficients, generator=generator)
    together = SufficientStatistics.zeros(geometry)
    together.add_slices(data, weight, rotation, disc, 2)
    for found, rows in ((together.data, data), (together.weight, weight)):
        expected = backprojection_by_loop(rows, rotation, disc.frequency_index, geometry.side, 2)
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    halves = [SufficientStatistics.zeros(geometry) for _ in range(2)]
    for half, part in zip(halves, (slice(0, 1), slice(1, 4)), strict=True):
        half.add_slices(data[part], weight[part], rotation[part], disc, 2)
    torch.testing.assert_close((halves[0] + halves[1]).data, together.data)
    torch.testing.assert_close((halves[0] + halves[1]).weight, together.weight)
    assert torch.equal(together.scaled(0.25).data, together.data / 4)
    assert torch.equal(together.scaled(0.25).weight, together.weight / 4)


# Without oversampling the slices crowd within one grid step near the origin, so that the quotient
# is no even average there: the lowest shells suffer.
@pytest.mark.parametrize(("oversampling", "first_good_shell"), [(1, 4), (2, 0)])
@pytest.mark.parametrize("side", [24, 25])
def test_noise_free_slices_give_the_particle_back(
    oversampling: int, first_good_shell: int, side: int, generator: torch.Generator
) -> None:
    geometry = GridGeometry(box=side, radius=side / 2, oversampling=oversampling)
    disc, rotation = make_disc(side), random_rotations(1500, generator)
    phantom = random_phantom(generator, reach=side / 4)
    clean = torch.stack(
        [phantom.turned(r).hartley_slice(disc.frequency_index, side) for r in rotation]
    ).float()
    # A factor per image and ring stands for the CTF: it changes sign and has zeros.
    defocus = 0.1 + 0.2 * torch.rand(len(rotation), 1, generator=generator)
    ctf = torch.sin(0.3 + defocus * disc.radius_per_coefficient.square())
    statistics = SufficientStatistics.zeros(geometry)
    statistics.add_slices(ctf.square() * clean, ctf.square(), rotation, disc, oversampling)
    prior = 1e-3 * mean_weight_per_shell(statistics, geometry)
    found, truth = solve_density(statistics, geometry, prior), phantom.density(side)
    n_shells = int(0.8 * side / 2) + 1
    correlation = shell_correlation(found, truth)[:n_shells]
    assert float(correlation[first_good_shell:].min()) > 0.99
    assert float(correlation.min()) > 0.9
    # The scale is the particle's own: the slope of found against true values is 1.
    slope = float((found * truth).sum() / truth.square().sum())
    assert slope == pytest.approx(1, abs=0.03)


def test_the_prior_is_a_wiener_filter(generator: torch.Generator) -> None:
    geometry, disc = GridGeometry(box=8, radius=4.0, oversampling=1), make_disc(8)
    rows = torch.randn(50, disc.n_coefficients, generator=generator)
    statistics = SufficientStatistics.zeros(geometry)
    statistics.add_slices(rows, torch.ones_like(rows), random_rotations(50, generator), disc, 1)
    # With every weight W and prior 3 W, the quotient is a quarter of that without a prior.
    even = SufficientStatistics(data=statistics.data, weight=torch.full((9, 9, 9), 2.0))
    free = solve_density(even, geometry, torch.zeros(5))
    damped = solve_density(even, geometry, torch.full((5,), 6.0))
    torch.testing.assert_close(damped, free / 4)


def test_cells_that_no_image_reached_are_empty() -> None:
    geometry = GridGeometry(box=8, radius=4.0, oversampling=2)
    density = solve_density(SufficientStatistics.zeros(geometry), geometry, torch.zeros(5))
    assert torch.equal(density, torch.zeros(8, 8, 8))


@pytest.mark.parametrize(("side_box", "oversampling"), [(6, 1), (7, 1), (6, 2)])
def test_mean_weights_equal_a_loop(
    side_box: int, oversampling: int, generator: torch.Generator
) -> None:
    geometry = GridGeometry(box=side_box, radius=side_box / 2, oversampling=oversampling)
    side = geometry.side
    weight = torch.rand(side, side, side, generator=generator)
    statistics = SufficientStatistics(data=torch.zeros_like(weight), weight=weight)
    cells: dict[int, list[float]] = {}
    for place in itertools.product(range(side), repeat=3):
        radius = math.sqrt(sum((i - side // 2) ** 2 for i in place)) / oversampling
        # Python and torch both round halves to even.
        cells.setdefault(round(radius), []).append(float(weight[place]))
    found = mean_weight_per_shell(statistics, geometry)
    expected = [sum(cells[s]) / len(cells[s]) for s in range(int(geometry.radius) + 1)]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_statistics_that_are_scaled_give_the_same_density(
    box: int, generator: torch.Generator
) -> None:
    geometry, disc = GridGeometry(box=box, radius=box / 2, oversampling=1), make_disc(box)
    rows = torch.randn(200, disc.n_coefficients, generator=generator)
    statistics = SufficientStatistics.zeros(geometry)
    statistics.add_slices(rows, torch.ones_like(rows), random_rotations(200, generator), disc, 1)
    prior = 0.1 * mean_weight_per_shell(statistics, geometry)
    one = solve_density(statistics, geometry, prior)
    other = solve_density(statistics.scaled(7.0), geometry, 7 * prior)
    assert relative_error(other, one) < 1e-5
