"""Half-sets, half-maps and resolution of a run, from the command line to the files."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import pytest
import starfile
import torch

from cryogimbal.cli.display import Display
from cryogimbal.cli.final_maps import WatchedImages
from cryogimbal.cli.half_sets import half_sets_of
from cryogimbal.data.particles import ArrayImages
from cryogimbal.evaluation.fsc import fourier_shell_correlation
from cryogimbal.evaluation.masks import soft_sphere_mask
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.records import EpochRecord, Record
from cryogimbal.io.mrc import read_density
from cryogimbal.io.star_table import read_table
from tests.cli.commands import (
    BOX,
    N_PARTICLES,
    PIXEL_SIZE,
    assert_same_run,
    assert_says,
    command,
    refused,
    start_process,
)
from tests.cli.conftest import simulate

pytestmark = pytest.mark.usefixtures("no_pictures")

N_MANY = 220
HALVES = ("run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a simulation with enough images for two half-sets, and a table that has them."""
    folder = simulate(tmp_path_factory.mktemp("many") / "data", "--n-particles", N_MANY)
    tables = starfile.read(folder / "particles.star", always_dict=True)
    # Thirds of the stack, so that chance would not draw them.
    tables["particles"]["rlnRandomSubset"] = [1 + (n % 3 == 1 or n < 60) for n in range(N_MANY)]
    starfile.write(tables, folder / "halved.star")
    return folder


