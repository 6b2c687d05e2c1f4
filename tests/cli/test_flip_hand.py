"""flip-hand turns everything of a run to the other hand at once, and back."""

import json
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryogimbal.io.star import read_particles, read_poses
from cryogimbal.rotations import geodesic_distance_deg, mirror_rotation
from tests.cli.commands import N_PARTICLES, assert_says, command, refused

KEPT = ("config.toml", "metrics.jsonl", "fsc.star")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def maps_of(run: Path) -> list[Path]:
    return sorted(run.glob("*.mrc"))


def values(path: Path) -> np.ndarray:
    with mrcfile.open(path) as file:
        return np.array(file.data)


def everything(run: Path) -> dict[str, bytes]:
    names = [path.name for path in maps_of(run)] + ["particles.star", "summary.json", *KEPT]
    return {name: (run / name).read_bytes() for name in names}


def test_maps_and_poses_are_mirrored_together_and_twice_is_nothing(run: Path) -> None:
    before = everything(run)
    old = {path.name: values(path) for path in maps_of(run)}
    poses = read_poses(run / "particles.star")
    assert {"map.mrc", "run_half1_class001_unfil.mrc", "mask.mrc"} <= set(old)
    assert command("flip-hand", run) == 0
    for name, was in old.items():
        assert np.array_equal(values(run / name), np.roll(was[::-1], 1 - len(was) % 2, axis=0))
    flipped = read_poses(run / "particles.star")
    torch.testing.assert_close(flipped.rotation, mirror_rotation(poses.rotation), atol=1e-5, rtol=0)
    assert torch.equal(flipped.shift_angstrom, poses.shift_angstrom)
    # The images are found as before.
    assert len(read_particles(run / "particles.star")[0]) == N_PARTICLES
    assert json.loads((run / "summary.json").read_text())["hand_flipped"] is True
    assert all((run / name).read_bytes() == before[name] for name in KEPT)
    assert command("flip-hand", run) == 0
    assert everything(run) == before


def test_a_new_folder_leaves_the_run_as_it_is(run: Path, tmp_path: Path) -> None:
    before, out = everything(run), tmp_path / "elsewhere" / "flipped"
    assert command("flip-hand", run, "--out", out) == 0
    assert everything(run) == before
    assert command("flip-hand", run) == 0
    for path in (*maps_of(out), out / "summary.json"):
        assert path.read_bytes() == (run / path.name).read_bytes()
    found, expected = (read_poses(folder / "particles.star") for folder in (out, run))
    assert torch.equal(found.rotation, expected.rotation)
    assert len(read_particles(out / "particles.star")[0]) == N_PARTICLES


def test_the_encoder_goes_with_the_map(run: Path, simulated: Path, tmp_path: Path) -> None:
    def inferred(name: str) -> torch.Tensor:
        out = tmp_path / name
        options = ("--run", run, "--out", out, "--direct-steps", 0)
        assert command("infer-poses", simulated / "particles.star", *options) == 0
        return read_poses(out).rotation

    before = inferred("before.star")
    assert command("flip-hand", run) == 0
    error = geodesic_distance_deg(inferred("after.star"), mirror_rotation(before))
    # A head that is as good as another may lose to it by rounding.
    assert float((error < 0.01).double().mean()) > 0.9


def test_maps_and_a_table_alone(finished: Path, tmp_path: Path) -> None:
    out, names = tmp_path / "out", ("mask.mrc", "map.mrc")
    maps = [finished / name for name in names]
    table = finished / "particles.star"
    options = ("--out", out, "--mirror", "centre")
    assert command("flip-hand", "--maps", *maps, "--particles", table, *options) == 0
    for name in names:
        was = values(finished / name)
        even = 1 - len(was) % 2
        expected = np.roll(was[::-1, ::-1, ::-1], (even, even, even), axis=(0, 1, 2))
        assert np.array_equal(values(out / name), expected)
    rotation = read_poses(table).rotation
    turned = torch.diag(torch.tensor([-1.0, -1.0, 1.0])) @ rotation
    torch.testing.assert_close(
        read_poses(out / "particles.star").rotation, turned, atol=1e-5, rtol=0
    )
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "particles.star"])


def test_an_interrupted_flip_is_noticed_and_finished(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = tmp_path / "expected"
    assert command("flip-hand", run, "--out", expected) == 0
    # As if the process had been killed after it had moved everything but the poses.
    (run / ".replacing").mkdir()
    shutil.move(expected / "particles.star", run / ".replacing" / "particles.star")
    for path in expected.iterdir():
        shutil.copy(path, run)
    message = refused(capsys, "evaluate", run, "--truth-map", run / "map.mrc")
    assert_says(message, run, "flip was interrupted", "cryogimbal flip-hand", "finishes it")
    before = read_poses(run / "particles.star")
    assert command("flip-hand", run) == 0
    assert "an interrupted flip" in capsys.readouterr().out
    found = read_poses(run / "particles.star")
    torch.testing.assert_close(found.rotation, mirror_rotation(before.rotation), atol=1e-5, rtol=0)
    assert not (run / ".replacing").exists()


def test_what_cannot_be_flipped_is_refused(
    finished: Path, simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out = everything(finished), tmp_path / "out"
    density = finished / "map.mrc"
    assert_says(refused(capsys, "flip-hand"), "found neither")
    assert_says(refused(capsys, "flip-hand", finished, "--maps", density), "found both")
    assert_says(refused(capsys, "flip-hand", "--maps", density), "expects --out")
    assert_says(refused(capsys, "flip-hand", tmp_path), "found no config.toml")
    twice = refused(capsys, "flip-hand", "--maps", density, density, "--out", out)
    assert_says(twice, "found map.mrc twice")
    assert_says(
        refused(capsys, "flip-hand", "--maps", density, "--out", finished), "without map.mrc"
    )
    no_angles = simulated / "particles.star"
    message = refused(capsys, "flip-hand", "--particles", no_angles, "--out", out)
    assert_says(message, no_angles, "expected angles")
    assert not out.exists()
    assert everything(finished) == before
