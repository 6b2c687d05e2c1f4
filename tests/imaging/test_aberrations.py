"""Sizes of aberrations, from their formulas worked by hand."""

import math

import pytest
import torch

from cryogimbal.data.aberrations import Aberration, AberrationKind
from cryogimbal.imaging.aberrations import phase_error_rad, zernike, zernike_order
from tests.small_particles import constant_ctf

WAVELENGTH = 0.01968762  # 300 kV


def size_of(kind: AberrationKind, values: tuple[float, ...], frequency: float) -> float:
    ctf = constant_ctf(3, torch.Generator().manual_seed(0))
    one = Aberration(kind=kind, values=values, columns=("x",), place="row 1", particle=0)
    error = phase_error_rad(
        one, ctf, frequency_per_angstrom=frequency, particle_radius_angstrom=100.0
    )
    return math.degrees(error)


def test_a_beam_tilt_counts_with_the_third_power_of_the_frequency() -> None:
    # RELION: 0.360 degrees x Cs (mm) x 1e7 x wavelength^2 x k^3 x tilt (mrad).
    expected = 0.360 * 2.7e7 * WAVELENGTH**2 * 0.1**3 * 0.5
    assert size_of("beam tilt", (0.3, -0.4), 0.1) == pytest.approx(expected, rel=1e-5)
    assert size_of("beam tilt", (0.3, -0.4), 0.2) == pytest.approx(8 * expected, rel=1e-5)
    assert size_of("beam tilt", (math.inf, 0.0), 0.1) == math.inf


def test_a_magnification_counts_at_the_edge_of_the_particle() -> None:
    found = size_of("anisotropic magnification", (1.01, 0.0, 0.0, 1.0), 0.05)
    assert found == pytest.approx(360 * 0.01 * 0.05 * 100, rel=1e-6)


def test_zernike_coefficients_add_up() -> None:
    # The first even one is constant; the fourth odd one is R(3, 1) = 3 r^3 - 2 r.
    assert size_of("even Zernike", (0.1,), 0.1) == pytest.approx(math.degrees(0.1))
    expected = abs(3 * 0.1**3 - 2 * 0.1)
    found = size_of("odd Zernike", (0.0, 0.0, 0.0, 0.0, 1.0), 0.1)
    assert found == pytest.approx(math.degrees(expected), rel=1e-2)


@pytest.mark.parametrize("odd", [False, True])
def test_zernike_polynomials_are_orthogonal_on_the_unit_disc(odd: bool) -> None:
    axis = torch.linspace(-1, 1, 401, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radius, phi = torch.hypot(x, y), torch.atan2(y, x)
    inside = radius <= 1
    orders = [zernike_order(i, odd=odd) for i in range(9)]
    assert len(set(orders)) == 9
    assert all((n - m) % 2 == 0 and abs(m) <= n and n % 2 == odd for n, m in orders)
    rows = torch.stack([zernike(n, m, radius[inside], phi[inside]) for n, m in orders])
    rows = torch.nn.functional.normalize(rows)
    torch.testing.assert_close(rows @ rows.T, torch.eye(9).double(), atol=0.02, rtol=0)
