"""Atomic models from files."""

import gzip
from pathlib import Path

import pytest
import torch

from cryogimbal.errors import InputError
from cryogimbal.io.atoms import is_atomic_model, read_atomic_model

PDB = """\
ATOM      1  N   ALA A   1      11.104   6.134  -6.504  1.00  0.00           N
ATOM      2  CA AALA A   1      11.639   6.071  -5.147  0.60  0.00           C
ATOM      3  CA BALA A   1      11.739   6.171  -5.247  0.40  0.00           C
HETATM    4 ZN    ZN A 101       1.000  -2.000   3.000  1.00  0.00          ZN
"""
CIF = """\
data_small
loop_
_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_alt_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.label_seq_id
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.occupancy
_atom_site.B_iso_or_equiv
_atom_site.auth_seq_id
_atom_site.auth_asym_id
ATOM 1 N N . ALA A 1 11.104 6.134 -6.504 1.00 0.0 1 A
ATOM 2 C CA A ALA A 1 11.639 6.071 -5.147 0.60 0.0 1 A
ATOM 3 C CA B ALA A 1 11.739 6.171 -5.247 0.40 0.0 1 A
HETATM 4 ZN ZN . ZN B . 1.000 -2.000 3.000 1.00 0.0 101 A
"""


def write(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["m.pdb", "m.pdb.gz", "m.cif", "m.cif.gz"])
def test_the_same_atoms_come_from_every_format(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, PDB if "pdb" in name else CIF)
    model = read_atomic_model(path)
    symbols = [model.elements[index] for index in model.element_index.tolist()]
    assert symbols == ["N", "C", "C", "Zn"]
    expected = [[11.104, 6.134, -6.504], [11.639, 6.071, -5.147]]
    torch.testing.assert_close(
        model.position_angstrom[:2], torch.tensor(expected, dtype=torch.float64)
    )
    assert model.occupancy.tolist() == pytest.approx([1.0, 0.6, 0.4, 1.0])


def test_names() -> None:
    for name in ("a.pdb", "a.PDB.GZ", "a.ent", "a.cif.gz", "x/a.mmcif"):
        assert is_atomic_model(Path(name))
    for name in ("a.mrc", "a.star", "pdb", "a.gz"):
        assert not is_atomic_model(Path(name))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.pdb", "", r"empty\.pdb: expected atoms, found none"),
        ("end.pdb", "HEADER    NOTHING\nEND\n", r"end\.pdb: expected atoms, found none"),
        ("words.cif", "these are no tables", r"words\.cif: expected a PDB or mmCIF file"),
        ("x.pdb", PDB.replace("          ZN", "           X"), r"serial 4\): .*element, found 'X'"),
        ("zero.pdb", PDB.replace("1.00", "0.00").replace("0.60", "0.00").replace("0.40", "0.00"),
         r"expected occupied atoms, found 4 of occupancy 0"),
        ("minus.cif", CIF.replace(" 0.60 ", " -0.60 "), r"serial 2\): .*occupancy of at least 0"),
        ("nan.cif", CIF.replace("6.071", "nan"), r"serial 2\): expected finite coordinates"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_used_are_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_atomic_model(write(tmp_path / name, text))


def test_a_missing_or_cut_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pdb: expected an atomic model, found no such"):
        read_atomic_model(tmp_path / "none.pdb")
    whole = gzip.compress((PDB * 50).encode())
    cut = tmp_path / "cut.pdb.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.pdb\.gz: expected a PDB or mmCIF file"):
        read_atomic_model(cut)
