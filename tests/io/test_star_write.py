"""Tables that are written: everything kept, poses that do not contradict, images still found."""

from pathlib import Path

import mrcfile
import pytest
import starfile
import torch

from cryogimbal.data.optics import CtfParameters, OpticsGroup
from cryogimbal.data.particles import ArrayImages, ParticleStack
from cryogimbal.data.poses import PoseSet
from cryogimbal.io.mrc import write_image_stack
from cryogimbal.io.star import read_particles, read_poses
from cryogimbal.io.star_table import image_names as read_image_names
from cryogimbal.io.star_table import read_table
from cryogimbal.io.star_write import write_particles, write_simulated_particles
from cryogimbal.rotations import random_rotations
from tests.io.tables import (
    PIXEL_SIZE,
    image_names,
    write_new_table,
    write_old_table,
    write_stack,
)

OLD_POSES = {
    "rlnAngleRot": ["1", "2"],
    "rlnAngleTilt": ["3", "4"],
    "rlnAnglePsi": ["5", "6"],
}
PIXEL_ORIGINS = {"rlnOriginX": ["7", "8"], "rlnOriginY": ["9", "10"]}
ANGSTROM_ORIGINS = {"rlnOriginXAngst": ["7", "8"], "rlnOriginYAngst": ["9", "10"]}


def random_poses(n: int, generator: torch.Generator, shift_angstrom: float = 4.0) -> PoseSet:
    shift = shift_angstrom * torch.randn(n, 2, generator=generator)
    return PoseSet(rotation=random_rotations(n, generator), shift_angstrom=shift)


def assert_same_poses(found: PoseSet, expected: PoseSet) -> None:
    torch.testing.assert_close(found.rotation, expected.rotation, atol=2e-6, rtol=0)
    torch.testing.assert_close(found.shift_angstrom, expected.shift_angstrom, atol=3e-6, rtol=0)


@pytest.mark.parametrize("columns", [{}, OLD_POSES, OLD_POSES | PIXEL_ORIGINS, ANGSTROM_ORIGINS])
@pytest.mark.parametrize("version", ["3.0", "3.1"])
def test_poses_round_trip_through_every_kind_of_table(
    tmp_path: Path,
    box: int,
    generator: torch.Generator,
    version: str,
    columns: dict[str, list[str]],
) -> None:
    write_stack(tmp_path / "stack.mrcs", 2, box)
    path = tmp_path / "in.star"
    if version == "3.0":
        write_old_table(path, image_names(2), columns)
    else:
        write_new_table(path, image_names(2), box, columns)
    _, table = read_particles(path)
    poses = random_poses(2, generator)
    write_particles(tmp_path / "out.star", table, poses)
    stack, _ = read_particles(tmp_path / "out.star")
    assert stack.poses is not None
    assert_same_poses(stack.poses, poses)
    assert_same_poses(read_poses(tmp_path / "out.star"), poses)


def test_origins_in_both_units_agree_after_writing(
    tmp_path: Path, box: int, generator: torch.Generator
) -> None:
    write_stack(tmp_path / "stack.mrcs", 2, box)
    write_new_table(tmp_path / "in.star", image_names(2), box, PIXEL_ORIGINS | ANGSTROM_ORIGINS)
    _, table = read_particles(tmp_path / "in.star")
    poses = random_poses(2, generator)
    write_particles(tmp_path / "out.star", table, poses)
    written = starfile.read(tmp_path / "out.star")["particles"]
    for row in range(2):
        for axis, name in enumerate(("rlnOriginX", "rlnOriginY")):
            origin = -poses.shift_angstrom[row, axis].item()
            assert written[f"{name}Angst"][row] == pytest.approx(origin, abs=2e-6)
            assert written[name][row] == pytest.approx(origin / PIXEL_SIZE, abs=2e-6)


