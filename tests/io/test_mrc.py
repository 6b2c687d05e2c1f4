import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.io.atomic import DiskFullError
from cryogimbal.io.mrc import MrcStack, read_density, write_density, write_image_stack
from tests.io.test_atomic import fill_disk_at

VOXEL = 3.54


def random_density(box: int, generator: torch.Generator) -> DensityMap:
    values = torch.randn(box, box, box, generator=generator)
    return DensityMap(values=values, voxel_size_angstrom=VOXEL)


def test_density_round_trip_is_exact(tmp_path: Path, box: int, generator: torch.Generator) -> None:
    density = random_density(box, generator)
    write_density(tmp_path / "map.mrc", density)
    again = read_density(tmp_path / "map.mrc")
    assert torch.equal(again.values, density.values)
    assert again.voxel_size_angstrom == pytest.approx(VOXEL, rel=1e-6)


def test_mrcfile_reads_our_density_with_the_header_that_overlays(
    tmp_path: Path, box: int, generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    density = random_density(box, generator)
    path = tmp_path / "map.mrc"
    write_density(path, density)
    assert mrcfile.validate(path), capsys.readouterr().out
    with mrcfile.open(path) as file:
        header = file.header
        assert np.array_equal(file.data, density.values.numpy())
        assert file.is_volume() and header.mode == 2 and header.nversion == 20140
        assert (header.nx, header.ny, header.nz) == (header.mx, header.my, header.mz) == (box,) * 3
        assert (header.mapc, header.mapr, header.maps) == (1, 2, 3)
        assert header.origin.item() == (0, 0, 0)
        assert (header.nxstart, header.nystart, header.nzstart) == (0, 0, 0)
        assert header.cella.x == pytest.approx(box * VOXEL, rel=1e-6)
        assert header.dmean == pytest.approx(density.values.mean().item(), abs=1e-6)
        assert header.rms == pytest.approx(density.values.std(correction=0).item(), rel=1e-5)
        assert bytes(header.machst)[:2] == b"\x44\x44"


def test_equal_densities_make_equal_files(tmp_path: Path, generator: torch.Generator) -> None:
    density = random_density(9, generator)
    write_density(tmp_path / "a.mrc", density)
    write_density(tmp_path / "b.mrc", density)
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes()


@pytest.mark.parametrize(
    ("dtype", "order"),
    # One byte has no order, so that mrcfile writes int8 in the machine's.
    [(np.int8, "<")]
    + [(d, o) for d in (np.int16, np.float32, np.uint16, np.float16) for o in "<>"],
)
def test_modes_and_byte_orders_are_read_as_mrcfile_wrote_them(
    tmp_path: Path, box: int, dtype: type, order: str
) -> None:
    values = np.random.default_rng(1).integers(0, 120, size=(box, box, box))
    if np.issubdtype(dtype, np.signedinteger):
        values = values - 60
    values = values.astype(np.dtype(dtype).newbyteorder(order))
    path = tmp_path / "map.mrc"
    with mrcfile.new(path) as file:
        file.set_data(values)
        file.voxel_size = VOXEL
        assert file.header.dtype["mode"].byteorder in ("=<" if order == "<" else ">")
    density = read_density(path)
    assert np.array_equal(density.values.numpy(), values.astype(np.float32))
    assert density.voxel_size_angstrom == pytest.approx(VOXEL, rel=1e-5)


def test_extended_header_is_skipped(tmp_path: Path, box: int) -> None:
    values = np.random.default_rng(1).normal(size=(box, box, box)).astype(np.float32)
    path = tmp_path / "map.mrc"
    with mrcfile.new(path) as file:
        file.set_data(values)
        file.voxel_size = VOXEL
        file.set_extended_header(np.frombuffer(bytes(range(160)), dtype="V1"))
    assert np.array_equal(read_density(path).values.numpy(), values)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (2, 3, 1), (3, 1, 2)])
def test_axis_order_of_the_file_is_undone(
    tmp_path: Path, box: int, order: tuple[int, int, int]
) -> None:
    # values[z, y, x] counts its place; the file stores axis `order` along columns, rows, sections.
    values = np.arange(box**3, dtype=np.float32).reshape(box, box, box)
    axis_of = {1: 2, 2: 1, 3: 0}
    stored = np.ascontiguousarray(values.transpose([axis_of[a] for a in reversed(order)]))
    path = tmp_path / "map.mrc"
    with mrcfile.new(path) as file:
        file.set_data(stored)
        file.voxel_size = VOXEL
        file.header.mapc, file.header.mapr, file.header.maps = order
    assert np.array_equal(read_density(path).values.numpy(), values)


