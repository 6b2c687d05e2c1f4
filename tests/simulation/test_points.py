"""Densities of point scatterers against sums and formulas."""

import math

import gemmi
import pytest
import torch
from torch import Tensor

from cryogimbal.errors import InputError
from cryogimbal.fourier.transforms import density_to_fourier
from cryogimbal.simulation.points import (
    PointModel,
    default_envelope_b_factor,
    form_factor,
    points_to_density,
)
from tests.reference.structure_factor import Scatterer, structure_factor_by_sum

ELEMENTS = ("C", "N", "O", "S", "Fe")
VOXEL_ANGSTROM = 2.0


def random_atoms(n: int, radius_angstrom: float, generator: torch.Generator) -> PointModel:
    """Atoms in a ball, some of them partly occupied."""
    direction = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    distance = torch.rand(n, 1, dtype=torch.float64, generator=generator) ** (1 / 3)
    unit = torch.nn.functional.normalize(direction, dim=-1)
    gaussians = [gemmi.Element(symbol).c4322 for symbol in ELEMENTS]
    return PointModel(
        name="atoms",
        position_angstrom=radius_angstrom * distance * unit,
        weight=0.5 + 0.5 * torch.rand(n, dtype=torch.float64, generator=generator),
        species_index=torch.randint(len(ELEMENTS), (n,), generator=generator),
        amplitude_angstrom=torch.tensor([g.a for g in gaussians], dtype=torch.float64),
        width_angstrom2=torch.tensor([g.b for g in gaussians], dtype=torch.float64),
    )


def scatterers_of(model: PointModel) -> list[Scatterer]:
    a, b = model.amplitude_angstrom.tolist(), model.width_angstrom2.tolist()
    rows = zip(
        model.position_angstrom.tolist(),
        model.weight.tolist(),
        model.species_index.tolist(),
        strict=True,
    )
    return [(position, weight, a[species], b[species]) for position, weight, species in rows]


def one_gaussian(position: tuple[float, float, float], width_angstrom2: float) -> PointModel:
    return PointModel(
        name="one",
        position_angstrom=torch.tensor([position], dtype=torch.float64),
        weight=torch.tensor([0.7], dtype=torch.float64),
        species_index=torch.tensor([0]),
        amplitude_angstrom=torch.tensor([[3.0]], dtype=torch.float64),
        width_angstrom2=torch.tensor([[width_angstrom2]], dtype=torch.float64),
    )


def random_frequencies(box: int, radius: float, generator: torch.Generator) -> Tensor:
    """Integer (kx, ky, kz) within a radius."""
    reach = int(radius)
    k = torch.randint(-reach, reach + 1, (400, 3), generator=generator)
    return k[k.double().norm(dim=1) <= radius][:120]


@pytest.mark.parametrize("box", [24, 25])
def test_density_equals_the_direct_structure_factor_sum(
    box: int, generator: torch.Generator
) -> None:
    side = box * VOXEL_ANGSTROM
    model = random_atoms(300, 0.95 * side / 2, generator)
    b_factor = default_envelope_b_factor(VOXEL_ANGSTROM)
    density = points_to_density(model, box, VOXEL_ANGSTROM, b_factor)
    spectrum = density_to_fourier(density.values.double()) * box**1.5 * VOXEL_ANGSTROM**3
    scatterers, found, expected = scatterers_of(model), [], []
    for k in random_frequencies(box, 0.9 * box / 2, generator).tolist():
        s = [x / side for x in k]
        envelope = math.exp(-b_factor / 4 * sum(x * x for x in s))
        expected.append(structure_factor_by_sum(scatterers, s) * envelope)
        found.append(complex(spectrum[k[2] + box // 2, k[1] + box // 2, k[0] + box // 2]))
    difference = torch.tensor(found) - torch.tensor(expected)
    assert difference.norm() < 1e-4 * torch.tensor(expected).norm()
    # Weak ones too: each to 1 % of itself, or of the typical one where it nearly vanishes.
    size = torch.tensor(expected).abs()
    assert bool((difference.abs() <= 0.01 * size.clamp_min(0.01 * float(size.median()))).all())


@pytest.mark.parametrize("box", [32, 33])
def test_a_gaussian_has_its_closed_form_in_real_space(box: int) -> None:
    position, width, b_factor = (4.3, -7.1, 2.2), 900.0, 60.0
    density = points_to_density(one_gaussian(position, width), box, VOXEL_ANGSTROM, b_factor)
    axis = (torch.arange(box, dtype=torch.float64) - box // 2) * VOXEL_ANGSTROM
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    total = width + b_factor
    squared = (x - position[0]) ** 2 + (y - position[1]) ** 2 + (z - position[2]) ** 2
    # The transform of a exp(-b s^2 / 4): a (4 pi / b)^(3/2) exp(-4 pi^2 r^2 / b).
    expected = (
        0.7 * 3.0 * (4 * math.pi / total) ** 1.5 * torch.exp(-4 * math.pi**2 * squared / total)
    )
    assert (density.values - expected).abs().max() < 1e-4 * expected.max()


def test_density_integrates_to_the_forward_scattering(generator: torch.Generator) -> None:
    model = random_atoms(100, 15.0, generator)
    density = points_to_density(model, 20, VOXEL_ANGSTROM, 30.0)
    forward = model.amplitude_angstrom.sum(1)[model.species_index]
    integral = density.values.double().sum() * VOXEL_ANGSTROM**3
    assert integral == pytest.approx(float((model.weight * forward).sum()), rel=1e-5)


@pytest.mark.parametrize("box", [24, 25])
def test_nothing_lies_beyond_nyquist(box: int, generator: torch.Generator) -> None:
    density = points_to_density(random_atoms(50, 15.0, generator), box, VOXEL_ANGSTROM, 0.0)
    spectrum = density_to_fourier(density.values.double()).abs()
    axis = torch.arange(box) - box // 2
    squared = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    assert spectrum[4 * squared >= box**2].max() < 1e-5 * spectrum.max()


def test_form_factor_is_that_of_gemmi(generator: torch.Generator) -> None:
    model = random_atoms(2, 5.0, generator)
    frequency = torch.linspace(0, 0.5, 7, dtype=torch.float64)
    for species, symbol in enumerate(ELEMENTS):
        # gemmi takes (sin theta / lambda)^2 = s^2 / 4.
        expected = [gemmi.Element(symbol).c4322.calculate_sf(s * s / 4) for s in frequency.tolist()]
        assert form_factor(model, species, frequency).tolist() == pytest.approx(expected, rel=1e-6)


def test_default_envelope_leaves_exp_minus_half_at_nyquist() -> None:
    nyquist = 1 / (2 * 3.0)
    assert math.exp(-default_envelope_b_factor(3.0) / 4 * nyquist**2) == pytest.approx(
        math.exp(-0.5)
    )


def test_a_model_larger_than_the_box_is_refused() -> None:
    model = one_gaussian((0.0, 30.0, 0.0), 100.0)
    with pytest.raises(
        InputError, match=r"one: expected .* within 20\.0 Å .* reaches 30\.0 Å"
    ) as e:
        points_to_density(model, 20, VOXEL_ANGSTROM, 0.0)
    assert "pixel size of at least 3.00 Å or a box of at least 30" in str(e.value)
    assert points_to_density(model, 30, VOXEL_ANGSTROM, 0.0).box == 30
