"""Aberrations that matter are refused by name; small ones are told with their size."""

from pathlib import Path

import pytest

from cryogimbal.cli.aberrations import told_aberrations
from cryogimbal.errors import InputError
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.io.star import read_particles
from tests.cli.commands import assert_says
from tests.io.tables import PIXEL_SIZE, image_names, write_new_table, write_stack

BOX = 16


def table_with(folder: Path, tilt: str) -> Path:
    write_stack(folder / "stack.mrcs", 2, BOX)
    path = folder / "particles.star"
    write_new_table(path, image_names(2), BOX, {"rlnBeamTiltX": ["0", tilt]})
    return path


def test_a_small_beam_tilt_is_told_with_its_size(tmp_path: Path) -> None:
    stack, table = read_particles(table_with(tmp_path, "0.5"))
    (told,) = told_aberrations(table, stack, BOX, ReconstructionConfig())
    limit = 2 * PIXEL_SIZE
    expected = 0.360 * 2.7e7 * 0.01968762**2 * 0.5 / limit**3
    assert 5 < expected < 20
    assert_says(told, "beam tilt", "rlnBeamTiltX", f"{expected:.2g}", f"{limit:g} Å")


def test_a_large_one_is_refused_unless_it_is_to_be_ignored(tmp_path: Path) -> None:
    path = table_with(tmp_path, "5")
    stack, table = read_particles(path)
    with pytest.raises(InputError) as caught:
        told_aberrations(table, stack, BOX, ReconstructionConfig())
    assert_says(
        str(caught.value), path, "row 2", "beam tilt", "at most 20°", "--ignore-aberrations"
    )
    told = told_aberrations(table, stack, BOX, ReconstructionConfig(ignore_aberrations=True))
    assert len(told) == 1
    # At half the frequency it is an eighth.
    assert len(told_aberrations(table, stack, BOX // 4, ReconstructionConfig())) == 1


def test_without_any_nothing_is_told(tmp_path: Path) -> None:
    stack, table = read_particles(table_with(tmp_path, "0.0"))
    assert told_aberrations(table, stack, BOX, ReconstructionConfig()) == ()
