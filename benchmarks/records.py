"""Rows of RECORDS.md, and what every row says about where it was measured."""

import json
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
RECORDS = REPOSITORY / "benchmarks" / "RECORDS.md"


def table_row(cells: Iterable[str]) -> str:
    """One row of a table."""
    return "| " + " | ".join(cells) + " |"


def append_rows(heading: str, rows: list[str]) -> None:
    """Put rows at the end of the first table below a heading of RECORDS.md, but none twice."""
    lines = RECORDS.read_text(encoding="utf-8").splitlines()
    last = lines.index(heading)
    while not lines[last].startswith("|"):
        last += 1
    while last + 1 < len(lines) and lines[last + 1].startswith("|"):
        last += 1
    lines[last + 1 : last + 1] = [row for row in rows if row not in lines]
    RECORDS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object."""
    return json.loads(path.read_text(encoding="utf-8"))


def commit() -> str:
    """Short name of the commit that is checked out."""
    shown = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return shown.stdout.strip()


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
