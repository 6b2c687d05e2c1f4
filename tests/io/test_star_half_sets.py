"""Half-sets of a table: kept as they are, refused where they are none, written beside the poses."""

from pathlib import Path

import pytest
import starfile
import torch

from cryogimbal.data.poses import PoseSet
from cryogimbal.errors import InputError
from cryogimbal.io.star import read_particles
from cryogimbal.io.star_half_sets import table_half_sets
from cryogimbal.io.star_table import read_table
from cryogimbal.io.star_write import write_particles
from tests.io.tables import image_names, write_new_table, write_old_table, write_stack


def test_the_column_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "in.star"
    write_new_table(path, image_names(4), 8, {"rlnRandomSubset": ["2", "1", "1", "2"]})
    found = table_half_sets(read_table(path))
    assert found is not None
    assert found.tolist() == [2, 1, 1, 2]
    write_new_table(path, image_names(4), 8)
    assert table_half_sets(read_table(path)) is None


@pytest.mark.parametrize("wrong", ["0", "3", "1.5", "-1"])
def test_other_values_are_refused_with_their_row(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "in.star"
    write_new_table(path, image_names(3), 8, {"rlnRandomSubset": ["1", "2", wrong]})
    with pytest.raises(InputError) as refusal:
        table_half_sets(read_table(path))
    for piece in (str(path), "row 3", f"rlnRandomSubset is {wrong}", "expected 1 or 2", "remove"):
        assert piece in str(refusal.value)


@pytest.mark.parametrize("before", [{}, {"rlnRandomSubset": ["1", "1", "1"]}])
@pytest.mark.parametrize("version", ["3.0", "3.1"])
def test_half_sets_are_written_and_read_again(
    tmp_path: Path, version: str, before: dict[str, list[str]]
) -> None:
    write_stack(tmp_path / "stack.mrcs", 3, 8)
    path, out = tmp_path / "in.star", tmp_path / "out.star"
    if version == "3.0":
        write_old_table(path, image_names(3), before)
    else:
        write_new_table(path, image_names(3), 8, before)
    _, table = read_particles(path)
    poses = PoseSet(rotation=torch.eye(3).expand(3, 3, 3), shift_angstrom=torch.zeros(3, 2))
    half_set = torch.tensor([2, 1, 2])
    write_particles(out, table, poses, half_set)
    found = table_half_sets(read_table(out))
    assert found is not None and torch.equal(found, half_set)
    written = starfile.read(out, always_dict=True)
    last = list(written)[-1]
    assert written[last]["rlnRandomSubset"].tolist() == [2, 1, 2]
    write_particles(out, table, poses)
    kept = table_half_sets(read_table(out))
    assert (kept is None) if not before else (kept is not None and kept.tolist() == [1, 1, 1])
