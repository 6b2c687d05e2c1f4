"""From a simulation to a judged map, by the commands of the README."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import starfile
import torch

from cryogimbal.io.mrc import read_density
from cryogimbal.io.star import read_particles, read_poses
from cryogimbal.rotations import geodesic_distance_deg
from tests.cli.commands import BOX, N_PARTICLES, PIXEL_SIZE, assert_same_run, command

pytestmark = pytest.mark.usefixtures("no_pictures")

PROMISED_KEYS = {
    "rotation_error_mean_deg",
    "rotation_error_median_deg",
    "view_direction_error_median_deg",
    "resolution_fsc05_angstrom",
    "mirrored",
    "fsc",
}


def test_a_simulation_leaves_its_files(simulated: Path) -> None:
    names = {"particles.mrcs", "particles.star", "truth.star", "truth.mrc"}
    assert {path.name for path in simulated.iterdir()} == names
    stack, _ = read_particles(simulated / "particles.star")
    assert (len(stack), stack.box, stack.pixel_size_angstrom) == (N_PARTICLES, BOX, PIXEL_SIZE)
    assert stack.poses is None
    assert len(read_poses(simulated / "truth.star")) == N_PARTICLES
    assert read_density(simulated / "truth.mrc").box == BOX


def test_a_run_leaves_its_files(finished: Path) -> None:
    files = {"map.mrc", "particles.star", "config.toml", "metrics.jsonl", "summary.json"}
    assert files <= {path.name for path in finished.iterdir()}
    assert list((finished / "checkpoints").iterdir())
    assert {"map.png", "progress.png"} <= {path.name for path in (finished / "figures").iterdir()}
    density = read_density(finished / "map.mrc")
    assert (density.box, density.voxel_size_angstrom) == (BOX, PIXEL_SIZE)
    summary = json.loads((finished / "summary.json").read_text())
    assert (summary["n_particles"], summary["working_box"]) == (N_PARTICLES, BOX)
    assert summary["half_map_poses"] == "shared"
    assert summary["kernels"] == "numba"


def test_evaluation_has_what_is_promised(
    simulated: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    capsys.readouterr()
    truth = ("--truth-star", simulated / "truth.star", "--truth-map", simulated / "truth.mrc")
    assert command("evaluate", run, *truth) == 0
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation.keys() >= PROMISED_KEYS
    assert len(evaluation["fsc"]["correlation"]) == BOX // 2 + 1
    printed = capsys.readouterr().out
    for key in ("rotation_error_mean_deg", "rotation_error_median_deg"):
        assert f"{evaluation[key]:.2f}°" in printed
    assert f"{evaluation['resolution_fsc05_angstrom']:.2f} Å" in printed
    labels = [line.split("│")[1].strip() for line in printed.splitlines() if line.count("│") == 3]
    assert "shift error, median" in labels
    assert len(set(labels)) == len(labels)
    assert str(run / "evaluation.json") in printed


def test_a_run_judged_by_itself_is_perfect(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    truth = ("--truth-star", run / "particles.star", "--truth-map", run / "map.mrc")
    assert command("evaluate", run, *truth) == 0
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["rotation_error_mean_deg"] < 0.1
    assert evaluation["view_direction_error_median_deg"] < 0.1
    assert evaluation["mirrored"] is False
    assert min(evaluation["fsc"]["correlation"][:-1]) > 0.99


def test_fsc_of_a_map_with_itself_and_with_the_truth(
    simulated: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curve = tmp_path / "fsc.json"
    assert command("fsc", finished / "map.mrc", finished / "map.mrc", "--out", curve) == 0
    assert min(json.loads(curve.read_text())["correlation"]) > 1 - 1e-6
    assert "never falls below" in capsys.readouterr().out
    assert command("fsc", finished / "map.mrc", simulated / "truth.mrc") == 0
    assert "FSC 0.143 at" in capsys.readouterr().out


def test_every_column_and_table_of_the_input_is_kept(
    simulated: Path, tiny: Path, tmp_path: Path
) -> None:
    tables = starfile.read(simulated / "particles.star", always_dict=True)
    tables["particles"]["rlnMicrographName"] = [f"{n:03d}.mrc" for n in range(N_PARTICLES)]
    tables["particles"]["myOwnScore"] = [0.5 * n for n in range(N_PARTICLES)]
    tables["job"] = pd.DataFrame({"rlnJobTypeLabel": ["extract", "select"]})
    folder = tmp_path / "project" / "Extract"
    folder.mkdir(parents=True)
    starfile.write(tables, folder / "particles.star")
    shutil.copy(simulated / "particles.mrcs", folder)
    run = tmp_path / "elsewhere" / "run"
    assert command("reconstruct", folder / "particles.star", "--out", run, "--config", tiny) == 0

    written = starfile.read(run / "particles.star", always_dict=True)
    assert written.keys() == tables.keys()
    pd.testing.assert_frame_equal(written["optics"], tables["optics"])
    pd.testing.assert_frame_equal(written["job"], tables["job"])
    kept = [name for name in tables["particles"] if name != "rlnImageName"]
    pd.testing.assert_frame_equal(written["particles"][kept], tables["particles"][kept])
    stack, _ = read_particles(run / "particles.star")
    before, _ = read_particles(folder / "particles.star")
    everything = torch.arange(N_PARTICLES)
    assert torch.equal(stack.images.read(everything), before.images.read(everything))
    assert stack.poses is not None


def test_given_shifts_centre_the_images_and_come_back(
    shifted: Path, tiny: Path, tmp_path: Path
) -> None:
    start = ("--initial-poses", shifted / "truth.star")
    options = ("--config", tiny, "--shifts", "given", *start)
    run = tmp_path / "run"
    assert command("reconstruct", shifted / "truth.star", "--out", run, *options) == 0
    truth, found = read_poses(shifted / "truth.star"), read_poses(run / "particles.star")
    assert truth.shift_angstrom.std() > PIXEL_SIZE
    torch.testing.assert_close(found.shift_angstrom, truth.shift_angstrom, rtol=0, atol=1e-4)
    # Centred by its shift an image agrees with its true pose, from which it then hardly moves.
    moved = geodesic_distance_deg(found.rotation, truth.rotation)
    assert moved.median() < 5


def test_without_shifts_the_poses_are_those_of_images_as_they_are(
    shifted: Path, tiny: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    table = shifted / "truth.star"
    options = ("--config", tiny, "--shifts", "none")
    assert command("reconstruct", table, "--out", run, *options) == 0
    assert not read_poses(run / "particles.star").shift_angstrom.any()


def test_a_working_box_crops_the_search_and_not_the_answer(
    simulated: Path, tiny: Path, tmp_path: Path
) -> None:
    run, working_box = tmp_path / "run", 19
    options = ("--config", tiny, "--working-box", working_box)
    assert command("reconstruct", simulated / "particles.star", "--out", run, *options) == 0
    density = read_density(run / "map.mrc")
    assert (density.box, density.voxel_size_angstrom) == (BOX, PIXEL_SIZE)
    assert json.loads((run / "summary.json").read_text())["working_box"] == working_box
    stack, _ = read_particles(run / "particles.star")
    assert (stack.box, stack.pixel_size_angstrom) == (BOX, PIXEL_SIZE)


def test_given_map_and_poses_replace_the_search(
    simulated: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(simulated)
    run = tmp_path / "run"
    given = ("--initial-map", "truth.mrc", "--initial-poses", "truth.star")
    assert command("reconstruct", "particles.star", "--out", run, "--config", tiny, *given) == 0
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    stages = {record["stage"] for record in records if record["type"] == "epoch"}
    assert stages == {"auto_decoding", "head_training", "closing"}
    # Written so that the run can be resumed from any folder.
    assert f'initial_map = "{simulated / "truth.mrc"}"' in (run / "config.toml").read_text()


def test_a_subset_is_searched_and_every_particle_gets_its_pose(
    simulated: Path, tiny: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ("--config", tiny, "--max-particles", 30)
    assert command("reconstruct", simulated / "particles.star", "--out", run, *options) == 0
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    totals = {r["stage"]: r["images_total"] for r in records if r["type"] == "epoch"}
    expected = {"posterior_search": 30, "auto_decoding": N_PARTICLES, "closing": N_PARTICLES}
    assert totals == {**expected, "head_training": 64}
    assert len(read_poses(run / "particles.star")) == N_PARTICLES


def test_the_configuration_of_a_run_repeats_it(
    simulated: Path, finished: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    options = ("--config", finished / "config.toml")
    assert command("reconstruct", simulated / "particles.star", "--out", again, *options) == 0
    assert_same_run(again, finished)


def test_poses_that_a_named_group_makes_equal_are_equal(
    finished: Path, simulated: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    truth = simulated / "truth.star"
    errors = []
    for symmetry in ((), ("--symmetry", "c4")):
        assert command("evaluate", run, "--truth-star", truth, *symmetry) == 0
        found = json.loads((run / "evaluation.json").read_text())
        errors.append(found["rotation_error_median_deg"])
        assert found["symmetry"] == ("C4" if symmetry else "C1")
    # Of four angles the least counts, where one did before.
    assert errors[1] < errors[0]
