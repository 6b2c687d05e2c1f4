"""Files that belong together are replaced all or none, whenever it is interrupted."""

from pathlib import Path

import pytest

from cryogimbal.io.file_set import finish_replacing, is_half_replaced, replace_together

NAMES = ("a.mrc", "b.star", "c.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*NAMES, "other.txt"):
        (tmp_path / name).write_text("old")
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


ALL_OLD = dict.fromkeys((*NAMES, "other.txt"), "old")
ALL_NEW = {**dict.fromkeys(NAMES, "new"), "other.txt": "old"}


def test_all_are_replaced_and_others_stay(folder: Path) -> None:
    with replace_together(folder) as new:
        for name in NAMES:
            (new / name).write_text("new")
        assert contents(folder) == ALL_OLD
    assert contents(folder) == ALL_NEW
    assert sorted(path.name for path in folder.iterdir()) == sorted(ALL_NEW)


def test_a_failure_on_the_way_leaves_the_old_files(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), replace_together(folder) as new:
        (new / NAMES[0]).write_text("new")
        raise ZeroDivisionError
    assert contents(folder) == ALL_OLD
    assert not any(path.is_dir() for path in folder.iterdir())
    assert finish_replacing(folder) is False


@pytest.mark.parametrize("n_moved", [0, 1, 2, 3])
def test_a_crash_between_the_moves_is_mended_later(
    folder: Path, n_moved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    move, moved = Path.replace, []

    def failing(self: Path, target: Path) -> Path:
        if len(moved) == n_moved:
            raise KeyboardInterrupt
        moved.append(target)
        return move(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing)
        patch.setattr(Path, "rmdir", lambda _: failing(folder, folder))
        with pytest.raises(KeyboardInterrupt), replace_together(folder) as new:
            for name in NAMES:
                (new / name).write_text("new")
    assert is_half_replaced(folder)
    assert finish_replacing(folder) is True
    assert contents(folder) == ALL_NEW
    assert not is_half_replaced(folder)


def test_what_a_killed_process_left_before_the_decision_is_dropped(folder: Path) -> None:
    (folder / ".replacing.partial").mkdir()
    (folder / ".replacing.partial" / "b.star").write_text("half")
    with replace_together(folder) as new:
        assert list(new.iterdir()) == []
        (new / "a.mrc").write_text("new")
    assert contents(folder) == {**ALL_OLD, "a.mrc": "new"}
