"""STAR files as text: find tables, read columns, replace columns and keep everything else.

A document is its lines; an edit touches only the values that change. Comments, version lines,
unknown tables and columns, their order, number formats and blanks stay as they were. Rows are cut
into values only when they are read, so a million rows cost little more than their text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cryogimbal.errors import InputError
from cryogimbal.io.star_blocks import StarBlock, find_blocks

# A value in quotes (closed by the same quote before a blank), a comment, or a run of no blanks.
_VALUE = re.compile(r"\"[^\n]*?\"(?=\s|$)|'[^\n]*?'(?=\s|$)|#.*|\S+")
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, kw_only=True)
class StarDocument:
    """Lines of a STAR file (without line ends) and the tables among them."""

    path: Path
    lines: tuple[str, ...]
    blocks: tuple[StarBlock, ...]

    @property
    def text(self) -> str:
        """The whole file."""
        return "\n".join(self.lines)

    def block(self, name: str) -> StarBlock | None:
        """The first table of that name."""
        return next((block for block in self.blocks if block.name == name), None)


def read_star(path: Path) -> StarDocument:
    """Read a file and find its tables.

    Raises
    ------
    InputError
        If the file is missing, no text, or holds no table, or a table names a column twice.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    raw = path.read_bytes()
    if b"\0" in raw:
        raise InputError(f"{path}: expected a STAR file, found binary data; name the .star table")
    return parse_star(raw.decode("utf-8", errors="surrogateescape"), path)


def parse_star(text: str, path: Path) -> StarDocument:
    """Find the tables of a STAR text; ``path`` names it in messages. Raises as read_star."""
    lines = tuple(text.split("\n"))
    blocks = tuple(find_blocks(lines))
    if not blocks:
        raise InputError(
            f"{path}: expected a STAR file with a table (data_...), found none in "
            f"{len(lines)} lines"
        )
    for block in blocks:
        for place, column in enumerate(block.columns):
            if column in block.columns[:place]:
                raise InputError(
                    f"{path}: line {block.header_lines[place] + 1}: column _{column} stands twice "
                    f"in table data_{block.name}; remove one of them"
                )
    return StarDocument(path=path, lines=lines, blocks=blocks)


def text_rows(
    document: StarDocument, block: StarBlock, columns: Sequence[str]
) -> Iterator[list[str]]:
    """Values of the chosen columns, one list a row, quotes removed.

    Raises
    ------
    InputError
        If a row has not one value for each column of its table.
    """
    if not block.is_loop:
        yield [_pair_value(document, block, column) for column in columns]
        return
    places = [block.columns.index(column) for column in columns]
    for row, line in enumerate(block.row_lines):
        values = _values(document.lines[line])
        if len(values) != len(block.columns):
            raise wrong_width(document, block, row, len(values))
        yield [values[place] for place in places]


def number_columns(
    document: StarDocument, block: StarBlock, columns: Sequence[str]
) -> dict[str, Float[np.ndarray, " row"]]:
    """Finite numbers of the chosen columns, float64.

    Raises
    ------
    InputError
        If a value is no finite number, or a row has not one value for each column.
    """
    numbers = np.empty((len(columns), block.n_rows))
    chunk: list[list[str]] = []
    start = 0
    for values in text_rows(document, block, columns):
        chunk.append(values)
        if len(chunk) == _ROWS_AT_ONCE:
            numbers[:, start : start + len(chunk)] = _numbers(
                document, block, columns, start, chunk
            )
            start, chunk = start + len(chunk), []
    if chunk:
        numbers[:, start:] = _numbers(document, block, columns, start, chunk)
    return dict(zip(columns, numbers, strict=True))


def value_matches(line: str) -> Iterator[re.Match[str]]:
    """Where the values of a row stand, up to a comment."""
    for match in _VALUE.finditer(line):
        if match.group().startswith("#"):
            return
        yield match


def wrong_width(document: StarDocument, block: StarBlock, row: int, found: int) -> InputError:
    """Build the error for a row (from 0) that has not one value for each column."""
    return InputError(
        f"{document.path}: line {block.row_lines[row] + 1} (row {row + 1} of data_{block.name}): "
        f"expected {len(block.columns)} values, one for each column, found {found}; "
        "the file may be cut short here"
    )


def _values(line: str) -> list[str]:
    # Nearly every row is plain, and reading is mostly this function.
    if '"' not in line and "'" not in line and "#" not in line:
        return line.split()
    return [_unquoted(match.group()) for match in value_matches(line)]


def _unquoted(value: str) -> str:
    in_quotes = len(value) > 1 and value[0] in "\"'" and value[-1] == value[0]
    return value[1:-1] if in_quotes else value


def _pair_value(document: StarDocument, block: StarBlock, column: str) -> str:
    line = block.header_lines[block.columns.index(column)]
    values = _values(document.lines[line])
    if len(values) != 2:
        raise InputError(
            f"{document.path}: line {line + 1}: expected _{column} and one value, "
            f"found {len(values) - 1} values"
        )
    return values[1]


def _numbers(
    document: StarDocument,
    block: StarBlock,
    columns: Sequence[str],
    start: int,
    chunk: list[list[str]],
) -> Float[np.ndarray, "column row"]:
    try:
        numbers = np.array([list(map(float, values)) for values in chunk])
    except ValueError:
        numbers = np.array([[_number_or_nan(value) for value in values] for values in chunk])
    # What is computed is single precision: a number beyond its range is infinite there.
    bad = np.argwhere(~(np.abs(numbers) <= np.finfo(np.float32).max))
    if len(bad):
        row, place = (int(n) for n in bad[0])
        line = block.row_lines[start + row] if block.is_loop else block.header_lines[place]
        raise InputError(
            f"{document.path}: line {line + 1} (row {start + row + 1} of data_{block.name}): "
            f"_{columns[place]} is '{chunk[row][place]}', expected a finite number; "
            "correct or remove this row"
        )
    return numbers.T


def _number_or_nan(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return float("nan")
