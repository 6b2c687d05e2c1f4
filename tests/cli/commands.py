"""Commands as a person gives them, on data small enough for seconds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cryogimbal.cli.main import main

BOX = 24
PIXEL_SIZE = 8.0
N_PARTICLES = 60

TINY = """
[posterior]
max_starts = 1
iterations = 3
minibatch = 40
n_side = 2
mode_n_side = 2
start_radius = 3.0
end_radius = 5.0

[encoder]
n_heads = 3
channels = [4, 4, 4, 4, 4]
hidden = 8
input_box = 8

[auto_encoding]
epochs = 3
batch_size = 32

[auto_decoding]
epochs = 2
batch_size = 32

[row_encoder]
n_heads = 3
widths = [16]
radius = 5.0

[head_training]
epochs = 1
images_per_epoch = 64
batch_size = 32
"""

FRAMES = re.compile(r"[╭╮╰╯│─\s]+")


def command(*arguments: object) -> int:
    """Give one command in this process; returns its exit status."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:
        # The parser of the command line leaves by itself.
        assert isinstance(stop.code, int)
        return stop.code


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Give a command that must end with status 2; returns what it says, frames and folds undone."""
    capsys.readouterr()
    assert command(*arguments) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return FRAMES.sub(" ", said.err)


def assert_says(message: str, *pieces: object) -> None:
    for piece in pieces:
        assert str(piece) in message, f"{piece!r} is missing in: {message}"


def start_process(*arguments: object, checkpoint_often: bool = False) -> subprocess.Popen[str]:
    """The same command in a process of its own, its output piped."""
    program = ["-m", "cryogimbal.cli.main"]
    if checkpoint_often:
        often = (
            "import sys, cryogimbal.cli.run as run; run.SECONDS_BETWEEN_CHECKPOINTS = 0.0; "
            "from cryogimbal.cli.main import main; sys.exit(main())"
        )
        program = ["-c", often]
    source = Path(__file__).resolve().parents[2] / "src"
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=os.environ
        | {
            "PYTHONPATH": str(source),
            "PYTHONIOENCODING": "utf-8",
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        },
    )


def metrics_but_times(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key != "seconds"}
        for line in lines
    ]


def assert_same_run(found: Path, expected: Path) -> None:
    """Byte by byte the same map and table, and the same measurements but for their times."""
    for name in ("map.mrc", "particles.star", "config.toml"):
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    assert metrics_but_times(found) == metrics_but_times(expected)
