"""Poses of the other hand, written in the digits of the table."""

from pathlib import Path

import pytest
import torch

from cryogimbal.errors import InputError
from cryogimbal.evaluation.hand import mirror_pose
from cryogimbal.io.star import read_poses
from cryogimbal.io.star_hand import mirrored_pose_columns
from cryogimbal.io.star_table import read_table
from cryogimbal.io.star_write import write_table
from cryogimbal.rotations import Mirror

HEADER = """
data_particles

loop_
_rlnImageName #1
_rlnAngleRot #2
_rlnAngleTilt #3
_rlnAnglePsi #4
_rlnOriginXAngst #5
_rlnOriginYAngst #6
_rlnAnglePsiPrior #7
"""
ROWS = (
    ("30.000000", "60.000000", "45.000000"),
    ("-150.000000", "60.000000", "-135.000000"),
    ("0.000000", "0.000000", "180.000000"),
    ("-179.999999", "180.000000", "-0.000001"),
    ("12", "90.5", "-77.1234567"),
    ("270.25", "1e1", "-359.5"),
)
MIRRORS: tuple[Mirror, ...] = ("z", "centre")


def written(folder: Path) -> Path:
    path = folder / "particles.star"
    lines = [
        " ".join(f"{value:>12}" for value in (f"{n + 1:06d}@a.mrcs", *row, "1.5", "-2.25", row[2]))
        for n, row in enumerate(ROWS)
    ]
    path.write_text(HEADER + "\n".join(lines) + "\n")
    return path


def flipped(path: Path, mirror: Mirror) -> Path:
    table, new = read_table(path), path.with_name(f"flipped_{path.name}")
    write_table(new, table, mirrored_pose_columns(table, mirror))
    return new


@pytest.mark.parametrize("mirror", MIRRORS)
def test_the_new_angles_are_the_mirrored_pose(tmp_path: Path, mirror: Mirror) -> None:
    path = written(tmp_path)
    before, after = read_poses(path), read_poses(flipped(path, mirror))
    torch.testing.assert_close(
        after.rotation, mirror_pose(before.rotation, mirror), atol=1e-5, rtol=0
    )
    assert torch.equal(after.shift_angstrom, before.shift_angstrom)


def test_the_worked_example(tmp_path: Path) -> None:
    lines = flipped(written(tmp_path), "z").read_text().splitlines()
    first = next(line for line in lines if line.strip().startswith("000001@"))
    assert first.split()[1:4] == ["-150.000000", "60.000000", "-135.000000"]
    # Priors of the angles belong to the hand as well.
    assert first.split()[6] == "-135.000000"


@pytest.mark.parametrize("mirror", MIRRORS)
def test_twice_is_nothing_to_the_letter(tmp_path: Path, mirror: Mirror) -> None:
    path = written(tmp_path)
    once = flipped(path, mirror)
    assert once.read_bytes() != path.read_bytes()
    twice = flipped(once, mirror)
    assert twice.read_bytes() == path.read_bytes()


def test_angles_stay_within_half_a_turn(tmp_path: Path) -> None:
    for row in flipped(written(tmp_path), "z").read_text().splitlines()[-len(ROWS) : -1]:
        rot, psi = (float(row.split()[place]) for place in (1, 3))
        assert -180 < rot <= 180
        assert -180 < psi <= 180


def test_a_table_without_angles_or_with_words_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    text = path.read_text()
    path.write_text(text.replace("rlnAngleTilt", "rlnSomethingElse"))
    with pytest.raises(InputError, match="expected angles, found not all of _rlnAngleRot"):
        mirrored_pose_columns(read_table(path), "z")
    path.write_text(text.replace("-77.1234567", "unknown"))
    with pytest.raises(InputError, match=r"row 5.*unknown"):
        mirrored_pose_columns(read_table(path), "z")
