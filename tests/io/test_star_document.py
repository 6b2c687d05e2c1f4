"""Reading tables and editing them: what is not changed stays to the letter."""

from pathlib import Path

import numpy as np
import pandas
import pytest
import starfile

from cryogimbal.errors import InputError
from cryogimbal.io.star_document import number_columns, parse_star, read_star, text_rows
from cryogimbal.io.star_edit import replace_columns

HERE = Path("table.star")
TEXT = """\
# version 50001
# a remark

data_general

_rlnFinalResolution   3.40   # of the mask
_rlnMaskName   "my mask.mrc"

data_particles

loop_\x20
_rlnMicrographName #1\x20
_rlnDefocusU #2\x20
_rlnImageName #3\x20
# between header and rows
001   15000.50\t 000001@a.mrcs \r
"b c"   1e4    000002@a.mrcs   # worst

data_x.mrc   nan 000003@a.mrcs
data_other
loop_
_x
1
"""


def test_tables_are_found_between_comments_blanks_and_lists() -> None:
    document = parse_star(TEXT, HERE)
    assert [(b.name, b.n_rows, b.is_loop) for b in document.blocks] == [
        ("general", 1, False),
        ("particles", 3, True),
        ("other", 1, True),
    ]
    assert document.text == TEXT


def test_values_are_texts_as_they_stand() -> None:
    document = parse_star(TEXT, HERE)
    particles = document.block("particles")
    assert particles is not None
    assert list(text_rows(document, particles, ["rlnImageName", "rlnMicrographName"])) == [
        ["000001@a.mrcs", "001"],
        ["000002@a.mrcs", "b c"],
        ["000003@a.mrcs", "data_x.mrc"],
    ]
    general = document.block("general")
    assert general is not None
    assert list(text_rows(document, general, ["rlnMaskName", "rlnFinalResolution"])) == [
        ["my mask.mrc", "3.40"]
    ]


def test_an_edit_changes_the_named_values_and_nothing_else() -> None:
    document = parse_star(TEXT, HERE)
    particles = document.block("particles")
    assert particles is not None
    new = {"rlnDefocusU": ["1.0", "2.0", "3.0"], "rlnNote": ["a", "b c", "#d"]}
    edited = replace_columns(document, particles, new).text
    expected = (
        TEXT.replace("15000.50\t 000001@a.mrcs ", "     1.0\t 000001@a.mrcs            a ")
        .replace("1e4    000002@a.mrcs ", '2.0    000002@a.mrcs        "b c" ')
        .replace("nan 000003@a.mrcs", '3.0 000003@a.mrcs         "#d"')
        .replace("_rlnImageName #3 \n", "_rlnImageName #3 \n_rlnNote #4 \n")
    )
    assert edited == expected


def test_headers_without_numbers_get_none() -> None:
    document = parse_star("data_\nloop_\n_a\n_b\n1 2\n", HERE)
    edited = replace_columns(document, document.blocks[0], {"c": ["3"]})
    assert edited.text == "data_\nloop_\n_a\n_b\n_c\n1 2            3\n"
    assert edited.blocks[0].columns == ("a", "b", "c")


def test_bytes_that_are_no_utf8_survive(tmp_path: Path) -> None:
    raw = b"data_\nloop_\n_a\n_b\nK\xf6ln.mrc 1\n"
    (tmp_path / "t.star").write_bytes(raw)
    document = read_star(tmp_path / "t.star")
    assert document.text.encode("utf-8", "surrogateescape") == raw


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("just prose\n", "expected a STAR file with a table"),
        ("data_\nloop_\n_a\n_b\n_a\n1 2 3\n", "line 5: column _a stands twice in table data_"),
    ],
)
def test_what_is_no_table_is_refused(text: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        parse_star(text, HERE)


def test_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "stack.mrcs").write_bytes(bytes(2048))
    with pytest.raises(InputError, match=r"stack\.mrcs: expected a STAR file, found binary data"):
        read_star(tmp_path / "stack.mrcs")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("3", "line 7 .row 3 of data_p.: expected 2 values, one for each column, found 1"),
        ("3 4 5", "line 7 .row 3 of data_p.: expected 2 values, one for each column, found 3"),
        ("_x 1", "line 7 .row 3 of data_p.: _a is '_x', expected a finite number"),
        ("nan 1", "line 7 .row 3 of data_p.: _a is 'nan', expected a finite number"),
        ("1 1e39", "line 7 .row 3 of data_p.: _b is '1e39', expected a finite number"),
    ],
)
def test_a_bad_row_is_named_by_line_and_row(row: str, expected: str) -> None:
    document = parse_star(f"data_p\nloop_\n_a\n_b\n1 2\n1 2\n{row}\n1 2\n", HERE)
    with pytest.raises(InputError, match=expected):
        number_columns(document, document.blocks[0], ["a", "b"])


def test_many_rows_are_read_in_pieces() -> None:
    numbers = np.random.default_rng(0).normal(size=(20001, 2))
    rows = "\n".join(f"{a!r} x {b!r}" for a, b in numbers.tolist())
    document = parse_star(f"data_p\nloop_\n_a\n_t\n_b\n{rows}\n", HERE)
    columns = number_columns(document, document.blocks[0], ["b", "a"])
    assert np.array_equal(columns["a"], numbers[:, 0])
    assert np.array_equal(columns["b"], numbers[:, 1])


def test_every_reference_table_reads_as_the_starfile_package_reads_it(
    reference_data: Path,
) -> None:
    paths = sorted(reference_data.rglob("*.star"))
    assert paths
    for path in paths:
        document = read_star(path)
        assert document.text.encode("utf-8", "surrogateescape") == path.read_bytes()
        names = [name for block in document.blocks for name in block.columns]
        tables = starfile.read(path, always_dict=True, parse_as_string=names)
        assert [block.name for block in document.blocks] == list(tables)
        for block in document.blocks:
            theirs = tables[block.name]
            if isinstance(theirs, pandas.DataFrame):
                expected = theirs.astype(str).to_numpy().tolist()
            else:
                expected = [[str(value) for value in theirs.values()]]
            assert list(text_rows(document, block, block.columns)) == expected, path


def test_editing_a_reference_table_keeps_every_other_value(reference_data: Path) -> None:
    for path in sorted(reference_data.rglob("*.star")):
        document = read_star(path)
        for block in (b for b in document.blocks if b.is_loop):
            new = ["7.5"] * block.n_rows
            first = block.columns[0]
            edited = replace_columns(document, block, {first: new, "rlnAdded": new})
            after = next(b for b in edited.blocks if b.name == block.name)
            assert after.columns == (*block.columns, "rlnAdded")
            kept = block.columns[1:]
            assert list(text_rows(edited, after, kept)) == list(text_rows(document, block, kept))
            assert all(
                row == ["7.5", "7.5"] for row in text_rows(edited, after, [first, "rlnAdded"])
            )
            unchanged = [line for n, line in enumerate(document.lines) if n not in block.row_lines]
            assert [line for line in edited.lines if line in set(unchanged)] == unchanged
