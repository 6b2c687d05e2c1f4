"""Atomic models as point scatterers of electrons.

Form factors are the five Gaussians of International Tables for Crystallography C (2011), table
4.3.2.2, for neutral atoms, as gemmi carries them. Temperature factors of the file are not used: the
stated envelope of the density (see ``points.py``) takes their place. There is no solvent.
"""

import gemmi
import torch

from cryogimbal.errors import InputError
from cryogimbal.io.atoms import AtomicModel
from cryogimbal.simulation.points import PointModel


def atoms_to_points(model: AtomicModel) -> PointModel:
    """The atoms with their form factors, their centre of mass moved to the origin.

    Raises
    ------
    InputError
        If an element has no electron form factor.
    """
    coefficients = [_electron_coefficients(model, symbol) for symbol in model.elements]
    gaussians = torch.tensor(coefficients, dtype=torch.float64).unflatten(-1, (2, 5))
    masses = torch.tensor([gemmi.Element(s).weight for s in model.elements], dtype=torch.float64)
    mass = masses[model.element_index] * model.occupancy
    centre = (mass @ model.position_angstrom) / mass.sum()
    return PointModel(
        name=str(model.path),
        position_angstrom=model.position_angstrom - centre,
        weight=model.occupancy,
        species_index=model.element_index,
        amplitude_angstrom=gaussians[:, 0],
        width_angstrom2=gaussians[:, 1],
    )


def _electron_coefficients(model: AtomicModel, symbol: str) -> list[float]:
    coefficients = gemmi.Element(symbol).c4322
    if coefficients is None:
        raise InputError(
            f"{model.path}: expected elements with an electron form factor (H to Cf), found "
            f"{symbol}; remove its atoms"
        )
    return coefficients.get_coefs()
