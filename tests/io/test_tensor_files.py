"""Files of tensors: whole, checked, and never code."""

from pathlib import Path

import pytest
import torch

from cryogimbal.errors import InputError
from cryogimbal.io.tensor_files import read_tensors, write_tensors


def read(path: Path) -> dict[str, object]:
    return read_tensors(path, expected="an encoder", advice="make it anew")


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    state = {"weights": {"a": torch.arange(5.0)}, "widths": (3, 4), "box": 16, "name": None}
    write_tensors(tmp_path / "a.pt", state)
    found = read(tmp_path / "a.pt")
    assert torch.equal(found["weights"]["a"], state["weights"]["a"])
    assert {**found, "weights": 0} == {**state, "weights": 0}
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; create it first"):
        write_tensors(tmp_path / "nowhere" / "a.pt", {})


@pytest.mark.parametrize("damage", ["shortened", "a bit turned", "another file"])
def test_a_broken_file_is_refused_by_name(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_tensors(path, {"weights": torch.ones(1000)})
    content = bytearray(path.read_bytes())
    if damage == "shortened":
        content = content[:-100]
    elif damage == "a bit turned":
        content[len(content) // 2] ^= 1
    else:
        content = bytearray(b"no archive")
    path.write_bytes(content)
    message = rf"{path}: expected an encoder, found a broken file of {len(content)} bytes; make it"
    with pytest.raises(InputError, match=message):
        read(path)


class Program:
    """Something that is no plain value."""


@pytest.mark.parametrize("content", [[1, 2], {"code": Program()}], ids=["list", "object"])
def test_other_contents_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match="expected an encoder, found"):
        read(tmp_path / "a.pt")