@pytest.fixture(scope="module")
def run(many: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that starts at the true poses, on the halves of its table."""
    out = tmp_path_factory.mktemp("runs") / "halved"
    start = (
        "--initial-poses",
        many / "truth.star",
        "--head-training.epochs",
        0,
        "--shifts",
        "none",
    )
    options = ("--config", tiny, "--working-box", 20, *start)
    assert command("reconstruct", many / "halved.star", "--out", out, *options) == 0
    return out


def summary_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_half_sets_of_the_table_are_kept(many: Path, run: Path) -> None:
    given, kept = (
        starfile.read(path)["particles"]["rlnRandomSubset"].tolist()
        for path in (many / "halved.star", run / "particles.star")
    )
    assert kept == given
    assert summary_of(run)["half_set_sizes"] == [given.count(1), given.count(2)]


def test_otherwise_halves_are_drawn_and_written(finished: Path) -> None:
    drawn = starfile.read(finished / "particles.star")["particles"]["rlnRandomSubset"].tolist()
    assert sorted(drawn) == [1] * (N_PARTICLES // 2) + [2] * (N_PARTICLES // 2)
    assert drawn != sorted(drawn)
    # So few images are told of.
    assert any("half-sets of 30 and 30 images" in text for text in summary_of(finished)["warnings"])


def test_maps_have_all_pixels_of_the_images(run: Path) -> None:
    for name in ("map.mrc", "mask.mrc", *HALVES):
        density = read_density(run / name)
        assert (density.box, density.voxel_size_angstrom) == (BOX, PIXEL_SIZE), name
    mask = read_density(run / "mask.mrc").values
    assert 0 <= float(mask.min()) and float(mask.max()) == 1
    assert summary_of(run)["map_box"] == BOX
    assert summary_of(run)["working_box"] == 20


def test_half_maps_of_true_poses_agree_with_the_truth(many: Path, run: Path) -> None:
    truth = read_density(many / "truth.mrc")
    for name in HALVES:
        fsc = fourier_shell_correlation(read_density(run / name), truth, poses="truth")
        assert fsc.correlation[1:8].min() > 0.7


def test_every_file_tells_the_same_curve_and_how_poses_were_found(run: Path) -> None:
    summary = summary_of(run)
    assert summary["half_map_poses"] == summary["half_map_fsc"]["poses"] == "shared"
    tables = starfile.read(run / "fsc.star", always_dict=True)
    assert tables["general"]["cryogimbalHalfSets"] == "shared"
    first, second = (read_density(run / name) for name in HALVES)
    unmasked = fourier_shell_correlation(first, second, poses="shared").correlation.tolist()
    written = tables["fsc"]["rlnFourierShellCorrelationUnmaskedMaps"].tolist()
    assert written == pytest.approx(unmasked, abs=1e-5)
    assert summary["half_map_fsc"]["unmasked"]["correlation"] == pytest.approx(unmasked, abs=1e-5)
    corrected = summary["half_map_fsc"]["corrected"]
    columns = tables["fsc"]["rlnFourierShellCorrelationCorrected"].tolist()
    assert columns == pytest.approx(corrected["correlation"], abs=1e-6)
    xml = ElementTree.parse(run / "fsc.xml").getroot()
    assert "shared poses" in xml.attrib["title"]
    assert len(xml) == BOX // 2 + 1
    for threshold in ("0143", "05"):
        found = summary[f"half_map_resolution_fsc{threshold}_angstrom"]
        assert found == corrected[f"resolution_fsc{threshold}_angstrom"]


@pytest.mark.relion
def test_relion_takes_the_half_maps_as_they_are(
    run: Path, tmp_path: Path, relion: Callable[..., str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "theirs").mkdir()
    relion(
        "relion_postprocess",
        *("--i", f"run/{HALVES[0]}", "--mask", "run/mask.mrc", "--o", "theirs"),
    )
    theirs = starfile.read(tmp_path / "theirs.star", always_dict=True)["general"]
    ours = starfile.read(run / "fsc.star", always_dict=True)["general"]
    width = BOX * PIXEL_SIZE
    shells = [width / general["rlnFinalResolution"] for general in (ours, theirs)]
    assert abs(shells[0] - shells[1]) <= 1 + 1e-4


def test_the_end_says_how_far_and_by_which_poses(
    many: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A mask of one's own is used as it is; without memory for more the maps have the working box.
    mask = tmp_path / "mine.mrc"
    values = soft_sphere_mask(BOX, 1.0, diameter_angstrom=14.0, edge_angstrom=4.0)
    write_mask(mask, values)
    start = (
        "--initial-poses",
        many / "truth.star",
        "--head-training.epochs",
        0,
        "--shifts",
        "none",
    )
    options = ("--config", tiny, "--working-box", 20, "--mask", mask, *start)
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cryogimbal.cli.final_maps.available_bytes", lambda _: 1000)
        assert command("reconstruct", many / "halved.star", "--out", out, *options) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert_says(
        said,
        f"final maps of {BOX}³ voxels would take",
        "they are made with 20³ voxels",
        "half-maps with shared poses agree to",
        "corrected FSC 0.143",
        "so this is optimistic",
        *(out / name for name in HALVES),
    )
    assert read_density(out / "map.mrc").box == 20
    written = read_density(out / "mask.mrc")
    assert written.box == 20
    share = float((written.values > 0.5).double().mean())
    assert share == pytest.approx(float((values > 0.5).double().mean()), rel=0.1)
    assert f'mask = "{mask}"' in (out / "config.toml").read_text()


def write_mask(path: Path, values: torch.Tensor, voxel_size_angstrom: float = PIXEL_SIZE) -> None:
    with mrcfile.new(path) as file:
        file.set_data(values.numpy())
        file.voxel_size = voxel_size_angstrom


@pytest.mark.usefixtures("no_image_is_read")
@pytest.mark.parametrize(
    ("side", "voxel_size", "factor", "pieces"),
    [
        (BOX - 4, PIXEL_SIZE, 1.0, [f"{BOX} voxels a side", f"found {BOX - 4}", "resample"]),
        (BOX, 1.2 * PIXEL_SIZE, 1.0, [f"voxels of {PIXEL_SIZE:g} Å", "found 9.6 Å"]),
        (BOX, PIXEL_SIZE, 7.0, ["from 0 (outside) to 1 (inside)", "found 0 to 7"]),
        (BOX, PIXEL_SIZE, 0.0, ["from 0 (outside) to 1 (inside)", "found 0 to 0"]),
    ],
)
def test_a_mask_that_does_not_fit(
    side: int,
    voxel_size: float,
    factor: float,
    pieces: list[str],
    simulated: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mask, run = tmp_path / "mask.mrc", tmp_path / "run"
    values = soft_sphere_mask(side, 1.0, diameter_angstrom=10.0, edge_angstrom=2.0)
    write_mask(mask, factor * values, voxel_size)
    table = simulated / "particles.star"
    message = refused(capsys, "reconstruct", table, "--out", run, "--mask", mask)
    assert_says(message, mask, "--mask", *pieces)
    assert not run.exists()


@pytest.mark.usefixtures("no_image_is_read")
@pytest.mark.parametrize(
    ("numbers", "pieces"),
    [
        ([1, 2] * 29 + [1, 3], [f"row {N_PARTICLES}", "is 3", "expected 1 or 2"]),
        ([1] * 40 + [2] * 20, ["at least 100 images", "found 40 and 20", "remove the column"]),
        ([2] * 60, ["at least 100 images", "found 0 and 60"]),
    ],
)
def test_half_sets_that_cannot_be_used(
    numbers: list[int],
    pieces: list[str],
    simulated: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = Path(shutil.copytree(simulated, tmp_path / "data"))
    tables = starfile.read(data / "particles.star", always_dict=True)
    tables["particles"]["rlnRandomSubset"] = numbers
    starfile.write(tables, data / "halved.star")
    run = tmp_path / "run"
    message = refused(capsys, "reconstruct", data / "halved.star", "--out", run)
    assert_says(message, data / "halved.star", *pieces)
    assert not run.exists()


@pytest.mark.usefixtures("no_image_is_read")
@pytest.mark.parametrize(
    ("options", "pieces"),
    [
        (("--half-sets", "independent"), ["at least 100 images", "found 30 and 30", "shared"]),
        (("--half-sets", "gold"), ["half-sets"]),
        (("--final.box", BOX + 2), ["--final.box", f"at most the images' {BOX}"]),
        (("--final.mask-level", 1.5), ["--final.mask-level", "between 0 and 1", "1.5"]),
    ],
)
def test_options_that_cannot_be(
    options: tuple[object, ...],
    pieces: list[str],
    simulated: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    message = refused(capsys, "reconstruct", simulated / "particles.star", "--out", run, *options)
    assert_says(message, *pieces)
    assert not run.exists()


def test_images_that_are_watched_are_the_same_images(generator: torch.Generator) -> None:
    source = ArrayImages(values=torch.randn(3, 8, 8, generator=generator))
    seen: list[str] = []
    watched = WatchedImages(source=source, watch=lambda: seen.append("read"))
    index = torch.tensor([2, 0])
    assert torch.equal(watched.read(index), source.read(index))
    assert (watched.n_images, watched.box, seen) == (3, 8, ["read"])


INDEPENDENT = ("--half-sets", "independent", "--shifts", "none", "--noise", "white")


@pytest.fixture(scope="module")
def independent(
    many: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run of two searches, and a table of what it printed."""
    out = tmp_path_factory.mktemp("runs") / "independent"
    options = ("--config", tiny, *INDEPENDENT)
    process = start_process("reconstruct", many / "halved.star", "--out", out, *options)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    said = tmp_path_factory.mktemp("said") / "printed.txt"
    said.write_text(printed)
    return out, said


def test_two_searches_leave_one_result(many: Path, independent: tuple[Path, Path]) -> None:
    run, said = independent
    summary = summary_of(run)
    assert summary["half_map_poses"] == summary["half_map_fsc"]["poses"] == "independent"
    given = starfile.read(many / "halved.star")["particles"]["rlnRandomSubset"].tolist()
    table = starfile.read(run / "particles.star")["particles"]
    assert table["rlnRandomSubset"].tolist() == given
    general = starfile.read(run / "fsc.star", always_dict=True)["general"]
    assert general["cryogimbalHalfSets"] == "independent"
    assert "independent poses" in (run / "fsc.xml").read_text()
    assert isinstance(summary["half_alignment"]["mirrored"], bool)
    for name in ("map.mrc", "mask.mrc", "encoder.pt", *HALVES):
        assert (run / name).exists(), name
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for half in (1, 2):
        stages = {r["stage"] for r in records if r["type"] == "epoch" and r["half_set"] == half}
        assert stages == {"posterior_search", "auto_decoding", "head_training", "closing"}
    sizes = [given.count(1), given.count(2)]
    assert summary["half_set_sizes"] == sizes
    assert {r["half_set"]: r["images_total"] for r in records if r.get("stage") == "closing"} == {
        1: sizes[0],
        2: sizes[1],
    }
    names = {path.name for path in (run / "figures").iterdir()}
    assert {"progress_half1.png", "progress_half2.png", "fsc.png", "particles.png"} <= names
    assert_says(
        " ".join(said.read_text().split()),
        f"two searches that share nothing, of {sizes[0]} and {sizes[1]} images",
        "half 1 · auto-decoding 1/",
        "half 2 · auto-decoding 1/",
        "half 2 is brought to half 1: turned by",
        "its hand",
        "half-maps with independent poses agree to",
    )


def test_two_searches_that_are_stopped_go_on_bit_by_bit(
    many: Path,
    tiny: Path,
    tmp_path: Path,
    independent: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, show = tmp_path / "run", Display.show

    def die(display: Display, record: Record) -> None:
        show(display, record)
        if isinstance(record, EpochRecord) and (record.half_set, record.stage) == (
            2,
            "auto_decoding",
        ):
            raise SystemExit(9)

    table, options = many / "halved.star", ("--config", tiny, *INDEPENDENT)
    with monkeypatch.context() as patch:
        patch.setattr("cryogimbal.cli.run.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        patch.setattr(Display, "show", die)
        assert command("reconstruct", table, "--out", run, *options) == 9
    assert command("resume", run) == 0
    assert_same_run(run, independent[0])


def test_halves_that_begin_alike_are_told_of(many: Path) -> None:
    table = read_table(many / "halved.star")
    config = ReconstructionConfig(half_sets="independent", initial_map=many / "truth.mrc")
    _, told = half_sets_of(table, config)
    assert len(told) == 1
    assert_says(told[0], "both halves begin with --initial-map")
    assert half_sets_of(table, replace(config, half_sets="shared"))[1] == ()
