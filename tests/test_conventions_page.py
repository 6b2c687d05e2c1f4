"""The numbers printed in docs/conventions.md are those that the code gives."""

import math
import re
from pathlib import Path

import pytest
import roma
import torch

from cryogimbal.data.optics import CtfParameters
from cryogimbal.fourier.disc import make_disc
from cryogimbal.imaging.ctf import electron_wavelength_angstrom, transfer_function
from cryogimbal.rotations import (
    euler_zyz_deg_to_rotation,
    mirror_rotation,
    rotation_to_euler_zyz_deg,
    rotation_to_rotvec,
    rotvec_to_rotation,
)
from cryogimbal.symmetry import symmetry_group

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def page() -> str:
    path = Path(__file__).resolve().parent.parent / "docs" / "conventions.md"
    # The page prints the typographic minus sign, which float() does not know.
    return path.read_text().replace("\N{MINUS SIGN}", "-")


def numbers(text: str) -> torch.Tensor:
    return torch.tensor([float(n) for n in NUMBER.findall(text)], dtype=torch.float64)


def between(text: str, start: str, end: str) -> str:
    assert start in text and end in text, f"the page has lost {start!r} or {end!r}"
    return text.split(start, 1)[1].split(end, 1)[0]


def assert_as_printed(computed: torch.Tensor, printed: torch.Tensor, digits: int = 6) -> None:
    """Equal to half of the last printed digit (and float64 rounding)."""
    torch.testing.assert_close(computed, printed, rtol=0, atol=0.51 * 10.0**-digits)


def test_worked_pose(page: str) -> None:
    example = between(page, "### Worked example", "### What other programs store")
    rotation = euler_zyz_deg_to_rotation(numbers(between(example, "psi =", ":")))
    assert_as_printed(rotation, numbers(between(example, "A =", "viewing")).reshape(3, 3))
    assert_as_printed(rotation[2], numbers(between(example, "viewing direction", ")")))
    quaternion = numbers(between(example, "x y z w", ")"))
    assert_as_printed(roma.rotmat_to_unitquat(rotation), quaternion)
    rotvec = rotation_to_rotvec(rotation.T)
    assert_as_printed(rotvec, numbers(between(example, "radians (", ")")))
    assert_as_printed(rotvec.norm()[None], numbers(between(example, "length", "\n")))


def test_worked_mirror_pose(page: str) -> None:
    before, after = numbers(between(page, "(rot + 180°, tilt, psi + 180°):", "Shifts")).split(3)
    mirrored = mirror_rotation(euler_zyz_deg_to_rotation(before))
    assert_as_printed(rotation_to_euler_zyz_deg(mirrored), after)


def test_wavelengths(page: str) -> None:
    printed = numbers(between(page, "Wavelengths:", "\n")).reshape(3, 2)
    assert_as_printed(electron_wavelength_angstrom(printed[:, 0]), printed[:, 1], digits=8)


def test_ctf_table(page: str) -> None:
    table = numbers(between(page, "| p = 90° |\n|---|---|---|\n", "\n\n")).reshape(-1, 4)
    settings = numbers(between(page, "Values for ", "\n"))
    u, v, angle_deg, kilovolt, cs_mm, contrast = settings.tolist()
    pair = torch.ones(2, dtype=torch.float64)
    ctf = CtfParameters(
        defocus_u_angstrom=u * pair,
        defocus_v_angstrom=v * pair,
        defocus_angle_rad=math.radians(angle_deg) * pair,
        phase_shift_rad=torch.tensor([0.0, math.pi / 2], dtype=torch.float64),
        voltage_kilovolt=kilovolt * pair,
        spherical_aberration_mm=cs_mm * pair,
        amplitude_contrast=contrast * pair,
        bfactor_angstrom2=0 * pair,
        scale=pair,
    )
    assert_as_printed(transfer_function(ctf, table[:, :2]).T, table[:, 2:])


def test_order_of_a_row(page: str) -> None:
    printed = numbers(between(page, "begins (kx, ky) =", "…")).reshape(-1, 2)
    row = make_disc(8, 2.0).frequency_index.double()
    torch.testing.assert_close(row[: len(printed)], printed, rtol=0, atol=0)


def test_axes_of_the_groups(page: str) -> None:
    table = between(page, "| group | axes |", "## Shifts")
    rows = [line for line in table.splitlines() if line.startswith("| ") and "about (" in line]
    names = [re.split(r"[ ,]", row.strip("| "))[0] for row in rows]
    assert names == ["T", "O", "I", "I1", "I3", "I4"]
    for name, row in zip(names, rows, strict=True):
        operators = symmetry_group(name).operators
        for fold, vector in re.findall(r"(\d) about \(([^)]*)\)", row):
            axis = torch.nn.functional.normalize(numbers(vector), dim=0)
            turn = rotvec_to_rotation(axis * (2 * math.pi / int(fold)))
            assert (operators - turn).abs().amax((1, 2)).min() < 2e-6
