"""Poses of new images by the encoder of a finished run."""

import shutil
from pathlib import Path

import pytest
import torch

from cryogimbal.cli.taught_encoder import write_encoder
from cryogimbal.data.density import DensityMap
from cryogimbal.evaluation.pose_error import pose_errors
from cryogimbal.imaging.spectra import read_spectra
from cryogimbal.inference.config_heads import HeadTrainingConfig, RowEncoderConfig
from cryogimbal.inference.config_posterior import PosteriorConfig
from cryogimbal.inference.grid_search import scaled_to_images
from cryogimbal.inference.head_training import HeadTraining, new_row_encoder
from cryogimbal.io.mrc import read_density, write_density
from cryogimbal.io.run_folder import open_run_folder
from cryogimbal.io.star import read_particles, read_poses
from cryogimbal.io.star_table import read_table
from tests.cli.commands import BOX, PIXEL_SIZE, assert_says, command, refused
from tests.cli.conftest import simulate

NETWORK = RowEncoderConfig(n_heads=4, widths=(64, 64), radius=7.0)
TEACHING = HeadTrainingConfig(epochs=2, images_per_epoch=12_800, batch_size=128)


@pytest.fixture(scope="module")
def taught(finished: Path, simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that has found the true map and was taught from it."""
    folder = tmp_path_factory.mktemp("taught") / "run"
    shutil.copytree(finished, folder)
    run = open_run_folder(folder)
    stack, _ = read_particles(simulated / "particles.star", None)
    spectra = read_spectra(stack, BOX)
    truth = read_density(simulated / "truth.mrc")
    density = scaled_to_images(spectra, truth.values, PosteriorConfig())
    write_density(
        run.density, DensityMap(values=density, voxel_size_angstrom=truth.voxel_size_angstrom)
    )
    encoder = new_row_encoder(NETWORK, spectra, density, seed=0)
    for _ in HeadTraining(spectra, encoder, density, TEACHING, seed=0).records():
        pass
    write_encoder(run, encoder, spectra, None)
    return folder


@pytest.fixture(scope="module")
def new_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same particle, other poses, noise and defocus."""
    return simulate(tmp_path_factory.mktemp("new") / "data", "--seed", 1)


def median_deg(found: Path, truth: Path) -> float:
    errors = pose_errors(read_poses(found), read_poses(truth))
    return float(errors.rotation_error_deg.median())


def test_new_images_get_their_poses(
    taught: Path, new_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = new_images / "particles.star", tmp_path / "posed.star"
    assert command("infer-poses", table, "--run", taught, "--out", out) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert_says(said, "4 heads", "60 poses", "images/s", "6 direct steps", out)
    stepped = median_deg(out, new_images / "truth.star")
    heads = tmp_path / "heads.star"
    alone = ("--out", heads, "--direct-steps", 0)
    assert command("infer-poses", table, "--run", taught, *alone) == 0
    assert median_deg(heads, new_images / "truth.star") < 15
    assert stepped < 5


def test_the_table_is_kept_but_for_its_poses(
    taught: Path, new_images: Path, tmp_path: Path
) -> None:
    table, out = new_images / "particles.star", tmp_path / "posed.star"
    assert command("infer-poses", table, "--run", taught, "--out", out, "--direct-steps", 1) == 0
    before, after = read_table(table).particles, read_table(out).particles
    assert set(after.columns) - set(before.columns) == {
        "rlnAngleRot",
        "rlnAngleTilt",
        "rlnAnglePsi",
        "rlnOriginXAngst",
        "rlnOriginYAngst",
    }
    # The image is found from the new table's folder too.
    stack, _ = read_particles(out, None)
    assert len(stack) == 60


def test_equal_commands_give_equal_tables(taught: Path, new_images: Path, tmp_path: Path) -> None:
    tables = []
    for name in ("a.star", "b.star"):
        arguments = (new_images / "particles.star", "--run", taught, "--out", tmp_path / name)
        assert command("infer-poses", *arguments) == 0
        tables.append((tmp_path / name).read_bytes())
    assert tables[0] == tables[1]


def copy_of(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "run"))


def test_a_run_that_cannot_be_used(
    taught: Path,
    new_images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def message(run: Path) -> str:
        table, out = new_images / "particles.star", tmp_path / "posed.star"
        said = refused(capsys, "infer-poses", table, "--run", run, "--out", out)
        assert not out.exists()
        return said

    assert_says(message(tmp_path), tmp_path, "expected the folder of a run")
    run = copy_of(taught, tmp_path)
    (run / "encoder.pt").unlink()
    assert_says(message(run), run, "with an encoder, found no encoder.pt", "auto")
    shutil.copy(taught / "encoder.pt", run)
    content = (run / "encoder.pt").read_bytes()
    (run / "encoder.pt").write_bytes(content[:-50])
    assert_says(message(run), run / "encoder.pt", "expected an encoder, found a broken file")
    torch.save({"weights": 1}, run / "encoder.pt")
    assert_says(message(run), run / "encoder.pt", "expected an encoder, found something else")
    (run / "encoder.pt").write_bytes(content)
    other = DensityMap(values=torch.ones(20, 20, 20), voxel_size_angstrom=PIXEL_SIZE)
    write_density(run / "map.mrc", other)
    assert_says(message(run), run / "map.mrc", f"map of at least {BOX}³ voxels", "found 20³")
    (run / "map.mrc").unlink()
    assert_says(message(run), "expected a finished run, found no map.mrc")
    (run / "summary.json").unlink()
    assert_says(message(run), "expected a finished run, found no summary.json", "resume")


def test_files_that_cannot_be_used(
    taught: Path, new_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = new_images / "particles.star", tmp_path / "posed.star"

    def message(table: Path, out: Path, *more: object) -> str:
        return refused(capsys, "infer-poses", table, "--run", taught, "--out", out, *more)

    missing = tmp_path / "no.star"
    assert_says(message(missing, out), missing, "no such file")
    nowhere = tmp_path / "nowhere" / "posed.star"
    assert_says(message(table, nowhere), nowhere, "does not exist; create it first")
    assert_says(message(table, out, "--direct-steps", -1), "--direct-steps", "0 or more", "-1")
    assert_says(message(table, out, "--device", "cuda:99"), "--device")
    out.write_text("mine")
    assert_says(message(table, out), out, "expected a new file, found one")
    assert out.read_text() == "mine"


def test_images_unlike_those_of_the_run_are_refused(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, box, pixel_size, pieces in (
        ("wide", 32, 8.0, ["192 Å", "found 256 Å", "box of 24 pixels"]),
        ("coarse", 16, 12.0, ["at least the run's working box of 24 pixels, found 16"]),
    ):
        data = tmp_path / name
        options = ("--box", box, "--pixel-size", pixel_size, "--n-particles", 5, "--snr", 1)
        assert command("simulate", "asymmetric", "--out", data, *options) == 0
        table, out = data / "particles.star", tmp_path / "posed.star"
        message = refused(capsys, "infer-poses", table, "--run", taught, "--out", out)
        assert_says(message, table, *pieces)


def test_finer_images_of_the_same_width_are_cropped(taught: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "fine", tmp_path / "posed.star"
    options = ("--box", 2 * BOX, "--pixel-size", PIXEL_SIZE / 2, "--n-particles", 30, "--snr", 1)
    assert command("simulate", "asymmetric", "--out", data, *options) == 0
    assert command("infer-poses", data / "particles.star", "--run", taught, "--out", out) == 0
    assert median_deg(out, data / "truth.star") < 8


def test_a_run_with_given_shifts_wants_them_in_new_tables_too(
    taught: Path,
    new_images: Path,
    shifted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = copy_of(taught, tmp_path)
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace('shifts = "estimate"', 'shifts = "given"'))
    out = tmp_path / "posed.star"
    table = new_images / "particles.star"
    message = refused(capsys, "infer-poses", table, "--run", run, "--out", out)
    assert_says(message, table, "expects columns of origins")
    assert command("infer-poses", shifted / "truth.star", "--run", run, "--out", out) == 0
    found, given = read_poses(out), read_poses(shifted / "truth.star")
    assert torch.equal(found.shift_angstrom, given.shift_angstrom)
    assert median_deg(out, shifted / "truth.star") < 8