@pytest.mark.parametrize(("version", "added"), [("3.0", "rlnOriginX"), ("3.1", "rlnOriginXAngst")])
def test_origins_are_added_only_where_there_are_shifts(
    tmp_path: Path, box: int, generator: torch.Generator, version: str, added: str
) -> None:
    write_stack(tmp_path / "stack.mrcs", 2, box)
    path = tmp_path / "in.star"
    if version == "3.0":
        write_old_table(path, image_names(2))
    else:
        write_new_table(path, image_names(2), box)
    _, table = read_particles(path)
    write_particles(tmp_path / "centred.star", table, random_poses(2, generator, 0.0))
    assert "rlnOrigin" not in (tmp_path / "centred.star").read_text()
    write_particles(tmp_path / "shifted.star", table, random_poses(2, generator))
    columns = read_table(tmp_path / "shifted.star").particles.columns
    assert [c for c in columns if c.startswith("rlnOriginX")] == [added]


def test_old_origins_do_not_stay_beside_poses_without_shift(
    tmp_path: Path, box: int, generator: torch.Generator
) -> None:
    write_stack(tmp_path / "stack.mrcs", 2, box)
    write_new_table(tmp_path / "in.star", image_names(2), box, ANGSTROM_ORIGINS)
    _, table = read_particles(tmp_path / "in.star")
    write_particles(tmp_path / "out.star", table, random_poses(2, generator, 0.0))
    assert not read_poses(tmp_path / "out.star").shift_angstrom.any()


