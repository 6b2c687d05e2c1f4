"""A run that has found no structure says so: in its summary, on the terminal, in its exit status."""

import json
from pathlib import Path

import pytest

from cryogimbal.cli.main import NO_STRUCTURE
from tests.cli.commands import BOX, PIXEL_SIZE, command

SIGN = "the map is a ball without features"


def reconstruct_in_vain(table: Path, run: Path, *options: object) -> dict[str, object]:
    """The summary of a run whose every map is taken for a ball."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cryogimbal.inference.reconstruct.signs_in_map", lambda _: (SIGN,))
        patch.setattr("cryogimbal.cli.results._write_figures", lambda *_: None)
        assert command("reconstruct", table, "--out", run, *options) == NO_STRUCTURE
    return json.loads((run / "summary.json").read_text())


def test_a_failing_search_begins_again_three_times(
    simulated: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    summary = reconstruct_in_vain(simulated / "particles.star", run, "--config", tiny)
    said = capsys.readouterr()
    for number in (1, 2, 3):
        assert f"restart {number} of at most 3" in said.out
    assert f"failed: {run}: {SIGN}" in said.err
    assert summary["failed"] is True
    assert summary["signs_of_failure"] == [SIGN]
    assert summary["n_restarts"] == 3
    assert (run / "map.mrc").exists()
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    told = [one["text"] for one in records if one["type"] == "notice"]
    assert sum("begins again" in text for text in told) == 3


def test_a_search_from_a_map_does_not_begin_again(
    simulated: Path, finished: Path, tiny: Path, tmp_path: Path
) -> None:
    options = ("--config", tiny, "--initial-map", finished / "map.mrc")
    summary = reconstruct_in_vain(simulated / "particles.star", tmp_path / "run", *options)
    assert (summary["failed"], summary["n_restarts"]) == (True, 0)


def test_a_run_that_shows_no_sign_has_not_failed(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert (summary["failed"], summary["n_restarts"]) == (False, 0)
    assert summary["signs_of_failure"] == []


def test_halves_of_noise_alone_are_a_failure(tiny: Path, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    images = ("--box", BOX, "--pixel-size", PIXEL_SIZE, "--n-particles", 200, "--snr", 1e-6)
    assert command("simulate", "asymmetric", "--out", data, *images) == 0
    options = ("--out", run, "--config", tiny, "--half-sets", "independent", "--contrast", "light")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cryogimbal.cli.results._write_figures", lambda *_: None)
        assert command("reconstruct", data / "particles.star", *options) == NO_STRUCTURE
    summary = json.loads((run / "summary.json").read_text())
    assert summary["failed"] is True
    assert any("do not look alike" in sign for sign in summary["signs_of_failure"])
