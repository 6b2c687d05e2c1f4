"""Atomic models as point scatterers."""

from pathlib import Path

import pytest
import torch

from cryogimbal.errors import InputError
from cryogimbal.io.atoms import AtomicModel, read_atomic_model
from cryogimbal.simulation.atoms import atoms_to_points


def small_model(elements: tuple[str, ...] = ("C", "O")) -> AtomicModel:
    return AtomicModel(
        path=Path("small.pdb"),
        elements=elements,
        element_index=torch.tensor([0, 1, 1]),
        position_angstrom=torch.tensor(
            [[1.0, 2.0, 3.0], [4.0, 0.0, 0.0], [-2.0, 5.0, 1.0]], dtype=torch.float64
        ),
        occupancy=torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64),
    )


def test_the_centre_of_mass_comes_to_the_origin() -> None:
    model = small_model()
    # Standard atomic weights: C 12.011, O 15.999.
    mass = torch.tensor([12.011, 0.5 * 15.999, 15.999], dtype=torch.float64)
    points = atoms_to_points(model)
    assert (mass @ points.position_angstrom).norm() < 1e-4 * mass.sum()
    shift = model.position_angstrom - points.position_angstrom
    torch.testing.assert_close(shift, shift[:1].expand(3, 3))
    torch.testing.assert_close(points.weight, model.occupancy)


def test_form_factors_at_zero_are_those_of_the_tables() -> None:
    points = atoms_to_points(small_model())
    # International Tables C, table 4.3.1.1, at s = 0: carbon 2.5088 Å, oxygen 1.9826 Å.
    assert points.amplitude_angstrom.sum(1).tolist() == pytest.approx([2.509, 1.983], abs=0.01)


def test_an_element_without_form_factor_is_refused() -> None:
    with pytest.raises(InputError, match=r"small\.pdb: expected .* \(H to Cf\), found Es"):
        atoms_to_points(small_model(("C", "Es")))


# Heavy atoms as counted by the archive; radii that fit the boxes of the published simulations.
@pytest.mark.parametrize(
    ("name", "n_atoms", "half_box_angstrom"),
    [
        ("2cg9.pdb.gz", 11906, 96.0),
        ("6vyb.pdb.gz", 22365, 136.3),
        ("3j9i.pdb.gz", 46228, 128.0),
        ("4V5A_assembly1_70S.cif.gz", 145243, 160.0),
    ],
)
def test_reference_models_load(
    reference_data: Path, name: str, n_atoms: int, half_box_angstrom: float
) -> None:
    points = atoms_to_points(read_atomic_model(reference_data / "atomic" / name))
    assert len(points.weight) == n_atoms
    assert 0.5 * half_box_angstrom < points.radius_angstrom < half_box_angstrom
