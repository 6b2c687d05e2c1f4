"""A run that is stopped, killed or out of disk space loses nothing but time."""

import random
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import cryogimbal.cli.run as run_module
from cryogimbal.io.checkpoints import list_checkpoints, load_checkpoint
from cryogimbal.io.run_folder import RunFolder
from tests.cli.commands import assert_same_run, command, metrics_but_times, start_process
from tests.io.test_atomic import fill_disk_at

pytestmark = pytest.mark.usefixtures("no_pictures")

POSTERIOR = ("--posterior.iterations", 40, "--auto-decoding.epochs", 10)
ENCODER = (
    "--start",
    "encoder",
    "--auto-encoding.epochs",
    16,
    "--auto-encoding.switch.rule",
    "fixed",
)
WAYS: Mapping[str, tuple[object, ...]] = {
    "posterior": (*POSTERIOR, "--auto-decoding.batch-size", 8),
    "encoder": (*ENCODER, "--auto-encoding.batch-size", 8),
}
PATIENCE_S = 120


@pytest.fixture(scope="module")
def unbroken(
    no_pictures: None, simulated: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """One run of each way that nobody has disturbed."""
    runs = {way: tmp_path_factory.mktemp("unbroken") / way for way in WAYS}
    for way, run in runs.items():
        assert command(*arguments(way, simulated, tiny, run)) == 0
    return runs


def arguments(way: str, simulated: Path, tiny: Path, run: Path) -> tuple[object, ...]:
    table = simulated / "particles.star"
    return ("reconstruct", table, "--out", run, "--config", tiny, *WAYS[way])


def wait_for_stage(process: "subprocess.Popen[str]", run: Path, stage: str) -> None:
    """Return as soon as the first record of the stage is written."""
    end = time.monotonic() + PATIENCE_S
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and f'"stage": "{stage}"' in metrics.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the run has not begun in time"
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("number", "status", "stage"),
    [(signal.SIGTERM, 143, "posterior_search"), (signal.SIGINT, 130, "auto_decoding")],
)
def test_a_signal_ends_a_run_after_a_checkpoint(
    number: signal.Signals,
    status: int,
    stage: str,
    unbroken: dict[str, Path],
    simulated: Path,
    tiny: Path,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    process = start_process(*arguments("posterior", simulated, tiny, run))
    wait_for_stage(process, run, stage)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == status, errors
    assert f"a checkpoint is written; cryogimbal resume {run}" in errors
    assert "Traceback" not in errors
    checkpoint = load_checkpoint(list_checkpoints(RunFolder(path=run))[-1])
    assert checkpoint["n_metrics"] == len(metrics_but_times(run))
    assert not (run / "map.mrc").exists()
    assert command("resume", run) == 0
    assert_same_run(run, unbroken["posterior"])


@pytest.mark.parametrize(
    ("way", "stage"),
    [
        ("posterior", "posterior_search"),
        ("posterior", "auto_decoding"),
        ("encoder", "auto_encoding"),
    ],
)
def test_a_killed_run_goes_on_bit_by_bit(
    way: str, stage: str, unbroken: dict[str, Path], simulated: Path, tiny: Path, tmp_path: Path
) -> None:
    run, delay = tmp_path / "run", random.uniform(0.0, 0.1)
    process = start_process(*arguments(way, simulated, tiny, run), checkpoint_often=True)
    wait_for_stage(process, run, stage)
    time.sleep(delay)
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    moment = f"killed {delay:.4f} s after the first record of {stage}"
    assert process.returncode == -signal.SIGKILL, f"{moment}: it had ended already"
    assert command("resume", run) == 0, moment
    assert_same_run(run, unbroken[way])


def test_a_run_killed_before_its_first_checkpoint_begins_again(
    unbroken: dict[str, Path],
    simulated: Path,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"

    def die(_recorder: object) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(run_module.Recorder, "save", die)
        assert command(*arguments("posterior", simulated, tiny, run)) == 9
    assert metrics_but_times(run) and not list_checkpoints(RunFolder(path=run))
    assert command("resume", run) == 0
    assert_same_run(run, unbroken["posterior"])


def test_a_full_disk_at_a_checkpoint_keeps_the_one_before(
    unbroken: dict[str, Path],
    simulated: Path,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, save = tmp_path / "run", run_module.save_checkpoint

    def save_until_the_disk_is_full(folder: RunFolder, step: int, state: Mapping[str, Any]) -> Path:
        if step == 6:
            fill_disk_at(folder.checkpoints / f"checkpoint_{step:08d}.pt")
        return save(folder, step, state)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        patch.setattr(run_module, "save_checkpoint", save_until_the_disk_is_full)
        assert command(*arguments("posterior", simulated, tiny, run)) == 1
    message = capsys.readouterr().err
    assert "no space left for a checkpoint" in message
    assert "checkpoint_00000005.pt is intact" in message
    assert f"free some space, then cryogimbal resume {run}" in message
    assert "Traceback" not in message
    kept = list_checkpoints(RunFolder(path=run))
    assert [load_checkpoint(path)["number"] for path in kept] == [4, 5]
    assert command("resume", run) == 0
    assert_same_run(run, unbroken["posterior"])


def test_a_full_disk_at_the_results_can_be_resumed(
    unbroken: dict[str, Path],
    simulated: Path,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, write_results = tmp_path / "run", run_module.write_results

    def write_on_a_full_disk(folder: RunFolder, *more: Any) -> dict[str, str]:
        fill_disk_at(folder.density)
        return write_results(folder, *more)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "write_results", write_on_a_full_disk)
        assert command(*arguments("posterior", simulated, tiny, run)) == 1
    assert "map.mrc: no space left" in capsys.readouterr().err
    assert not (run / "map.mrc").exists() and not (run / "summary.json").exists()
    assert command("resume", run) == 0
    assert_same_run(run, unbroken["posterior"])


def test_ctrl_c_outside_a_search_is_no_traceback(
    simulated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cryogimbal.cli.fsc.read_density", interrupted)
    assert command("fsc", simulated / "truth.mrc", simulated / "truth.mrc") == 130
    assert "Traceback" not in capsys.readouterr().err
