"""Every refusal names the file, the row, what was expected, what was found and what to do."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryogimbal.errors import InputError
from cryogimbal.io.mrc import MrcStack, read_density
from cryogimbal.io.star import read_particles, read_poses
from tests.io.tables import (
    PIXEL_SIZE,
    image_names,
    write_new_table,
    write_old_table,
    write_stack,
)

BOX = 8


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


def refusal_of_table(path: Path) -> str:
    return refusal(lambda: read_particles(path))


def assert_says(message: str, *pieces: object) -> None:
    for piece in pieces:
        assert str(piece) in message, f"{piece!r} is missing in: {message}"


@pytest.fixture
def write_table(tmp_path: Path) -> Callable[..., Path]:
    """Write a table of the three images of stack.mrcs, with further columns or other names."""
    write_stack(tmp_path / "stack.mrcs", 3, BOX)

    def write(
        extra: Mapping[str, Sequence[str]] | None = None, names: Sequence[str] | None = None
    ) -> Path:
        path = tmp_path / "particles.star"
        write_new_table(path, names or image_names(3), BOX, extra)
        return path

    return write


def test_missing_stack_with_the_paths_tried(
    write_table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = write_table(names=["1@stack.mrcs", "2@Extract/gone.mrcs", "3@stack.mrcs"])
    message = refusal(lambda: read_particles(path, tmp_path / "root"))
    assert_says(message, path, "row 2", "000002@Extract/gone.mrcs", "--image-root")
    for base in (tmp_path / "here", tmp_path, tmp_path.parent, tmp_path / "root"):
        assert_says(message, base / "Extract/gone.mrcs")
    assert_says(message, tmp_path / "root/gone.mrcs")


def test_stack_shorter_than_the_table_says(write_table: Callable[..., Path]) -> None:
    path = write_table(names=["1@stack.mrcs", "3@stack.mrcs", "5@stack.mrcs", "4@stack.mrcs"])
    assert_says(
        refusal_of_table(path),
        path,
        "row 3",
        "000005@stack.mrcs",
        "expected at least 5 images",
        path.parent / "stack.mrcs",
        "found 3",
        "another extraction",
    )


def test_mixed_boxes(write_table: Callable[..., Path], tmp_path: Path) -> None:
    write_stack(tmp_path / "other.mrcs", 1, BOX + 1)
    path = write_table(names=["1@stack.mrcs", "2@stack.mrcs", "1@other.mrcs"])
    path.write_text(path.read_text().replace(f" {PIXEL_SIZE} {BOX}\n", f" {PIXEL_SIZE} 0\n"))
    assert_says(
        refusal_of_table(path),
        path,
        "row 3",
        "expected a box of 8 pixels as in row 1",
        tmp_path / "other.mrcs",
        "found 9",
        "optics group of their own",
    )


def two_groups(path: Path, second: str) -> None:
    """Put the last particle into a second optics group."""
    first = f"opticsGroup1 1 300.0 2.7 0.1 {PIXEL_SIZE} {BOX}\n"
    text = path.read_text().replace(first, f"{first}{second}\n").rstrip()
    path.write_text(f"{text.removesuffix('1')}2\n")


def test_two_pixel_sizes_in_one_group(write_table: Callable[..., Path]) -> None:
    path = write_table({"rlnImagePixelSize": ["2.5", "2.5", "1.25"]})
    assert_says(
        refusal_of_table(path),
        path,
        "row 3",
        "expected a pixel size of 2.5 Å as in row 1",
        "'opticsGroup1'",
        "found 1.25",
        "optics group of their own",
    )


def test_two_declared_boxes(write_table: Callable[..., Path]) -> None:
    path = write_table()
    two_groups(path, f"krios 2 300 2.7 0.1 {PIXEL_SIZE} 6")
    assert_says(
        refusal_of_table(path),
        path,
        "row 3",
        "expected a box of 6 pixels as the table says of optics group 'krios'",
        "found 8",
        "another extraction",
    )


def test_box_other_than_declared(write_table: Callable[..., Path], tmp_path: Path) -> None:
    path = write_table()
    (tmp_path / "stack.mrcs").unlink()
    write_stack(tmp_path / "stack.mrcs", 3, 10)
    assert_says(
        refusal_of_table(path), path, "expected a box of 8", "found 10", tmp_path / "stack.mrcs"
    )


def test_optics_group_that_is_not_there(write_table: Callable[..., Path]) -> None:
    path = write_table()
    path.write_text(path.read_text().rstrip().removesuffix("1") + "4\n")
    assert_says(
        refusal_of_table(path), path, "row 3", "_rlnOpticsGroup is 4", "expected one of", "1;"
    )


def test_no_ctf_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.star"
    path.write_text("data_particles\nloop_\n_rlnImageName\n1@stack.mrcs\n")
    assert_says(
        refusal_of_table(path),
        path,
        "data_particles",
        "expected CTF columns",
        "found no _rlnDefocusU",
        "estimate the CTF",
    )


def test_no_pixel_size(tmp_path: Path) -> None:
    path = tmp_path / "t.star"
    path.write_text("data_\nloop_\n_rlnImageName\n_rlnDefocusU\n1@stack.mrcs 10000\n")
    assert_says(
        refusal_of_table(path), path, "expected a pixel size", "_rlnImagePixelSize", "add one"
    )


def test_no_particles(tmp_path: Path) -> None:
    path = tmp_path / "t.star"
    write_new_table(path, [], BOX)
    assert_says(
        refusal_of_table(path), path, "data_particles", "expected at least one", "found no rows"
    )


def test_no_particle_table(tmp_path: Path) -> None:
    path = tmp_path / "t.star"
    path.write_text("data_micrographs\nloop_\n_rlnMicrographName\na.mrc\n")
    assert_says(
        refusal_of_table(path),
        path,
        "_rlnImageName",
        "found only data_micrographs",
        "name the table",
    )


def test_missing_table(tmp_path: Path) -> None:
    path = tmp_path / "absent.star"
    assert_says(refusal_of_table(path), path, "no such file")


def test_table_cut_in_a_row(write_table: Callable[..., Path]) -> None:
    path = write_table()
    text = path.read_text().rstrip()
    path.write_text(text[: text.rindex(" ")])
    last_line = path.read_text().count("\n") + 1
    assert_says(
        refusal_of_table(path),
        path,
        f"line {last_line} (row 3 of data_particles)",
        "expected 5 values",
        "found 4",
        "cut short",
    )


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("rlnVoltage", "-1", "in kilovolts"),
        ("rlnVoltage", "300000", "in kilovolts"),
        ("rlnAmplitudeContrast", "7", "below 1"),
        ("rlnImagePixelSize", "0", "above 0"),
        ("rlnPhaseShift", "nan", "expected a finite number"),
        ("rlnPhaseShift", "none", "expected a finite number"),
    ],
)
def test_value_out_of_range(
    write_table: Callable[..., Path], column: str, value: str, expected: str
) -> None:
    good = {"rlnVoltage": "300", "rlnAmplitudeContrast": "0.1", "rlnImagePixelSize": "2.5"}
    path = write_table({column: [good.get(column, "0"), value, good.get(column, "0")]})
    assert_says(refusal_of_table(path), path, "row 2", value, expected, "correct")


@pytest.mark.parametrize("name", ["0@stack.mrcs", "x@stack.mrcs", "-1@stack.mrcs", "1@", "@stack"])
def test_image_name_without_a_number_from_one(write_table: Callable[..., Path], name: str) -> None:
    path = write_table(names=["1@stack.mrcs", name])
    assert_says(refusal_of_table(path), path, "row 2", f"'{name}'", "expected NUMBER@FILE")


TREATMENTS = ("rlnCtfDataAreCtfPremultiplied", "rlnCtfDataArePhaseFlipped")


@pytest.mark.parametrize("column", TREATMENTS)
def test_one_group_treated_in_two_ways(write_table: Callable[..., Path], column: str) -> None:
    assert read_particles(write_table({column: ["0", "0", "0"]}))[0].optics[0].treatment == "none"
    path = write_table({column: ["0", "1", "0"]})
    assert_says(
        refusal_of_table(path),
        path,
        "row 2",
        "as in row 1",
        "'opticsGroup1'",
        column,
        "of their own",
    )


def test_images_multiplied_and_flipped_at_once(write_table: Callable[..., Path]) -> None:
    path = write_table({name: ["1", "1", "1"] for name in TREATMENTS})
    assert_says(refusal_of_table(path), path, "row 1", "found both set", *TREATMENTS, "correct")


def test_poses_of_a_table_without_angles(write_table: Callable[..., Path]) -> None:
    path = write_table()
    message = refusal(lambda: read_poses(path))
    assert_says(message, path, "expected angles", "_rlnAngleRot", "name a table")


@pytest.mark.parametrize(
    ("value", "found"),
    [("nan", "NaN or infinity"), ("inf", "NaN or infinity"), ("0", "constant 0")],
)
def test_image_that_is_none(
    write_table: Callable[..., Path], tmp_path: Path, value: str, found: str
) -> None:
    with mrcfile.open(tmp_path / "stack.mrcs", mode="r+") as file:
        file.data[2] = float(value)
    path = write_table(names=["1@stack.mrcs", "3@stack.mrcs", "2@stack.mrcs"])
    images = read_particles(path)[0].images
    assert images.read(torch.tensor([2, 0])).isfinite().all()
    message = refusal(lambda: images.read(torch.tensor([2, 1, 0])))
    assert_says(
        message,
        path,
        "row 2",
        "000003@stack.mrcs",
        tmp_path / "stack.mrcs",
        "expected an image with finite, varying values",
        f"found {'the ' if 'constant' in found else ''}{found}",
        "remove its row",
    )


def test_one_bad_pixel_is_enough(write_table: Callable[..., Path], tmp_path: Path) -> None:
    with mrcfile.open(tmp_path / "stack.mrcs", mode="r+") as file:
        file.data[0, 3, 4] = np.nan
    images = read_particles(write_table())[0].images
    assert_says(refusal(lambda: images.read(torch.arange(3))), "row 1", "NaN or infinity")


def density_file(path: Path, shape: tuple[int, ...] = (BOX, BOX, BOX)) -> Path:
    values = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    with mrcfile.new(path) as file:
        file.set_data(values)
        file.set_volume()
        file.voxel_size = 2.0
    return path


READERS = (read_density, MrcStack)


@pytest.mark.parametrize("read", READERS)
def test_truncated_file(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = density_file(tmp_path / "x.mrc")
    whole = 1024 + 4 * BOX**3
    path.write_bytes(path.read_bytes()[:-4])
    message = refusal(lambda: read(path))
    assert_says(
        message, path, "cut short", f"expected {whole}", f"found {whole - 4}", "copy it again"
    )
    path.write_bytes(path.read_bytes()[:500])
    assert_says(refusal(lambda: read(path)), path, "expected a header of 1024", "found 500")


@pytest.mark.parametrize("read", READERS)
def test_file_that_is_no_mrc(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "x.mrc"
    path.write_bytes(b"II*\0 this is a TIFF image " * 100)
    assert_says(refusal(lambda: read(path)), path, "not an MRC file", "expected an MRC2014 file")
    path.write_bytes(b"\x1f\x8b" + bytes(2000))
    assert_says(refusal(lambda: read(path)), path, "compressed", "gunzip")
    path.unlink()
    assert_says(refusal(lambda: read(path)), path, "no such file")


@pytest.mark.parametrize("read", READERS)
def test_mode_without_real_numbers(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "x.mrc"
    mrcfile.write(path, np.ones((BOX, BOX, BOX), dtype=np.complex64))
    assert_says(refusal(lambda: read(path)), path, "its mode is 4", "expected", "(float32)")


def test_header_that_promises_petabytes(tmp_path: Path) -> None:
    path = density_file(tmp_path / "x.mrc")
    raw = bytearray(path.read_bytes())
    raw[:12] = np.array([2**31 - 1] * 3, dtype="<i4").tobytes()
    path.write_bytes(raw)
    assert_says(refusal(lambda: read_density(path)), path, "cut short")


def test_density_that_is_a_stack(tmp_path: Path) -> None:
    write_stack(tmp_path / "cube.mrc", BOX, BOX)
    message = refusal(lambda: read_density(tmp_path / "cube.mrc"))
    assert_says(
        message, "cube.mrc", "expected a density", "found a stack of 8 images", "name a map"
    )


def test_density_that_is_no_cube(tmp_path: Path) -> None:
    path = density_file(tmp_path / "x.mrc", (BOX, BOX, BOX + 2))
    message = refusal(lambda: read_density(path))
    assert_says(message, path, "expected a cube", "found 10 x 8 x 8", "crop or pad")


def test_density_with_nan(tmp_path: Path) -> None:
    path = density_file(tmp_path / "x.mrc")
    with mrcfile.open(path, mode="r+") as file:
        file.data[1, 2, 3] = np.nan
        file.data[4, 5, 6] = np.inf
    message = refusal(lambda: read_density(path))
    assert_says(message, path, "expected finite", "found 2", "(z, y, x) = (1, 2, 3)")


def test_density_without_voxel_size(tmp_path: Path) -> None:
    path = density_file(tmp_path / "x.mrc")
    with mrcfile.open(path, mode="r+") as file:
        file.voxel_size = 0
    assert_says(
        refusal(lambda: read_density(path)), path, "no voxel size", "found 0 x 0 x 0", "state"
    )
    assert read_density(path, 3.0).voxel_size_angstrom == 3.0


def test_density_with_oblong_voxels(tmp_path: Path) -> None:
    path = density_file(tmp_path / "x.mrc")
    with mrcfile.open(path, mode="r+") as file:
        file.voxel_size = (2.0, 2.0, 2.5)
    message = refusal(lambda: read_density(path))
    assert_says(message, path, "expected cubic voxels", "found 2 x 2 x 2.5", "resample")


def test_images_that_are_not_square(tmp_path: Path) -> None:
    path = density_file(tmp_path / "x.mrcs", (2, BOX, BOX + 1))
    message = refusal(lambda: MrcStack(path))
    assert_says(message, path, "expected square images", "found 9 x 8", "extract")


def test_a_volume_in_place_of_an_image(tmp_path: Path) -> None:
    # Subtomograms have names without a number.
    density_file(tmp_path / "subtomogram.mrc")
    path = tmp_path / "t.star"
    write_old_table(path, ["subtomogram.mrc"])
    assert_says(
        refusal_of_table(path), path, "row 1", "subtomogram.mrc", "expected one image", "found 8"
    )
