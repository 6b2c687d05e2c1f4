"""Where the tables of a STAR file stand among its lines."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StarBlock:
    """Where one table stands in a document."""

    name: str
    """What follows ``data_``."""
    columns: tuple[str, ...]
    """Column names without the leading underscore."""
    header_lines: tuple[int, ...]
    """Line (from 0) of each column's name."""
    row_lines: tuple[int, ...]
    """Line (from 0) of each row; empty for a list of pairs."""
    is_loop: bool
    """Whether it is a table with rows; otherwise a list of names with one value each."""

    @property
    def n_rows(self) -> int:
        """Rows of the table; 1 for a list."""
        return len(self.row_lines) if self.is_loop else 1


def find_blocks(lines: tuple[str, ...]) -> Iterator[StarBlock]:
    """The tables and lists of a STAR file, in order."""
    name: str | None = None
    line = 0
    while line < len(lines):
        head = _block_start(lines[line])
        if head.startswith("data_"):
            name = head[len("data_") :]
        elif name is not None and head == "loop_":
            block, line = _loop_at(lines, line + 1, name)
            yield block
            continue
        elif name is not None and lines[line].lstrip().startswith("_"):
            block, line = _list_at(lines, line, name)
            yield block
            continue
        line += 1


def _loop_at(lines: tuple[str, ...], line: int, name: str) -> tuple[StarBlock, int]:
    columns: list[str] = []
    header_lines: list[int] = []
    row_lines: list[int] = []
    while line < len(lines):
        words = lines[line].split(maxsplit=1)
        # Once rows have begun, "_x" is a value: taken for a name it would end the table unseen.
        if words and words[0].startswith("_") and not row_lines:
            columns.append(words[0][1:])
            header_lines.append(line)
        elif _block_start(lines[line]):
            break
        elif words and not words[0].startswith("#"):
            row_lines.append(line)
        line += 1
    block = StarBlock(
        name=name,
        columns=tuple(columns),
        header_lines=tuple(header_lines),
        row_lines=tuple(row_lines),
        is_loop=True,
    )
    return block, line


def _list_at(lines: tuple[str, ...], line: int, name: str) -> tuple[StarBlock, int]:
    columns: list[str] = []
    header_lines: list[int] = []
    while line < len(lines):
        words = lines[line].split(maxsplit=1)
        if words and words[0].startswith("_"):
            columns.append(words[0][1:])
            header_lines.append(line)
        elif _block_start(lines[line]):
            break
        line += 1
    block = StarBlock(
        name=name,
        columns=tuple(columns),
        header_lines=tuple(header_lines),
        row_lines=(),
        is_loop=False,
    )
    return block, line


def _block_start(line: str) -> str:
    """The line's ``data_...`` or ``loop_``; empty for every other line."""
    words = line.split(maxsplit=2)
    # A row may begin with a file called data_..., but then it has more values.
    alone = len(words) == 1 or (len(words) > 1 and words[1].startswith("#"))
    return words[0] if alone and words[0].startswith(("data_", "loop_")) else ""
