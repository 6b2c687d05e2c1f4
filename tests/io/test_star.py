"""What a particle table means: units, signs, precedence, defaults."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cryogimbal.io.star import read_particles, read_poses
from tests.io.tables import (
    PIXEL_SIZE,
    image_names,
    write_new_table,
    write_old_table,
    write_stack,
)

# Worked example 1 of the conventions: rot, tilt, psi = 30, 60, 45.
EXAMPLE_ROTATION = [
    [-0.047367, 0.789149, -0.612372],
    [-0.659740, 0.435596, 0.612372],
    [0.750000, 0.433013, 0.500000],
]
EXAMPLE_ANGLES = {"rlnAngleRot": ["30"], "rlnAngleTilt": ["60"], "rlnAnglePsi": ["45"]}


def test_images_come_in_the_order_of_the_table(tmp_path: Path, box: int) -> None:
    images = write_stack(tmp_path / "stack.mrcs", 4, box)
    other = write_stack(tmp_path / "other.mrcs", 2, box, seed=1)
    names = ["3@stack.mrcs", "000002@other.mrcs", "1@stack.mrcs", "4@stack.mrcs"]
    write_new_table(tmp_path / "t.star", names, box)
    stack, _ = read_particles(tmp_path / "t.star")
    expected = torch.from_numpy(np.stack([images[2], other[1], images[0], images[3]]))
    assert len(stack) == stack.images.n_images == 4
    assert stack.box == box
    assert torch.equal(stack.images.read(torch.arange(4)), expected)
    assert torch.equal(stack.images.read(torch.tensor([3, 1, 1])), expected[[3, 1, 1]])
    chosen = torch.tensor([2, 1])
    assert torch.equal(stack[chosen].images.read(torch.arange(2)), expected[[2, 1]])


def test_optics_and_ctf_are_in_the_units_of_the_code(tmp_path: Path, box: int) -> None:
    write_stack(tmp_path / "stack.mrcs", 2, box)
    write_new_table(tmp_path / "t.star", image_names(2), box, {"rlnPhaseShift": ["90", "0"]})
    stack, table = read_particles(tmp_path / "t.star")
    (group,) = stack.optics
    assert group.name == "opticsGroup1"
    assert group.pixel_size_angstrom == stack.pixel_size_angstrom == PIXEL_SIZE
    assert group.box == box
    ctf = stack.ctf
    values = {
        "defocus_u_angstrom": [15000.0, 15000.0],
        "defocus_v_angstrom": [14000.0, 14000.0],
        "defocus_angle_rad": [math.radians(30.0)] * 2,
        "phase_shift_rad": [math.pi / 2, 0.0],
        "voltage_kilovolt": [300.0, 300.0],
        "spherical_aberration_mm": [2.7, 2.7],
        "amplitude_contrast": [0.1, 0.1],
        "bfactor_angstrom2": [0.0, 0.0],
        "scale": [1.0, 1.0],
    }
    for name, expected in values.items():
        torch.testing.assert_close(getattr(ctf, name), torch.tensor(expected))
    assert stack.poses is None
    assert stack.given_shift_angstrom is None
    assert table.warnings == ()


def test_a_table_of_relion_30_says_the_same(tmp_path: Path, box: int) -> None:
    write_stack(tmp_path / "stack.mrcs", 2, box)
    write_new_table(tmp_path / "new.star", image_names(2), box)
    write_old_table(tmp_path / "old.star", image_names(2))
    new, _ = read_particles(tmp_path / "new.star")
    old, _ = read_particles(tmp_path / "old.star")
    assert old.optics[0].pixel_size_angstrom == pytest.approx(PIXEL_SIZE)
    assert old.optics[0].box == box
    for name in vars(new.ctf):
        assert torch.equal(getattr(old.ctf, name), getattr(new.ctf, name)), name


def test_angles_and_origins_become_rotation_and_displacement(tmp_path: Path, box: int) -> None:
    write_stack(tmp_path / "stack.mrcs", 1, box)
    origins = {"rlnOriginXAngst": ["3.5"], "rlnOriginYAngst": ["-1.25"]}
    write_new_table(tmp_path / "t.star", image_names(1), box, {**EXAMPLE_ANGLES, **origins})
    stack, _ = read_particles(tmp_path / "t.star")
    assert stack.poses is not None and stack.given_shift_angstrom is not None
    expected = torch.tensor([EXAMPLE_ROTATION])
    torch.testing.assert_close(stack.poses.rotation, expected, atol=1e-6, rtol=0)
    assert stack.poses.shift_angstrom.tolist() == [[-3.5, 1.25]]
    assert stack.given_shift_angstrom.tolist() == [[-3.5, 1.25]]


def test_origins_in_pixels_are_scaled_and_yield_to_those_in_angstrom(
    tmp_path: Path, box: int
) -> None:
    write_stack(tmp_path / "stack.mrcs", 1, box)
    pixels = {"rlnOriginX": ["2"], "rlnOriginY": ["-1"]}
    write_old_table(tmp_path / "old.star", image_names(1), pixels)
    stack, _ = read_particles(tmp_path / "old.star")
    assert stack.poses is None, "shifts alone are no poses"
    assert stack.given_shift_angstrom is not None
    assert stack.given_shift_angstrom.tolist() == [[-2 * PIXEL_SIZE, PIXEL_SIZE]]
    both = {**pixels, "rlnOriginXAngst": ["7"], "rlnOriginYAngst": ["8"]}
    write_new_table(tmp_path / "both.star", image_names(1), box, both)
    stack, _ = read_particles(tmp_path / "both.star")
    assert stack.given_shift_angstrom is not None
    assert stack.given_shift_angstrom.tolist() == [[-7.0, -8.0]]


def test_poses_are_read_without_images(tmp_path: Path) -> None:
    write_old_table(
        tmp_path / "truth.star",
        image_names(1, "absent.mrcs"),
        {**EXAMPLE_ANGLES, "rlnOriginX": ["2"], "rlnOriginY": ["-1"]},
    )
    poses = read_poses(tmp_path / "truth.star")
    torch.testing.assert_close(poses.rotation, torch.tensor([EXAMPLE_ROTATION]), atol=1e-6, rtol=0)
    assert poses.shift_angstrom.tolist() == [[-2 * PIXEL_SIZE, PIXEL_SIZE]]


def test_one_angle_is_no_pose(tmp_path: Path, box: int) -> None:
    write_stack(tmp_path / "stack.mrcs", 1, box)
    write_new_table(tmp_path / "t.star", image_names(1), box, {"rlnAnglePsi": ["-999"]})
    assert read_particles(tmp_path / "t.star")[0].poses is None


def test_a_particles_own_value_comes_before_its_groups(tmp_path: Path, box: int) -> None:
    write_stack(tmp_path / "stack.mrcs", 2, box)
    own = {"rlnVoltage": ["200", "300"], "rlnAmplitudeContrast": ["0.07", "0.1"]}
    write_new_table(tmp_path / "t.star", image_names(2), box, own)
    stack, _ = read_particles(tmp_path / "t.star")
    assert stack.ctf.voltage_kilovolt.tolist() == [200.0, 300.0]
    torch.testing.assert_close(stack.ctf.amplitude_contrast, torch.tensor([0.07, 0.1]))
    assert stack.ctf.spherical_aberration_mm.tolist() == pytest.approx([2.7, 2.7])


def test_groups_that_no_particle_uses_do_not_count(tmp_path: Path, box: int) -> None:
    write_stack(tmp_path / "stack.mrcs", 2, box)
    path = tmp_path / "t.star"
    write_new_table(path, image_names(2), box)
    group = f"opticsGroup1 1 300.0 2.7 0.1 {PIXEL_SIZE} {box}\n"
    more = f"far 7 200 1.4 0.1 9.9 {box}\nlow 3 200 1.4 0.1 {PIXEL_SIZE} {box}\n"
    text = path.read_text().replace(group, more + group)
    head, _, last = text.rstrip().rpartition(" ")
    assert last == "1"
    path.write_text(f"{head} 3\n")
    stack, _ = read_particles(path)
    assert [group.name for group in stack.optics] == ["low", "opticsGroup1"]
    assert stack.optics_index.tolist() == [1, 0]
    assert stack.ctf.voltage_kilovolt.tolist() == [300.0, 200.0]


def test_relions_defaults_are_used_and_told(tmp_path: Path, box: int) -> None:
    write_stack(tmp_path / "stack.mrcs", 2, box)
    path = tmp_path / "t.star"
    columns = "_rlnImageName\n_rlnDefocusU\n_rlnImagePixelSize\n"
    path.write_text(f"data_\nloop_\n{columns}1@stack.mrcs 15000 2\n2@stack.mrcs 16000 2\n")
    stack, table = read_particles(path)
    ctf = stack.ctf
    assert ctf.voltage_kilovolt.tolist() == [200.0, 200.0]
    assert ctf.defocus_v_angstrom.tolist() == [15000.0, 16000.0]
    for values in (ctf.spherical_aberration_mm, ctf.amplitude_contrast, ctf.defocus_angle_rad):
        assert not values.any()
    assert ctf.scale.tolist() == [1.0, 1.0]
    told = " ".join(table.warnings)
    for name in ("Voltage", "SphericalAberration", "AmplitudeContrast", "DefocusV", "DefocusAngle"):
        assert f"_rln{name}" in told


def test_aberrations_are_read(tmp_path: Path, box: int) -> None:
    write_stack(tmp_path / "stack.mrcs", 2, box)
    zero = {
        "rlnBeamTiltX": ["0", "0.0"],
        "rlnMagMat00": ["1", "1.0"],
        "rlnMagMat01": ["0", "0"],
        "rlnOddZernike": ["[0,0,0]", "[0,0.0,0]"],
    }
    write_new_table(tmp_path / "none.star", image_names(2), box, zero)
    assert read_particles(tmp_path / "none.star")[1].aberrations == ()
    some = zero | {
        "rlnBeamTiltX": ["0", "-0.5"],
        "rlnMagMat00": ["1", "1.25"],
        "rlnOddZernike": ["[0,0,0]", "[0,3,-7]"],
    }
    write_new_table(tmp_path / "some.star", image_names(2), box, some)
    tilt, odd, magnification = read_particles(tmp_path / "some.star")[1].aberrations
    assert (tilt.kind, tilt.values, tilt.particle) == ("beam tilt", (-0.5, 0.0), 1)
    assert (odd.kind, odd.values) == ("odd Zernike", (0.0, 3.0, -7.0))
    assert magnification.kind == "anisotropic magnification"
    assert magnification.values == (1.25, 0.0, 0.0, 1.0)
    assert tilt.place == "table data_particles, row 2"


@pytest.mark.parametrize("root", ["with folder part", "without folder part"])
def test_images_are_found_under_the_given_root(tmp_path: Path, box: int, root: str) -> None:
    folder = tmp_path / "far" / ("Extract" if root == "with folder part" else "")
    (tmp_path / "tables").mkdir()
    folder.mkdir(parents=True, exist_ok=True)
    write_stack(folder / "stack.mrcs", 2, box)
    write_new_table(tmp_path / "tables/t.star", image_names(2, "Extract/stack.mrcs"), box)
    stack, table = read_particles(tmp_path / "tables/t.star", tmp_path / "far")
    assert table.image_files == (folder / "stack.mrcs",)
    assert stack.images.n_images == 2


@pytest.mark.parametrize("place", ["beside", "two above", "working folder"])
def test_images_are_found_from_the_places_relion_users_have_them(
    tmp_path: Path, box: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = tmp_path / "project/Refine3D/job012"
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "Extract").mkdir(parents=True)
    base = {"beside": tables, "two above": tmp_path / "project", "working folder": elsewhere}[place]
    (base / "Extract").mkdir(parents=True, exist_ok=True)
    tables.mkdir(parents=True, exist_ok=True)
    write_stack(base / "Extract/stack.mrcs", 2, box)
    write_new_table(tables / "t.star", image_names(2, "Extract/stack.mrcs"), box)
    if place == "working folder":
        monkeypatch.chdir(elsewhere)
    _, table = read_particles(tables / "t.star")
    assert table.image_files == (base / "Extract/stack.mrcs",)


def test_more_stacks_than_may_be_open_at_once(tmp_path: Path) -> None:
    names, images = [], []
    for n in range(150):
        images.append(write_stack(tmp_path / f"mic{n}.mrcs", 2, 8, seed=n)[n % 2])
        names.append(f"{n % 2 + 1}@mic{n}.mrcs")
    write_new_table(tmp_path / "t.star", names, 8)
    stack, _ = read_particles(tmp_path / "t.star")
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        read = stack.images.read(order)
        assert torch.equal(read, torch.from_numpy(np.stack(images))[order])
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 64
