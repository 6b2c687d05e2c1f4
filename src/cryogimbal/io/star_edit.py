"""Edits of a STAR document that change single values and leave every other character."""

import re
from collections.abc import Mapping, Sequence

from cryogimbal.io.star_blocks import StarBlock
from cryogimbal.io.star_document import (
    StarDocument,
    parse_star,
    value_matches,
    wrong_width,
)

_NEW_VALUE_WIDTH = 12


def replace_columns(
    document: StarDocument, block: StarBlock, values: Mapping[str, Sequence[str]]
) -> StarDocument:
    """Give columns of a table new values; columns it lacks are added behind its last one.

    Parameters
    ----------
    document, block
        A document and one of its tables with rows.
    values : mapping
        For each column name one text per row.

    Raises
    ------
    InputError
        If a row has not one value for each column of its table.
    """
    lines = list(document.lines)
    places = {name: block.columns.index(name) for name in values if name in block.columns}
    added = [name for name in values if name not in block.columns]
    for row, line in enumerate(block.row_lines):
        matches = list(value_matches(lines[line]))
        if len(matches) != len(block.columns):
            raise wrong_width(document, block, row, len(matches))
        new = {place: quoted(values[name][row]) for name, place in places.items()}
        behind = [quoted(values[name][row]) for name in added]
        lines[line] = _edited_row(lines[line], matches, new, behind)
    last = block.header_lines[-1]
    lines[last + 1 : last + 1] = _headers_like(lines[last], added, len(block.columns) + 1)
    return parse_star("\n".join(lines), document.path)


def quoted(value: str) -> str:
    """The value as it stands in a row: in quotes if it holds blanks or looks like a comment."""
    if value and not re.search(r"\s", value) and value[0] not in "\"'#":
        return value
    quote = "'" if '"' in value else '"'
    return f"{quote}{value}{quote}"


def _edited_row(
    line: str, matches: list[re.Match[str]], new: Mapping[int, str], behind: list[str]
) -> str:
    pieces: list[str] = []
    at = 0
    for place, match in enumerate(matches):
        gap, old = line[at : match.start()], match.group()
        value = f"{new[place]:>{len(old)}}" if place in new else old
        # Columns stay in line: a longer value grows to the left as far as the gap before it allows.
        spare = len(gap) - len(gap.rstrip(" ")) - (at > 0)
        pieces += [gap[: len(gap) - max(0, min(len(value) - len(old), spare))], value]
        at = match.end()
    pieces += [f" {value:>{_NEW_VALUE_WIDTH}}" for value in behind]
    return "".join([*pieces, line[at:]])


def _headers_like(header: str, names: list[str], first_number: int) -> list[str]:
    numbered = "#" in header
    tail = header[len(header.rstrip()) :]
    return [
        f"_{name} #{number}{tail}" if numbered else f"_{name}{tail}"
        for number, name in enumerate(names, start=first_number)
    ]