def test_everything_but_the_poses_stays_to_the_letter(
    tmp_path: Path, box: int, generator: torch.Generator
) -> None:
    write_stack(tmp_path / "stack.mrcs", 2, box)
    path = tmp_path / "in.star"
    write_new_table(path, image_names(2), box, {"rlnMicrographName": ["001", "1e5"]} | OLD_POSES)
    remark = "\n# a remark\n\ndata_unknown\n\n_wrpThing  003.10  # kept\n"
    path.write_text(path.read_text() + remark)
    _, table = read_particles(path)
    poses = random_poses(2, generator, 0.0)
    write_particles(tmp_path / "out.star", table, poses)
    before, after = (p.read_text().split("\n") for p in (path, tmp_path / "out.star"))
    changed = [n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert [before[n].split()[0] for n in changed] == image_names(2)
    for n in changed:
        old, new = before[n].split(), after[n].split()
        place = old.index("001") if "001" in old else old.index("1e5")
        assert old[: place + 1] == new[: place + 1]
        assert old[place + 4 :] == new[place + 4 :]


def test_the_input_may_be_written_over(
    tmp_path: Path, box: int, generator: torch.Generator
) -> None:
    write_stack(tmp_path / "stack.mrcs", 2, box)
    path = tmp_path / "t.star"
    write_new_table(path, image_names(2), box)
    poses = random_poses(2, generator)
    write_particles(path, read_particles(path)[1], poses)
    assert_same_poses(read_poses(path), poses)


def test_a_path_that_is_found_again_stays(
    tmp_path: Path, box: int, generator: torch.Generator
) -> None:
    project = tmp_path / "project"
    (project / "Extract").mkdir(parents=True)
    (project / "runs/one").mkdir(parents=True)
    write_stack(project / "Extract/stack.mrcs", 2, box)
    names = image_names(2, "Extract/stack.mrcs")
    write_new_table(project / "in.star", names, box)
    _, table = read_particles(project / "in.star")
    out = project / "runs/one/particles.star"
    write_particles(out, table, random_poses(2, generator))
    assert [read_image_names(read_table(out)).name(row) for row in range(2)] == names
    assert read_particles(out)[1].image_files == table.image_files


@pytest.mark.parametrize("trap", ["nothing there", "another file of that name"])
def test_a_path_that_would_be_lost_becomes_absolute(
    tmp_path: Path, box: int, generator: torch.Generator, trap: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    images = write_stack(tmp_path / "in/my stack.mrcs", 2, box)
    if trap == "another file of that name":
        write_stack(tmp_path / "out/my stack.mrcs", 2, box, seed=9)
    write_new_table(
        tmp_path / "in/t.star", [f'"{n}"' for n in image_names(2, "my stack.mrcs")], box
    )
    _, table = read_particles(tmp_path / "in/t.star")
    write_particles(tmp_path / "out/t.star", table, random_poses(2, generator))
    stack, again = read_particles(tmp_path / "out/t.star")
    assert again.image_files == (tmp_path / "in/my stack.mrcs",)
    assert torch.equal(stack.images.read(torch.arange(2)), torch.from_numpy(images))
    assert read_image_names(again).written == (str(tmp_path / "in/my stack.mrcs"),)


def test_poses_must_be_one_a_row(tmp_path: Path, box: int, generator: torch.Generator) -> None:
    write_stack(tmp_path / "stack.mrcs", 2, box)
    write_new_table(tmp_path / "t.star", image_names(2), box)
    _, table = read_particles(tmp_path / "t.star")
    with pytest.raises(ValueError, match="3 poses for the 2 rows"):
        write_particles(tmp_path / "out.star", table, random_poses(3, generator))


def simulated_stack(n: int, box: int, generator: torch.Generator, *, posed: bool) -> ParticleStack:
    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    index = torch.randint(0, 2, (n,), generator=generator)
    index[:2] = torch.arange(2)
    kilovolt, contrast = torch.tensor([300.0, 200.0]), torch.tensor([0.1, 0.07])
    return ParticleStack(
        images=ArrayImages(values=torch.randn(n, box, box, generator=generator)),
        ctf=CtfParameters(
            defocus_u_angstrom=uniform(1e4, 2e4),
            defocus_v_angstrom=uniform(1e4, 2e4),
            defocus_angle_rad=uniform(-3, 3),
            phase_shift_rad=uniform(0, 3),
            voltage_kilovolt=kilovolt[index],
            spherical_aberration_mm=torch.full((n,), 2.7),
            amplitude_contrast=contrast[index],
            bfactor_angstrom2=uniform(0, 50),
            scale=uniform(0.5, 1),
        ),
        optics=tuple(
            OpticsGroup(
                name=f"opticsGroup{g + 1}",
                voltage_kilovolt=kilovolt[g].item(),
                spherical_aberration_mm=2.7,
                amplitude_contrast=contrast[g].item(),
                pixel_size_angstrom=PIXEL_SIZE,
                box=box,
            )
            for g in range(2)
        ),
        optics_index=index,
        poses=random_poses(n, generator) if posed else None,
    )


@pytest.mark.parametrize("posed", [True, False])
def test_a_simulated_table_reads_back_as_it_was(
    tmp_path: Path, box: int, generator: torch.Generator, posed: bool
) -> None:
    stack = simulated_stack(9, box, generator, posed=posed)
    images = stack.images.read(torch.arange(9))
    write_image_stack(tmp_path / "particles.mrcs", [images], PIXEL_SIZE)
    path = tmp_path / "particles.star"
    write_simulated_particles(path, stack, tmp_path / "particles.mrcs")
    again, table = read_particles(path)
    assert table.warnings == ()
    assert torch.equal(again.images.read(torch.arange(9)), images)
    assert torch.equal(again.optics_index, stack.optics_index)
    for found, expected in zip(again.optics, stack.optics, strict=True):
        assert found.name == expected.name
        assert found.treatment == expected.treatment
        words = {"name": 0, "treatment": 0}
        assert vars(found) | words == pytest.approx(vars(expected) | words, rel=1e-6)
    for name in vars(stack.ctf):
        found, expected = getattr(again.ctf, name), getattr(stack.ctf, name)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    if stack.poses is None:
        assert again.poses is None and again.given_shift_angstrom is None
    else:
        assert again.poses is not None
        assert_same_poses(again.poses, stack.poses)


def test_a_simulated_table_is_read_by_the_starfile_package(
    tmp_path: Path, box: int, generator: torch.Generator
) -> None:
    stack = simulated_stack(5, box, generator, posed=True)
    write_image_stack(tmp_path / "s.mrcs", [stack.images.read(torch.arange(5))], PIXEL_SIZE)
    write_simulated_particles(tmp_path / "t.star", stack, tmp_path / "s.mrcs")
    tables = starfile.read(tmp_path / "t.star")
    assert tables["optics"]["rlnImageSize"].tolist() == [box, box]
    particles = tables["particles"]
    assert particles["rlnImageName"].tolist() == image_names(5, "s.mrcs")
    assert particles["rlnDefocusU"].to_numpy() == pytest.approx(
        stack.ctf.defocus_u_angstrom.numpy(), rel=1e-6
    )
    with mrcfile.open(tmp_path / "s.mrcs") as file:
        assert file.data.shape == (5, box, box)