def test_given_voxel_size_replaces_the_headers(tmp_path: Path, generator: torch.Generator) -> None:
    write_density(tmp_path / "map.mrc", random_density(9, generator))
    assert read_density(tmp_path / "map.mrc", 5.0).voxel_size_angstrom == 5.0


def test_a_header_without_stamp_and_identifier_is_taken_if_its_size_fits(
    tmp_path: Path, generator: torch.Generator
) -> None:
    # As cryoDRGN once wrote them.
    density = random_density(9, generator)
    path = tmp_path / "map.mrc"
    write_density(path, density)
    raw = bytearray(path.read_bytes())
    raw[208:216] = bytes(8)
    path.write_bytes(raw)
    assert torch.equal(read_density(path).values, density.values)
    path.write_bytes(raw + b"more")
    with pytest.raises(InputError, match="not an MRC file"):
        read_density(path)


def test_stack_is_written_in_chunks_and_read_one_by_one(
    tmp_path: Path, box: int, generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    images = torch.randn(7, box, box, generator=generator)
    path = tmp_path / "stack.mrcs"
    assert write_image_stack(path, iter(images.split(3)), VOXEL) == 7
    assert mrcfile.validate(path), capsys.readouterr().out
    with mrcfile.open(path) as file:
        assert file.is_image_stack()
        assert np.array_equal(file.data, images.numpy())
        assert file.header.rms == pytest.approx(images.std(correction=0).item(), rel=1e-5)
        assert file.header.dmin == images.min().item()
    stack = MrcStack(path)
    assert (stack.n_images, stack.box) == (7, box)
    assert stack.pixel_size_angstrom == pytest.approx(VOXEL, rel=1e-6)
    for section in (6, 0, 3):
        assert np.array_equal(stack.read(section), images[section].numpy())
    stack.close()
    assert not stack.is_open


def test_stack_with_rows_along_x_is_turned(tmp_path: Path, box: int) -> None:
    images = np.random.default_rng(2).normal(size=(3, box, box)).astype(np.float32)
    path = tmp_path / "stack.mrcs"
    with mrcfile.new(path) as file:
        file.set_data(np.ascontiguousarray(images.transpose(0, 2, 1)))
        file.set_image_stack()
        file.header.mapc, file.header.mapr = 2, 1
    assert np.array_equal(MrcStack(path).read(1), images[1])


def test_one_image_is_a_stack_of_one(tmp_path: Path, box: int) -> None:
    image = np.random.default_rng(2).normal(size=(box, box)).astype(np.float32)
    mrcfile.write(tmp_path / "one.mrc", image)
    stack = MrcStack(tmp_path / "one.mrc")
    assert stack.n_images == 1
    assert np.array_equal(stack.read(0), image)


def test_a_stack_that_shrinks_or_vanishes_during_a_run_is_named(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    write_image_stack(path, [torch.randn(4, 8, 8)], VOXEL)
    stack = MrcStack(path)
    os.truncate(path, 1024 + 3 * 256)
    stack.read(2)
    with pytest.raises(InputError, match=r"stack\.mrcs.*shorter.*image 4, found 0"):
        stack.read(3)
    stack.close()
    path.unlink()
    with pytest.raises(InputError, match=r"stack\.mrcs: the file was removed.*put it back"):
        stack.read(0)


def test_full_disk_leaves_no_half_stack(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    fill_disk_at(path)
    with pytest.raises(DiskFullError, match=r"stack\.mrcs: no space left"):
        write_image_stack(path, [torch.randn(4, 64, 64)], VOXEL)
    assert list(tmp_path.iterdir()) == []


def test_images_of_two_boxes_are_not_written(tmp_path: Path) -> None:
    chunks = [torch.randn(2, 8, 8), torch.randn(2, 9, 9)]
    with pytest.raises(InputError, match=r"expected images of 8 x 8 .* found 9 x 9 at image 3"):
        write_image_stack(tmp_path / "stack.mrcs", chunks, VOXEL)
    assert list(tmp_path.iterdir()) == []
