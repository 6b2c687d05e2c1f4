"""Atomic models from .pdb and .cif files, packed with gzip or not, read by gemmi."""

from dataclasses import dataclass
from pathlib import Path

import gemmi
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.errors import InputError

ATOM_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif")


@dataclass(frozen=True, kw_only=True)
class AtomicModel:
    """Atoms as a coordinate file lists them, in its own frame."""

    path: Path
    elements: tuple[str, ...]
    """Symbols of the elements that occur, each once, sorted."""
    element_index: Int[Tensor, " atom"]
    """Place of each atom's element in ``elements``."""
    position_angstrom: Float[Tensor, "atom 3"]
    occupancy: Float[Tensor, " atom"]


def is_atomic_model(path: Path) -> bool:
    """Whether the name of a file is that of an atomic model, packed or not."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(ATOM_SUFFIXES)


def read_atomic_model(path: Path) -> AtomicModel:
    """The atoms of the first model of a file, alternative conformations with their occupancies.

    Raises
    ------
    InputError
        If the file is missing, is no coordinate file, or holds no atoms or atoms that cannot be used.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected an atomic model, found no such file; check the path")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"{path}: expected a PDB or mmCIF file, found one that cannot be read ({error}); "
            "convert it or fetch it again"
        ) from error
    atoms = list(structure[0].all()) if len(structure) > 0 else []
    if not atoms:
        raise InputError(
            f"{path}: expected atoms, found none; give a file with ATOM records or an atom_site loop"
        )
    symbols = [_symbol(path, site) for site in atoms]
    elements = tuple(sorted(set(symbols)))
    place = {symbol: index for index, symbol in enumerate(elements)}
    model = AtomicModel(
        path=path,
        elements=elements,
        element_index=torch.tensor([place[symbol] for symbol in symbols]),
        position_angstrom=torch.tensor(
            [site.atom.pos.tolist() for site in atoms], dtype=torch.float64
        ),
        occupancy=torch.tensor([site.atom.occ for site in atoms], dtype=torch.float64),
    )
    _refuse_bad_numbers(model, atoms)
    return model


def _symbol(path: Path, site: gemmi.CRA) -> str:
    element = site.atom.element
    if element.atomic_number == 0:
        raise InputError(
            f"{path}: {site} (serial {site.atom.serial}): expected a chemical element, found "
            f"{element.name!r}; correct its element column or remove the atom"
        )
    return element.name


def _refuse_bad_numbers(model: AtomicModel, atoms: list[gemmi.CRA]) -> None:
    good = model.position_angstrom.isfinite().all(-1) & (model.occupancy >= 0)
    if not bool(good.all()):
        site = atoms[int(torch.nonzero(~good)[0])]
        raise InputError(
            f"{model.path}: {site} (serial {site.atom.serial}): expected finite coordinates and an "
            f"occupancy of at least 0, found {site.atom.pos.tolist()} and {site.atom.occ}; "
            "correct or remove the atom"
        )
    if not bool(model.occupancy.any()):
        raise InputError(
            f"{model.path}: expected occupied atoms, found {len(atoms)} of occupancy 0; "
            "set their occupancies"
        )
