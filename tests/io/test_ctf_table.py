"""CTF values of cryoDRGN: what they mean, and pickles that are anything else."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from cryogimbal.errors import InputError
from cryogimbal.io.ctf_table import read_ctf_table
from cryogimbal.io.star_optics import read_optics
from cryogimbal.io.star_table import read_table

ROWS = np.array(
    [
        [360, 1.34, 23344.7, 23445.9, 36.7, 300, 2.0, 0.1, 0],
        [360, 1.34, 15000.0, 14000.0, -30.0, 300, 2.0, 0.1, 90],
    ],
    dtype=np.float32,
)


def stored(folder: Path, value: object, protocol: int = 3) -> Path:
    path = folder / "ctf.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_gives_the_same_values(tmp_path: Path, protocol: int) -> None:
    ctf = read_ctf_table(stored(tmp_path, ROWS, protocol))
    assert ctf.defocus_u_angstrom.tolist() == ROWS[:, 2].tolist()
    assert ctf.defocus_v_angstrom.tolist() == ROWS[:, 3].tolist()
    torch.testing.assert_close(ctf.defocus_angle_rad, torch.tensor([0.640535, -0.523599]))
    torch.testing.assert_close(ctf.phase_shift_rad, torch.tensor([0.0, 1.570796]))
    assert ctf.voltage_kilovolt.tolist() == [300.0, 300.0]
    assert ctf.spherical_aberration_mm.tolist() == [2.0, 2.0]
    assert ctf.scale.tolist() == [1.0, 1.0]


def test_the_path_of_numpy_1_is_known(tmp_path: Path) -> None:
    # A pickle of an older NumPy names its constructor in numpy.core.
    path = stored(tmp_path, ROWS, 2)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.", b"numpy.core."))
    assert len(read_ctf_table(path)) == 2


class Sly:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


def test_a_program_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    target = tmp_path / "run"
    path = stored(tmp_path, [ROWS, Sly(target)])
    with pytest.raises(InputError, match=r"ctf.pkl: expected a pickled array .* is no array"):
        read_ctf_table(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (ROWS[:, :8], r"expected 9 columns of CTF values, found an array of shape \(2, 8\)"),
        (ROWS[0], r"found an array of shape \(9,\)"),
        (ROWS[:0], r"found an array of shape \(0, 9\)"),
        ([1, 2], r"expected a pickled array of numbers, found list"),
        (ROWS.astype(object), r"expected a pickled array of numbers"),
        (np.where(ROWS == 15000, np.nan, ROWS), r"row 2: expected finite values"),
        (ROWS + np.array([[0], [1]]), r"row 2: expected one voltage, found 300 and 301"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_ctf_table(stored(tmp_path, value))


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(ROWS)[:100]])
def test_broken_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ctf.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected a pickled array of CTF values"):
        read_ctf_table(path)
    with pytest.raises(InputError, match="no such file"):
        read_ctf_table(tmp_path / "missing.pkl")


def test_cryodrgns_own_parse_of_a_table(reference_data: Path) -> None:
    folder = reference_data / "metadata" / "cryodrgn"
    ours = read_optics(read_table(folder / "FinalRefinement-OriginalParticles-PfCRT.star")).ctf
    theirs = read_ctf_table(folder / "ctf1.pkl")
    torch.testing.assert_close(theirs.defocus_u_angstrom, ours.defocus_u_angstrom)
    torch.testing.assert_close(theirs.defocus_v_angstrom, ours.defocus_v_angstrom)
    torch.testing.assert_close(theirs.defocus_angle_rad, ours.defocus_angle_rad)
    torch.testing.assert_close(theirs.voltage_kilovolt, ours.voltage_kilovolt)
    torch.testing.assert_close(theirs.spherical_aberration_mm, ours.spherical_aberration_mm)
