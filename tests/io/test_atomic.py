import os
from pathlib import Path

import pytest

from cryogimbal.errors import InputError
from cryogimbal.io.atomic import DiskFullError, write_atomically, write_text_atomically


def fill_disk_at(path: Path) -> None:
    """Let the temporary file of ``path`` be a device on which every write finds the disk full."""
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("no /dev/full to stand for a full disk")
    path.with_name(f".{path.name}.partial").symlink_to("/dev/full")


def test_the_file_appears_whole_and_nothing_else_stays(tmp_path: Path) -> None:
    target = tmp_path / "map.mrc"
    with write_atomically(target) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    target = tmp_path / "particles.star"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), write_atomically(target) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("half way")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "map.mrc"
    with pytest.raises(KeyboardInterrupt), write_atomically(target) as temporary:
        temporary.write_text("a long piece of the first attempt")
        kept = temporary.read_bytes()
        raise KeyboardInterrupt
    temporary.write_bytes(kept)  # as SIGKILL would have left it
    write_text_atomically(target, "second")
    assert target.read_text() == "second"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    target = tmp_path / "summary.json"
    target.write_text("old")
    fill_disk_at(target)
    with pytest.raises(DiskFullError) as caught:
        write_text_atomically(target, "new")
    message = str(caught.value)
    assert str(target) in message
    assert "no space left" in message and "intact" in message and "Free some space" in message
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder .*absent does not exist"):
        write_text_atomically(tmp_path / "absent" / "x.json", "")
