"""What a person reads while a run goes on."""

import io
import json
import os
import re
import select
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cryogimbal.cli.display import Display, clock, head_bars
from cryogimbal.inference.records import EpochRecord, NoticeRecord, StepRecord, SwitchRecord
from tests.cli.commands import command, start_process

ESCAPE = "\x1b"
PACE = r"[\d,]+ images/s · \d+m\d\ds left"


@pytest.fixture(scope="module")
def encoder_run(
    simulated: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A run that starts with the encoder, and what it wrote to a pipe."""
    run = tmp_path_factory.mktemp("runs") / "encoder"
    process = start_process(
        "reconstruct",
        simulated / "particles.star",
        *("--out", run, "--config", tiny, "--start", "encoder"),
    )
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert errors == ""
    return run, printed


def test_a_pipe_gets_plain_lines_one_an_epoch(encoder_run: tuple[Path, str]) -> None:
    _, printed = encoder_run
    assert ESCAPE not in printed and "\r" not in printed
    number = r"\d+\.\d+"
    beginning = rf" · to {number} Å · loss {number} · "
    for epoch in (1, 2, 3):
        pattern = rf"^auto-encoding +{epoch}/3{beginning}.*heads ▕[ ▁▂▃▄▅▆▇█]{{3}}▏ · {PACE}$"
        assert len(re.findall(pattern, printed, re.MULTILINE)) == 1
    for epoch in (1, 2):
        pattern = rf"^auto-decoding +{epoch}/\d+{beginning}.*{PACE}$"
        assert len(re.findall(pattern, printed, re.MULTILINE)) == 1


def test_the_reason_for_the_switch_is_printed_and_kept(encoder_run: tuple[Path, str]) -> None:
    run, printed = encoder_run
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    switches = [record for record in records if record["type"] == "switch"]
    stages = ["auto_encoding", "auto_decoding", "head_training", "closing"]
    assert [switch["from_stage"] for switch in switches] == stages[:-1]
    assert [switch["to_stage"] for switch in switches] == stages[1:]
    switch = switches[0]
    assert switch["reason"] == "all 3 epochs are done"
    assert f"auto-encoding → auto-decoding: {switch['reason']}\n" in printed
    assert json.loads((run / "summary.json").read_text())["switches"] == switches


def test_the_summary_says_why_stage_2_and_its_closing_ended(encoder_run: tuple[Path, str]) -> None:
    run, _ = encoder_run
    summary = json.loads((run / "summary.json").read_text())
    decoding, closing = summary["ended"]
    assert (decoding["stage"], closing["stage"]) == ("auto_decoding", "closing")
    assert decoding["ended"] == summary["switches"][1]["reason"]
    assert "passes are done" in closing["ended"] or "settled" in closing["ended"]


def test_head_usage_and_head_losses_are_kept(encoder_run: tuple[Path, str]) -> None:
    run, _ = encoder_run
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    encoding = [record for record in records if record.get("stage") == "auto_encoding"]
    assert len(encoding) == 3
    for record in encoding:
        assert sum(record["head_usage"]) == pytest.approx(1)
        assert min(record["head_loss"]) >= record["loss"]


def test_the_end_names_every_file(encoder_run: tuple[Path, str]) -> None:
    run, printed = encoder_run
    assert (
        "working box 24² at 8 Å (Nyquist 16 Å), shifts estimate, seed 0, cpu, 1 threads" in printed
    )
    assert "cpu, 1 threads, numba kernels" in printed
    for name in ("map.mrc", "particles.star", "summary.json", "figures"):
        assert f"  {run / name}  " in printed
    assert "they share their poses, so this is optimistic" in printed


def test_a_terminal_gets_a_live_line(simulated: Path, tiny: Path, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    child, terminal = pty.fork()
    if child == 0:
        # Only what os.exec needs: other threads do not exist on this side.
        options = ["--out", str(tmp_path / "run"), "--config", str(tiny)]
        table = str(simulated / "particles.star")
        source = str(Path(__file__).resolve().parents[2] / "src")
        os.environ.update(PYTHONPATH=source, TERM="xterm", OMP_NUM_THREADS="1", COLUMNS="80")
        program = [sys.executable, "-m", "cryogimbal.cli.main", "reconstruct", table]
        os.execv(sys.executable, [*program, *options])
    shown = read_all(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, shown
    assert ESCAPE in shown
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)
    live = rf"auto-decoding [━╸╺ ]+ \d+/\d+ · loss \d+\.\d+ · {PACE}"
    assert re.search(live, plain)
    assert re.search(r"auto-decoding +1/\d+ · to 24.0 Å · loss", plain)
    assert max(len(line) for line in re.split(r"[\r\n]+", plain) if "━" in line) <= 80


def read_all(terminal: int) -> str:
    pieces = []
    while select.select([terminal], [], [], 120)[0]:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # how Linux tells that the other side has gone
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(terminal)
    return b"".join(pieces).decode()


def test_rate_and_time_left_of_a_resumed_stage_leave_out_what_was_done_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("cryogimbal.cli.display.time.monotonic", lambda: now[0])

    def step(images_done: int) -> StepRecord:
        return StepRecord(
            stage="auto_decoding",
            epoch=6,
            n_epochs=10,
            images_done=images_done,
            images_total=100,
            loss=1.0,
        )

    end = EpochRecord(
        stage="auto_decoding",
        epoch=6,
        n_epochs=10,
        images_total=100,
        loss=1.0,
        radius=8.0,
        resolution_angstrom=24.0,
    )
    with Display(Console(force_terminal=False, width=200)) as display:
        display.show(step(20))
        now[0] += 4.0
        display.show(end)
    # 80 images in 4 s, and 3 epochs of 100 still to go.
    assert "20 images/s · 0m15s left" in capsys.readouterr().out


def test_no_time_is_told_before_there_is_a_rate() -> None:
    record = StepRecord(
        stage="auto_decoding", epoch=0, n_epochs=9, images_done=50, images_total=50, loss=1.0
    )
    end = EpochRecord(
        stage="auto_decoding",
        epoch=0,
        n_epochs=9,
        images_total=50,
        loss=1.0,
        radius=8.0,
        resolution_angstrom=24.0,
    )
    console = Console(file=io.StringIO(), width=200)
    with Display(console) as display:
        display.show(record)
        display.show(end)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "rate not yet known" in said and "left" not in said


def test_heads_are_bars_beside_the_largest() -> None:
    assert head_bars((0.0, 0.4, 0.2)) == " █▄"
    assert head_bars((0.0, 0.0)) == "  "


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0m00s"), (59.6, "1m00s"), (754.0, "12m34s"), (3 * 3600.0 + 61.0, "3h01m")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--version") == 0
    assert re.fullmatch(r"cryogimbal \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_a_notice_is_a_line_of_its_own() -> None:
    console = Console(file=io.StringIO(), width=80)
    with Display(console) as display:
        display.show(NoticeRecord(text="tiles of the search are halved to 16 MiB"))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "note: tiles of the search are halved to 16 MiB\n"


def test_lines_of_two_searches_tell_their_half() -> None:
    console = Console(file=io.StringIO(), width=80)
    with Display(console) as display:
        display.show(NoticeRecord(text="look", half_set=2))
        display.show(
            SwitchRecord(from_stage="auto_decoding", to_stage="closing", reason="r", half_set=1)
        )
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert said == "half 2 · note: look\nhalf 1 · auto-decoding → closing: r\n"
