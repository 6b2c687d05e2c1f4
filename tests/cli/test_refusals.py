"""Input that cannot be used: status 2, a message that helps, and nothing half-made left behind."""

import shutil
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from tests.cli.commands import BOX, N_PARTICLES, PIXEL_SIZE, assert_says, command, refused

pytestmark = pytest.mark.usefixtures("no_pictures")

Damage = Callable[[np.ndarray], np.ndarray]


def first_images(images: np.ndarray) -> np.ndarray:
    return images[: N_PARTICLES - 7]


def constant_image(images: np.ndarray) -> np.ndarray:
    images[4] = 3.0
    return images


def image_with_nan(images: np.ndarray) -> np.ndarray:
    images[6, 5, 5] = np.nan
    return images


def damaged(simulated: Path, folder: Path, damage: Damage) -> Path:
    """A copy of the simulated particles with other images."""
    folder.mkdir()
    with mrcfile.open(simulated / "particles.mrcs") as file:
        images = damage(file.data.copy())
    with mrcfile.new(folder / "particles.mrcs") as file:
        file.set_data(images)
        file.set_image_stack()
        file.voxel_size = PIXEL_SIZE
    return Path(shutil.copy(simulated / "particles.star", folder))


@pytest.mark.filterwarnings("ignore:Data array contains NaN")  # mrcfile, as it writes them
@pytest.mark.parametrize(
    ("damage", "pieces"),
    [
        (first_images, ["row 54", "expected at least 54 images", "found 53"]),
        (constant_image, ["row 5", "000005@", "expected", "found the constant 3"]),
        (image_with_nan, ["row 7", "000007@", "finite", "found NaN"]),
    ],
)
def test_images_that_cannot_be_used(
    damage: Damage,
    pieces: list[str],
    simulated: Path,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table, run = damaged(simulated, tmp_path / "damaged", damage), tmp_path / "run"
    message = refused(capsys, "reconstruct", table, "--out", run, "--config", tiny)
    assert_says(message, *pieces)
    assert not run.exists()


def test_a_missing_stack_is_sought_and_the_command_works_once_it_is_found(
    simulated: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table").mkdir()
    table = Path(shutil.copy(simulated / "particles.star", tmp_path / "table"))
    options = ("reconstruct", table, "--out", tmp_path / "run", "--config", tiny)
    message = refused(capsys, *options)
    tried = tmp_path / "table" / "particles.mrcs"
    assert_says(message, table, "row 1", "no such image file; tried", tried, "--image-root")
    assert not (tmp_path / "run").exists()
    assert command(*options, "--image-root", simulated) == 0


def test_a_folder_that_was_there_before_stays_as_it_was(
    simulated: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, run = damaged(simulated, tmp_path / "damaged", constant_image), tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    refused(capsys, "reconstruct", table, "--out", run, "--config", tiny)
    assert [path.name for path in run.iterdir()] == ["notes.txt"]


def test_a_missing_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, run = tmp_path / "none.star", tmp_path / "run"
    message = refused(capsys, "reconstruct", table, "--out", run)
    assert_says(message, table, "no such file", "STAR")
    assert not run.exists()


def test_a_folder_with_another_run_is_not_touched(
    simulated: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in finished.rglob("*")}

    before = state()
    message = refused(capsys, "reconstruct", simulated / "particles.star", "--out", finished)
    assert_says(message, finished, "another run", f"cryogimbal resume {finished}", "--out")
    assert state() == before


def test_a_simulation_is_not_overwritten(
    simulated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "simulate", "asymmetric", "--out", simulated)
    assert_says(message, simulated, "particles.mrcs", "another --out")
    message = refused(
        capsys, "reconstruct", simulated / "particles.star", "--out", simulated, "--seed", 1
    )
    assert_says(message, simulated, "particles.star", "another --out")


def test_a_map_of_another_width_to_start_from(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = Path(shutil.copy(simulated / "truth.mrc", tmp_path))
    with mrcfile.open(wide, mode="r+") as file:
        file.voxel_size = 1.5 * PIXEL_SIZE
    options = ("--out", tmp_path / "run", "--initial-map", wide)
    message = refused(capsys, "reconstruct", simulated / "particles.star", *options)
    found = 1.5 * BOX * PIXEL_SIZE
    assert_says(message, wide, f"({BOX * PIXEL_SIZE:g} Å)", f"found {found:g} Å", "voxel size")
    assert not (tmp_path / "run").exists()


def test_poses_of_other_particles_to_start_from(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = without_last_row(simulated / "truth.star", tmp_path / "fewer.star")
    options = ("--out", tmp_path / "run", "--initial-poses", fewer)
    message = refused(capsys, "reconstruct", simulated / "particles.star", *options)
    assert_says(message, fewer, f"the {N_PARTICLES} particles", f"found {N_PARTICLES - 1}")
    assert not (tmp_path / "run").exists()


def test_given_shifts_that_are_not_given(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--out", tmp_path / "run", "--shifts", "given")
    message = refused(capsys, "reconstruct", simulated / "particles.star", *options)
    assert_says(message, "particles.star", "origins", "found none", "--shifts estimate")


@pytest.mark.parametrize(
    ("options", "pieces"),
    [
        (("--working-box", BOX + 6), ["at most", f"{BOX} pixels", f"found {BOX + 6}"]),
        (("--particle-diameter", 900), ["192", "found 900"]),
        (("--device", "tpu"), ["--device", "auto, cpu, cuda", "found tpu"]),
        (("--device", "meta"), ["--device", "auto, cpu, cuda", "found meta"]),
        (("--device", "cuda:99"), ["--device", "found cuda:99"]),
    ],
)
def test_options_that_do_not_fit_the_input_or_the_machine(
    options: tuple[object, ...],
    pieces: list[str],
    simulated: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table, run = simulated / "particles.star", tmp_path / "run"
    assert_says(refused(capsys, "reconstruct", table, "--out", run, *options), *pieces)
    assert not run.exists()


def without_last_row(table: Path, out: Path) -> Path:
    lines = table.read_text().rstrip().split("\n")
    out.write_text("\n".join(lines[:-1]) + "\n")
    return out


def swapped_rows(table: Path, out: Path) -> Path:
    lines = table.read_text().rstrip().split("\n")
    lines[-1], lines[-2] = lines[-2], lines[-1]
    out.write_text("\n".join(lines) + "\n")
    return out


def test_evaluation_without_a_truth(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "evaluate", finished)
    assert_says(message, "--truth-star", "--truth-map", "found neither")


@pytest.mark.parametrize(
    ("change", "pieces"),
    [
        (without_last_row, [f"the {N_PARTICLES} particles", f"found {N_PARTICLES - 1}"]),
        (swapped_rows, [f"row {N_PARTICLES - 1}", "same order"]),
    ],
)
def test_evaluation_by_the_truth_of_other_particles(
    change: Callable[[Path, Path], Path],
    pieces: list[str],
    simulated: Path,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    truth = change(simulated / "truth.star", tmp_path / "truth.star")
    message = refused(capsys, "evaluate", finished, "--truth-star", truth)
    assert_says(message, truth, *pieces)
    assert not (finished / "evaluation.json").exists()


def test_evaluation_by_a_table_without_poses(
    simulated: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = simulated / "particles.star"
    assert_says(refused(capsys, "evaluate", finished, "--truth-star", table), table, "angles")


def test_evaluation_of_an_unfinished_run(
    simulated: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    for name in ("particles.star", "map.mrc", "summary.json"):
        (run / name).unlink()
    message = refused(capsys, "evaluate", run, "--truth-star", simulated / "truth.star")
    assert_says(message, run, "finished run", f"cryogimbal resume {run}")


def test_resuming_what_is_finished_or_no_run(
    simulated: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "resume", finished)
    assert_says(message, finished, "unfinished run", "map.mrc", "particles.star")
    assert_says(refused(capsys, "resume", simulated), simulated, "found no config.toml", "--out")


def test_resuming_after_the_input_has_gone(
    simulated: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(simulated, tmp_path / "data")
    table, run = tmp_path / "data" / "particles.star", tmp_path / "run"
    assert command("reconstruct", table, "--out", run, "--config", tiny) == 0
    (run / "summary.json").unlink()
    table.unlink()
    assert_says(refused(capsys, "resume", run), table, "no such file")
    assert list((run / "checkpoints").iterdir())


def test_a_folder_that_cannot_be_made_is_status_1(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    out = tmp_path / "file" / "run"
    assert command("reconstruct", simulated / "particles.star", "--out", out) == 1
    message = capsys.readouterr().err
    assert_says(message, "error:", out)
    assert "Traceback" not in message


def test_maps_that_cannot_be_compared(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = simulated / "truth.mrc"
    small = tmp_path / "small.mrc"
    with mrcfile.open(truth) as file, mrcfile.new(small) as new:
        new.set_data(file.data[2:-2, 2:-2, 2:-2].copy())
        new.voxel_size = PIXEL_SIZE
    assert_says(refused(capsys, "fsc", truth, small), BOX, BOX - 4)
    assert_says(refused(capsys, "fsc", truth, tmp_path / "none.mrc"), "none.mrc", "no such file")


@pytest.mark.usefixtures("no_image_is_read")
@pytest.mark.parametrize("name", ["D1", "C21", "I5", "seven"])
def test_a_symmetry_that_does_not_exist(
    name: str, simulated: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    table = simulated / "particles.star"
    for options in (
        ("reconstruct", table, "--out", run, "--symmetry", name),
        ("evaluate", finished, "--truth-star", simulated / "truth.star", "--symmetry", name),
    ):
        message = refused(capsys, *options)
        assert_says(message, name, "expected C1 to C20, D2 to D10, T, O, I", "name one")
    assert not run.exists()
