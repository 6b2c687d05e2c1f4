"""``cryogimbal select``: rows above a score, everything else to the letter."""

from pathlib import Path

import pytest
import torch

from cryogimbal.io.star import read_particles
from cryogimbal.io.star_confidence import SCORE, SHIFT_WIDTH_PX, WIDTH_DEG, table_scores
from cryogimbal.io.star_document import number_columns
from cryogimbal.io.star_table import image_names, read_table
from tests.cli.commands import N_PARTICLES, assert_says, command, refused


def test_a_run_writes_scores_and_widths(finished: Path) -> None:
    table = read_table(finished / "particles.star")
    names = [SCORE, WIDTH_DEG, SHIFT_WIDTH_PX]
    columns = number_columns(table.document, table.particles, names)
    assert ((columns[SCORE] >= 0) & (columns[SCORE] <= 1)).all()
    assert ((columns[WIDTH_DEG] > 0) & (columns[WIDTH_DEG] <= 180)).all()
    assert (columns[SHIFT_WIDTH_PX] > 0).all()


def test_rows_of_a_low_score_are_left_out_and_counted(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = read_table(finished / "particles.star")
    scores = table_scores(table)
    limit = float(torch.from_numpy(scores).quantile(0.3))
    out = tmp_path / "elsewhere" / "good.star"
    assert command("select", finished, "--min-score", limit, "--out", out) == 0
    kept = scores >= limit
    said = capsys.readouterr().out
    assert f"{kept.sum()} of {N_PARTICLES} particles kept" in said
    assert f"{(~kept).sum()} dropped" in said
    chosen, _ = read_particles(out)
    assert len(chosen) == kept.sum()
    found, expected = image_names(read_table(out)), image_names(table)
    assert (found.section == expected.section[kept]).all()
    whole, _ = read_particles(finished / "particles.star")
    index = torch.from_numpy(kept).nonzero()[:, 0]
    first = torch.tensor([0])
    assert torch.equal(chosen.images.read(first), whole.images.read(index[first]))
    assert table_scores(read_table(out)).min() >= limit


def test_what_cannot_be_selected_is_refused(
    finished: Path, simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "good.star"
    said = refused(capsys, "select", finished, "--min-score", 1.5, "--out", out)
    assert_says(said, "--min-score", "0 to 1", "1.5")
    said = refused(capsys, "select", simulated, "--min-score", 0.5, "--out", out)
    assert_says(said, simulated, "folder of a run")
    out.write_text("")
    said = refused(capsys, "select", finished, "--min-score", 0.5, "--out", out)
    assert_says(said, out, "choose another --out")


def test_a_table_without_scores_is_named(
    finished: Path, simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text((finished / "config.toml").read_text())
    (run / "particles.star").write_text((simulated / "particles.star").read_text())
    said = refused(capsys, "select", run, "--min-score", 0.5, "--out", tmp_path / "good.star")
    assert_says(said, run / "particles.star", f"_{SCORE}", "found none")
