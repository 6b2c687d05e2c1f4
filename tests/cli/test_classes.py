"""Several classes from the command line: their files, their column, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import starfile

from cryogimbal.io.mrc import read_density
from tests.cli.commands import BOX, assert_says, command, refused
from tests.cli.conftest import simulate

N_OF_EACH = 150
PLAIN = ("--shifts", "none", "--noise", "white")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of images of two structures, one after the other."""
    folder = tmp_path_factory.mktemp("mixed")
    tables: list[Any] = []
    for seed in (0, 1):
        options = ("--n-particles", N_OF_EACH, "--phantom-seed", seed, "--seed", seed)
        made = simulate(folder / f"of{seed}", *options, "--snr", 2)
        tables.append(starfile.read(made / "particles.star"))
        names = tables[-1]["particles"]["rlnImageName"]
        tables[-1]["particles"]["rlnImageName"] = names.str.replace("@", f"@of{seed}/")
    rows = tables[0]["particles"].to_dict("list")
    more = tables[1]["particles"].to_dict("list")
    joined = {name: [*values, *more[name]] for name, values in rows.items()}
    frame = type(tables[0]["particles"])(joined)
    starfile.write({"optics": tables[0]["optics"], "particles": frame}, folder / "mixed.star")
    return folder / "mixed.star"


def test_each_class_has_its_maps_and_each_particle_its_class(
    table: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ("--out", run, "--config", tiny, "--n-classes", 2, *PLAIN)
    assert command("reconstruct", table, *options) == 0
    summary = json.loads((run / "summary.json").read_text())
    found: Any = starfile.read(run / "particles.star")
    numbers = found["particles"]["rlnClassNumber"].tolist()
    sizes = [numbers.count(1), numbers.count(2)]
    assert sum(sizes) == 2 * N_OF_EACH
    assert sizes[0] >= sizes[1] >= 100
    assert [one["n_particles"] for one in summary["classes"]] == sizes
    assert [one["map"] for one in summary["classes"]] == ["map.mrc", "run_class002.mrc"]
    assert [sum(one["half_set_sizes"]) for one in summary["classes"]] == sizes
    maps = []
    for name in ("map.mrc", "run_class002.mrc", *halves("class001"), *halves("class002")):
        maps.append(read_density(run / name).values)
        assert maps[-1].shape == (BOX, BOX, BOX)
    assert abs(maps[0] - maps[1]).max() > 0
    for name in ("mask_class002.mrc", "fsc_class002.star", "fsc_class002.xml"):
        assert (run / name).exists(), name
    pictures = {path.name for path in (run / "figures").iterdir()}
    of_two = {"map_class002.png", "fsc_class002.png", "particles_class002.png"}
    assert of_two | {"map.png", "progress.png", "progress_class001.png"} <= pictures
    assert not (run / "encoder.pt").exists()
    said = capsys.readouterr().out
    assert_says(said, "class sorting", "class 1 · auto-decoding", "class 2 · auto-decoding")
    assert_says(said, f"class 2: {sizes[1]} images", "class 2: half-maps with shared poses agree")
    message = refused(capsys, "evaluate", run, "--truth-star", run / "particles.star")
    assert_says(message, "expected a run of one class, found 2")


def halves(name: str) -> tuple[str, str]:
    return f"run_half1_{name}_unfil.mrc", f"run_half2_{name}_unfil.mrc"


@pytest.mark.usefixtures("no_image_is_read")
def test_more_classes_than_images_can_fill_are_refused(
    simulated: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    message = refused(
        capsys, "reconstruct", simulated / "particles.star", "--out", out, "--n-classes", 61
    )
    assert_says(message, "--n-classes 61", "6100 in all", "found 60", "use --n-classes 1")
    message = refused(capsys, "reconstruct", table, "--out", out, "--n-classes", 4)
    assert_says(message, "at least 100 images for each class", "found 300", "use --n-classes 3")
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--half-sets", "independent"), "--half-sets: expected shared beside --n-classes 2"),
        (("--start", "encoder"), "--start: expected posterior beside --n-classes 2"),
        (("--initial-map", "map.mrc"), "--initial-map: expected none beside --n-classes 2"),
        (("--initial-poses", "a.star"), "--initial-poses: expected none beside --n-classes 2"),
    ],
)
def test_options_that_say_nothing_for_classes_are_refused(
    options: tuple[str, str], expected: str, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = table.parent / "never"
    message = refused(capsys, "reconstruct", table, "--out", out, "--n-classes", 2, *options)
    assert_says(message, expected)
    assert not out.exists()
