"""RELION's own programs read what we write."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import starfile
import torch

from cryogimbal.data.density import DensityMap
from cryogimbal.io.mrc import read_density, write_density, write_image_stack
from cryogimbal.io.star import read_particles
from cryogimbal.io.star_write import write_particles, write_simulated_particles
from tests.io.tables import PIXEL_SIZE, image_names, write_new_table, write_stack
from tests.io.test_star_write import random_poses, simulated_stack

pytestmark = pytest.mark.relion
Relion = Callable[..., str]


def numbers_after(word: str, text: str) -> list[float]:
    return [float(n) for n in re.findall(rf"{word}\s*=\s*(-?[\d.eE+-]+)", text)]


def test_image_handler_reads_our_density(
    tmp_path: Path, box: int, generator: torch.Generator, relion: Relion
) -> None:
    values = torch.randn(box, box, box, generator=generator)
    write_density(tmp_path / "map.mrc", DensityMap(values=values, voxel_size_angstrom=3.5))
    told = relion("relion_image_handler", "--i", "map.mrc", "--stats")
    assert numbers_after("avg", told) == pytest.approx([values.mean().item()], abs=1e-4)
    assert numbers_after("stddev", told) == pytest.approx([values.std().item()], rel=1e-3)
    assert numbers_after("minval", told) == pytest.approx([values.min().item()], rel=1e-4)
    assert [n for n in (box, 3.5) if str(n) not in told] == []


def test_a_density_survives_relion_unchanged(
    tmp_path: Path, box: int, generator: torch.Generator, relion: Relion
) -> None:
    values = torch.randn(box, box, box, generator=generator)
    write_density(tmp_path / "map.mrc", DensityMap(values=values, voxel_size_angstrom=3.5))
    relion("relion_image_handler", "--i", "map.mrc", "--o", "double.mrc", "--multiply_constant", 2)
    again = read_density(tmp_path / "double.mrc")
    assert torch.equal(again.values, 2 * values)
    assert again.voxel_size_angstrom == pytest.approx(3.5, rel=1e-6)


def test_relion_reads_images_of_our_simulated_table(
    tmp_path: Path, box: int, generator: torch.Generator, relion: Relion
) -> None:
    stack = simulated_stack(6, box, generator, posed=True)
    images = stack.images.read(torch.arange(6))
    write_image_stack(tmp_path / "particles.mrcs", images.split(4), PIXEL_SIZE)
    write_simulated_particles(tmp_path / "particles.star", stack, tmp_path / "particles.mrcs")
    # --discard_on_stats reads every image; no sane image is twenty deviations away.
    relion(
        "relion_star_handler", "--i", "particles.star", "--o", "kept.star",
        "--discard_on_stats", "--discard_sigma", 20,
    )  # fmt: skip
    ours, theirs = (starfile.read(tmp_path / f"{n}.star") for n in ("particles", "kept"))
    assert theirs["particles"]["rlnImageName"].tolist() == image_names(6, "particles.mrcs")
    for name in ours["optics"].columns:
        assert ours["optics"][name].tolist() == theirs["optics"][name].tolist()
    for name in ours["particles"].columns.drop("rlnImageName"):
        expected = ours["particles"][name].to_numpy()
        assert theirs["particles"][name].to_numpy() == pytest.approx(expected, rel=1e-5, abs=2e-5)


def test_relion_reads_a_table_into_which_we_wrote_poses(
    tmp_path: Path, box: int, generator: torch.Generator, relion: Relion
) -> None:
    write_stack(tmp_path / "stack.mrcs", 3, box)
    write_new_table(
        tmp_path / "in.star",
        image_names(3),
        box,
        {"rlnMicrographName": ["001", "002", "003"], "wrpThing": ["a", "b", "c"]},
    )
    _, table = read_particles(tmp_path / "in.star")
    poses = random_poses(3, generator)
    write_particles(tmp_path / "out.star", table, poses)
    relion("relion_star_handler", "--i", "out.star", "--o", "relion.star")
    again, _ = read_particles(tmp_path / "relion.star")
    assert again.poses is not None
    torch.testing.assert_close(again.poses.rotation, poses.rotation, atol=1e-5, rtol=0)
    torch.testing.assert_close(again.poses.shift_angstrom, poses.shift_angstrom, atol=1e-4, rtol=0)
    particles = starfile.read(
        tmp_path / "relion.star", parse_as_string=["rlnMicrographName", "wrpThing"]
    )["particles"]
    assert particles["rlnMicrographName"].tolist() == ["001", "002", "003"]
    assert particles["wrpThing"].tolist() == ["a", "b", "c"]
    shown = relion("relion_star_printtable", "out.star", "data_particles", "rlnAngleRot")
    assert len([float(word) for word in shown.split()]) == 3
