import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cryogimbal.data.optics import CtfParameters
from cryogimbal.imaging.ctf import electron_wavelength_angstrom, transfer_function
from tests.imaging.optics_values import in_float32, random_ctf
from tests.reference.ctf_loop import ctf_by_loop

# Made with RELION's formula: frequency (1/Å), value at a phase shift of 0 and of 90 degrees.
TABLE = [
    ((0.0, 0.0), 0.100000, 0.994987),
    ((0.02, 0.0), 0.448453, 0.893807),
    ((0.0, 0.02), 0.437362, 0.899285),
    ((0.05, 0.0), 0.690885, -0.722965),
    ((0.1, 0.1), -0.395460, 0.918483),
]


def table_ctf(dtype: torch.dtype) -> CtfParameters:
    """U 15000 Å, V 14000 Å at 30 degrees, 300 kV, Cs 2.7 mm, Q 0.1; phase shift 0 and 90 degrees."""
    pair = torch.ones(2, dtype=dtype)
    return CtfParameters(
        defocus_u_angstrom=15000 * pair,
        defocus_v_angstrom=14000 * pair,
        defocus_angle_rad=math.pi / 6 * pair,
        phase_shift_rad=torch.tensor([0.0, math.pi / 2], dtype=dtype),
        voltage_kilovolt=300 * pair,
        spherical_aberration_mm=2.7 * pair,
        amplitude_contrast=0.1 * pair,
        bfactor_angstrom2=0 * pair,
        scale=pair,
    )


def frequencies(n: int, generator: torch.Generator, *, highest: float = 0.25) -> Tensor:
    return highest * (2 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_table_of_values(dtype: torch.dtype) -> None:
    frequency = torch.tensor([k for k, *_ in TABLE], dtype=dtype)
    expected = torch.tensor([values for _, *values in TABLE], dtype=dtype).T
    found = transfer_function(table_ctf(dtype), frequency)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kilovolt", "angstrom"), [(300, 0.01968762), (200, 0.02507949), (100, 0.03701458)]
)
def test_wavelength(kilovolt: float, angstrom: float) -> None:
    found = electron_wavelength_angstrom(torch.tensor(kilovolt, dtype=torch.float64))
    assert float(found) == pytest.approx(angstrom, abs=6e-9)


def test_equals_a_loop_over_pixels(generator: torch.Generator) -> None:
    ctf, frequency = random_ctf(6, generator), frequencies(200, generator)
    found = transfer_function(ctf, frequency)
    torch.testing.assert_close(found, ctf_by_loop(ctf, frequency), atol=1e-10, rtol=0)


def test_single_precision_is_good_to_a_thousandth(generator: torch.Generator) -> None:
    # Phases reach 500 rad here, of which float32 keeps seven digits.
    ctf, frequency = random_ctf(50, generator), frequencies(200, generator)
    found = transfer_function(in_float32(ctf), frequency.float())
    assert found.dtype == torch.float32
    expected = transfer_function(ctf, frequency)
    assert float((found - expected).abs().max()) < 1e-3


def test_astigmatism_points_along_the_defocus_angle(generator: torch.Generator) -> None:
    # Along the defocus angle the CTF is that of U alone, across it that of V alone.
    ctf = random_ctf(20, generator)
    k = 0.06
    for turn, defocus in (
        (0.0, ctf.defocus_u_angstrom),
        (math.pi, ctf.defocus_u_angstrom),
        (math.pi / 2, ctf.defocus_v_angstrom),
    ):
        alone = replace(ctf, defocus_u_angstrom=defocus, defocus_v_angstrom=defocus)
        for particle in range(20):
            azimuth = float(ctf.defocus_angle_rad[particle]) + turn
            along = torch.tensor([[k * math.cos(azimuth), k * math.sin(azimuth)]]).double()
            chosen = torch.tensor([particle])
            torch.testing.assert_close(
                transfer_function(ctf[chosen], along),
                transfer_function(alone[chosen], along),
                atol=1e-9,
                rtol=0,
            )


def test_a_positive_angle_turns_from_x_towards_y() -> None:
    # U > V at 45 degrees: on the diagonal x = y the defocus is larger than on x = -y.
    ctf = replace(
        table_ctf(torch.float64), defocus_angle_rad=torch.full((2,), math.pi / 4).double()
    )
    near_zero = 0.004  # before the first maximum the CTF grows with defocus
    diagonal, other = transfer_function(
        ctf, torch.tensor([[near_zero, near_zero], [near_zero, -near_zero]]).double()
    )[0]
    assert float(diagonal) > float(other) > 0


def test_exchange_of_the_defoci_is_a_quarter_turn(generator: torch.Generator) -> None:
    ctf, frequency = random_ctf(10, generator), frequencies(50, generator)
    exchanged = replace(
        ctf,
        defocus_u_angstrom=ctf.defocus_v_angstrom,
        defocus_v_angstrom=ctf.defocus_u_angstrom,
        defocus_angle_rad=ctf.defocus_angle_rad + math.pi / 2,
    )
    torch.testing.assert_close(
        transfer_function(ctf, frequency), transfer_function(exchanged, frequency)
    )


def test_friedel_symmetry(generator: torch.Generator) -> None:
    ctf, frequency = random_ctf(10, generator), frequencies(50, generator)
    assert torch.equal(transfer_function(ctf, frequency), transfer_function(ctf, -frequency))


def test_at_the_origin_it_is_the_amplitude_contrast(generator: torch.Generator) -> None:
    ctf = random_ctf(10, generator)
    ctf = replace(ctf, phase_shift_rad=torch.zeros(10).double())
    found = transfer_function(ctf, torch.zeros(1, 2).double())[:, 0]
    torch.testing.assert_close(found, ctf.scale * ctf.amplitude_contrast)


def test_b_factor_and_scale_are_factors(generator: torch.Generator) -> None:
    ctf, frequency = random_ctf(10, generator), frequencies(50, generator)
    bare = replace(ctf, scale=torch.ones(10).double(), bfactor_angstrom2=torch.zeros(10).double())
    decay = torch.exp(-ctf.bfactor_angstrom2[:, None] / 4 * frequency.square().sum(-1))
    expected = transfer_function(bare, frequency) * decay * ctf.scale[:, None]
    torch.testing.assert_close(transfer_function(ctf, frequency), expected)
