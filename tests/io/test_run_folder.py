"""A run's folder: never another run's, never half a file, the same after an interruption."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from cryogimbal.errors import InputError
from cryogimbal.io.atomic import DiskFullError
from cryogimbal.io.checkpoints import (
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from cryogimbal.io.run_folder import (
    RunFolder,
    append_metrics,
    count_metrics,
    create_run_folder,
    open_run_folder,
    read_json,
    read_metrics,
    truncate_metrics,
    write_json,
)
from tests.io.test_atomic import fill_disk_at

CONFIG = 'seed = 3\n[volume]\nname = "µ"\n'


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return create_run_folder(tmp_path / "runs" / "one", CONFIG)


def test_a_new_folder_holds_its_configuration(run: RunFolder) -> None:
    assert run.config.read_text(encoding="utf-8") == CONFIG
    assert run.checkpoints.is_dir() and run.figures.is_dir()
    assert open_run_folder(run.path) == run


def test_a_folder_with_another_run_is_refused(run: RunFolder) -> None:
    with pytest.raises(InputError) as caught:
        create_run_folder(run.path, "seed = 4\n")
    message = str(caught.value)
    assert str(run.path) in message
    assert "found another run" in message
    assert "cryogimbal resume" in message and "another --out" in message
    assert run.config.read_text(encoding="utf-8") == CONFIG


@pytest.mark.parametrize("name", ["particles.star", "map.mrc", "metrics.jsonl"])
def test_files_that_a_run_would_overwrite_are_refused(tmp_path: Path, name: str) -> None:
    # A simulation's own folder, given as --out by mistake, holds the input particles.star.
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"found {name}; choose another --out"):
        create_run_folder(tmp_path, CONFIG)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_unrelated_files_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    create_run_folder(tmp_path, CONFIG)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="expected a folder for the run, found a file"):
        create_run_folder(tmp_path / "out", CONFIG)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found no config\.toml in it; name the folder"):
        open_run_folder(tmp_path)


def test_metrics_of_an_interrupted_run_equal_those_of_an_unbroken_one(
    tmp_path: Path, run: RunFolder
) -> None:
    def record(epoch: int) -> dict[str, object]:
        return {"stage": "auto_decoding", "epoch": epoch, "loss": 1 / (epoch + 1), "heads": [1, 2]}

    for epoch in range(10):
        append_metrics(run, record(epoch))
    unbroken = run.metrics.read_bytes()

    broken = create_run_folder(tmp_path / "broken", CONFIG)
    for epoch in range(6):
        append_metrics(broken, record(epoch))
    n_lines = count_metrics(broken)
    for epoch in range(6, 8):
        append_metrics(broken, record(epoch))
    with broken.metrics.open("a") as file:
        file.write('{"stage": "auto_de')  # killed here
    assert len(read_metrics(broken)) == 8
    truncate_metrics(broken, n_lines)
    for epoch in range(6, 10):
        append_metrics(broken, record(epoch))
    assert broken.metrics.read_bytes() == unbroken
    assert read_metrics(broken) == [record(epoch) for epoch in range(10)]


def test_metrics_shorter_than_the_checkpoint_says(run: RunFolder) -> None:
    append_metrics(run, {"epoch": 0})
    with pytest.raises(InputError, match=r"metrics\.jsonl: expected at least the 3 .* found 1"):
        truncate_metrics(run, 3)


def test_numbers_that_json_lacks_become_null(run: RunFolder) -> None:
    record = {"loss": float("nan"), "shares": [1.0, float("inf")], "n": 3, "who": {"x": "y"}}
    expected = {"loss": None, "shares": [1.0, None], "n": 3, "who": {"x": "y"}}
    append_metrics(run, record)
    write_json(run.summary, record)
    assert read_metrics(run) == [expected]
    assert read_json(run.summary) == expected == json.loads(run.summary.read_text())


@pytest.mark.parametrize("text", ["{half", "[1, 2]"])
def test_json_that_is_no_record_is_refused(run: RunFolder, text: str) -> None:
    run.summary.write_text(text)
    with pytest.raises(InputError, match=r"summary\.json: expected .* found"):
        read_json(run.summary)


def some_state(seed: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    parameter = torch.nn.Parameter(torch.randn(4, 3, generator=generator))
    optimiser = torch.optim.Adam([parameter], lr=0.1)
    parameter.square().sum().backward()
    optimiser.step()
    return {
        "volume": parameter.detach(),
        "optimiser": optimiser.state_dict(),
        "generator": generator.get_state(),
        "stage": "auto_encoding",
        "epoch": seed,
        "metrics_lines": 7,
    }


def flat(state: object) -> list[object]:
    if isinstance(state, dict):
        return [x for key, value in state.items() for x in (key, *flat(value))]
    if isinstance(state, list | tuple):
        return [x for value in state for x in flat(value)]
    return [state.tolist() if isinstance(state, torch.Tensor) else state]


def test_a_checkpoint_comes_back_bit_by_bit(run: RunFolder) -> None:
    state = some_state(1)
    save_checkpoint(run, 1, state)
    assert flat(load_checkpoint(latest_checkpoint(run))) == flat(state)


def test_the_last_two_checkpoints_are_kept(run: RunFolder) -> None:
    for step in (1, 2, 9, 10, 11):
        save_checkpoint(run, step, some_state(step))
    steps = [load_checkpoint(path)["epoch"] for path in list_checkpoints(run)]
    assert steps == [10, 11]
    assert latest_checkpoint(run) == list_checkpoints(run)[-1]
    assert sorted(run.checkpoints.iterdir()) == list_checkpoints(run)


def test_no_checkpoint_yet(run: RunFolder) -> None:
    with pytest.raises(InputError, match=r"expected a checkpoint .* found none"):
        latest_checkpoint(run)


def test_full_disk_at_a_checkpoint_keeps_the_one_before(run: RunFolder) -> None:
    save_checkpoint(run, 1, some_state(1))
    save_checkpoint(run, 2, some_state(2))
    fill_disk_at(run.checkpoints / "checkpoint_00000003.pt")
    with pytest.raises(DiskFullError) as caught:
        save_checkpoint(run, 3, some_state(3))
    message = str(caught.value)
    assert "checkpoint_00000003.pt: no space left" in message
    assert "checkpoint_00000002.pt is intact" in message
    assert f"free some space, then cryogimbal resume {run.path}" in message
    assert [load_checkpoint(path)["epoch"] for path in list_checkpoints(run)] == [1, 2]
    assert sorted(run.checkpoints.iterdir()) == list_checkpoints(run)


def test_full_disk_at_the_first_checkpoint(run: RunFolder) -> None:
    fill_disk_at(run.checkpoints / "checkpoint_00000001.pt")
    with pytest.raises(DiskFullError, match=r"there is no earlier one: free some space"):
        save_checkpoint(run, 1, some_state(1))


def test_full_disk_at_the_metrics(run: RunFolder) -> None:
    run.metrics.symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match=r"metrics\.jsonl: no space left"):
        append_metrics(run, {"epoch": 0})


@pytest.mark.parametrize("damage", ["cut", "empty", "middle", "text"])
def test_a_broken_checkpoint_is_named(run: RunFolder, damage: str) -> None:
    path = save_checkpoint(run, 1, some_state(1))
    raw = path.read_bytes()
    half = len(raw) // 2
    broken = {
        "cut": raw[:half],
        "empty": b"",
        "middle": raw[: half - 200] + bytes(400) + raw[half + 200 :],
        "text": b"no checkpoint at all",
    }[damage]
    path.write_bytes(broken)
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "expected a checkpoint, found a broken file" in message and "one before it" in message


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, ("/tmp/never",))


def test_a_checkpoint_runs_no_code(run: RunFolder) -> None:
    path = run.checkpoints / "checkpoint_00000001.pt"
    torch.save({"state": Malicious()}, path)
    with pytest.raises(InputError, match="expected a checkpoint, found a broken file"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps({"state": Malicious()}))
    with pytest.raises(InputError, match="expected a checkpoint, found a broken file"):
        load_checkpoint(path)
