"""Optics of every kind from the command line: what a table says of its images is honoured or refused."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch

from cryogimbal.data.optics import CtfParameters
from cryogimbal.evaluation.fsc import fourier_shell_correlation
from cryogimbal.io.mrc import read_density
from tests.cli.commands import BOX, N_PARTICLES, PIXEL_SIZE, assert_says, command, refused
from tests.cli.conftest import simulate
from tests.reference.ctf_loop import ctf_by_loop

pytestmark = pytest.mark.usefixtures("no_pictures")

Tables = dict[str, pd.DataFrame]
# Two microscopes; the second has a phase plate.
KILOVOLT, SPHERICAL_MM, CONTRAST, PHASE_DEG = (300, 100), (2.7, 1.6), (0.1, 0.07), (0, 90)
FLAGS = {
    "phase_flipped": "rlnCtfDataArePhaseFlipped",
    "multiplied": "rlnCtfDataAreCtfPremultiplied",
}


@pytest.fixture(scope="module")
def ideal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images without noise whose CTF is 1: all amplitude contrast, in focus."""
    without = ("--snr", 1e8, "--amplitude-contrast", 1, "--spherical-aberration", 0)
    in_focus = ("--defocus-range", 0, 0, "--astigmatism-sd", 0)
    return simulate(tmp_path_factory.mktemp("ideal") / "data", *without, *in_focus)


def second_microscope() -> np.ndarray:
    """Which one each image is from, in turns."""
    return np.arange(N_PARTICLES) % 2


def microscopes() -> CtfParameters:
    rng, second = np.random.default_rng(8), torch.from_numpy(second_microscope())
    one = torch.ones(N_PARTICLES)
    defocus = torch.from_numpy(rng.uniform(12000, 24000, N_PARTICLES)).float()
    return CtfParameters(
        defocus_u_angstrom=defocus + 400,
        defocus_v_angstrom=defocus,
        defocus_angle_rad=3 * torch.from_numpy(rng.random(N_PARTICLES)).float(),
        phase_shift_rad=torch.tensor(PHASE_DEG)[second] * math.pi / 180,
        voltage_kilovolt=torch.tensor(KILOVOLT)[second].float(),
        spherical_aberration_mm=torch.tensor(SPHERICAL_MM)[second],
        amplitude_contrast=torch.tensor(CONTRAST)[second],
        bfactor_angstrom2=0 * one,
        scale=one,
    )


def table_of_microscopes(source: Path, ctf: CtfParameters) -> Tables:
    tables = starfile.read(source, always_dict=True)
    rows, one = tables["particles"], tables["optics"]
    rows["rlnOpticsGroup"] = 1 + second_microscope()
    rows["rlnDefocusU"] = ctf.defocus_u_angstrom.numpy()
    rows["rlnDefocusV"] = ctf.defocus_v_angstrom.numpy()
    rows["rlnDefocusAngle"] = torch.rad2deg(ctf.defocus_angle_rad).numpy()
    rows["rlnPhaseShift"] = np.array(PHASE_DEG)[second_microscope()]
    optics = pd.concat([one, one], ignore_index=True)
    optics["rlnOpticsGroup"], optics["rlnOpticsGroupName"] = (1, 2), ("first", "second")
    optics["rlnVoltage"], optics["rlnSphericalAberration"] = KILOVOLT, SPHERICAL_MM
    optics["rlnAmplitudeContrast"] = CONTRAST
    return {**tables, "optics": optics, "particles": rows}


def taken_by_microscopes(ideal: Path, folder: Path, treatment: str) -> Tables:
    """The same particles as two microscopes give them, treated as some programs do; and their table."""
    folder.mkdir()
    ctf = microscopes()
    frequency = torch.fft.fftfreq(BOX, d=PIXEL_SIZE, dtype=torch.float64)
    y, x = torch.meshgrid(frequency, frequency, indexing="ij")
    transfer = ctf_by_loop(ctf, torch.stack([x.flatten(), y.flatten()], 1)).view(-1, BOX, BOX)
    with mrcfile.open(ideal / "particles.mrcs") as file:
        clean = torch.from_numpy(file.data.astype(np.float64))
    spectrum = torch.fft.fft2(clean) * transfer
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(9)).double()
    deviation = torch.fft.ifft2(spectrum).real.std()
    spectrum += torch.fft.fft2(noise * deviation)
    factors = {"none": torch.ones(()), "phase_flipped": transfer.sign(), "multiplied": transfer}
    images = torch.fft.ifft2(spectrum * factors[treatment]).real.float()
    with mrcfile.new(folder / "particles.mrcs") as file:
        file.set_data(images.numpy())
        file.set_image_stack()
        file.voxel_size = PIXEL_SIZE
    tables = table_of_microscopes(ideal / "particles.star", ctf)
    if treatment != "none":
        tables["optics"][FLAGS[treatment]] = 1
    return tables


def likeness_of_map(ideal: Path, tables: Tables, folder: Path, tiny: Path) -> float:
    """Mean correlation with the truth, to 24 Å, of the map that true poses give."""
    starfile.write(tables, folder / "particles.star")
    start = ("--initial-poses", ideal / "truth.star", "--head-training.epochs", 0)
    options = ("--config", tiny, "--shifts", "none", "--contrast", "light", *start)
    assert command("reconstruct", folder / "particles.star", "--out", folder / "run", *options) == 0
    found, truth = (read_density(p) for p in (folder / "run/map.mrc", ideal / "truth.mrc"))
    curve = fourier_shell_correlation(found, truth, poses="truth")
    return float(curve.correlation[1:9].mean())


@pytest.mark.parametrize("treatment", ["none", "phase_flipped", "multiplied"])
def test_two_microscopes_a_phase_plate_and_treated_images_give_the_structure(
    treatment: str, ideal: Path, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stack"
    tables = taken_by_microscopes(ideal, folder, treatment)
    assert likeness_of_map(ideal, tables, folder, tiny) > 0.82


def without_phase_plate(tables: Tables) -> None:
    tables["particles"]["rlnPhaseShift"] = 0


def exchanged_microscopes(tables: Tables) -> None:
    for name in ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"):
        tables["optics"][name] = tables["optics"][name].tolist()[::-1]


@pytest.mark.parametrize("forget", [without_phase_plate, exchanged_microscopes])
def test_what_the_table_says_of_each_microscope_counts(
    forget: Callable[[Tables], None], ideal: Path, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stack"
    tables = taken_by_microscopes(ideal, folder, "none")
    forget(tables)
    assert likeness_of_map(ideal, tables, folder, tiny) < 0.75


MIXED = f"""
source = "asymmetric"
n_particles = {N_PARTICLES}
snr = 1.0
[[optics_groups]]
voltage = 300.0
box = 20
pixel_size = 9.6
[[optics_groups]]
voltage = 200.0
spherical_aberration = 1.2
amplitude_contrast = 0.07
box = 19
pixel_size = 11.0
"""


def test_two_boxes_and_pixel_sizes_in_one_run(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mixed.toml").write_text(MIXED)
    data, run = tmp_path / "data", tmp_path / "run"
    assert command("simulate", tmp_path / "mixed.toml", "--out", data) == 0
    start = ("--initial-poses", data / "truth.star", "--head-training.epochs", 0)
    options = ("--config", tiny, "--shifts", "none", *start)
    assert command("reconstruct", data / "particles.star", "--out", run, *options) == 0
    said = " ".join(capsys.readouterr().out.split())
    half = N_PARTICLES // 2
    assert_says(said, "several samplings, brought to 20² at 9.6 Å (192 Å wide)")
    assert_says(said, f"{half} of 20² at 9.6 Å", f"{half} of 19² at 11 Å")
    found, truth = (read_density(p) for p in (run / "map.mrc", data / "truth.mrc"))
    correlation = fourier_shell_correlation(found, truth, poses="truth").correlation
    assert float(correlation[1:8].mean()) > 0.7
    before, after = (
        starfile.read(path / "particles.star", always_dict=True)["optics"] for path in (data, run)
    )
    pd.testing.assert_frame_equal(before, after)


def edited(simulated: Path, folder: Path, edit: Callable[[Tables], None]) -> Path:
    """The simulated particles with another table."""
    shutil.copytree(simulated, folder)
    tables: dict[str, Any] = starfile.read(folder / "particles.star", always_dict=True)
    edit(tables)
    starfile.write(tables, folder / "particles.star", overwrite=True)
    return folder / "particles.star"


def flipped_and_multiplied(tables: Tables) -> None:
    for name in FLAGS.values():
        tables["optics"][name] = 1


def some_multiplied(tables: Tables) -> None:
    tables["particles"][FLAGS["multiplied"]] = [0] * 9 + [1] * (N_PARTICLES - 9)


def another_box(tables: Tables) -> None:
    tables["optics"]["rlnImageSize"] = BOX + 2


def two_pixel_sizes(tables: Tables) -> None:
    tables["particles"]["rlnImagePixelSize"] = [PIXEL_SIZE] * 9 + [4.0] * (N_PARTICLES - 9)


def one_number_twice(tables: Tables) -> None:
    tables["optics"] = pd.concat([tables["optics"]] * 2)


def no_such_group(tables: Tables) -> None:
    tables["particles"]["rlnOpticsGroup"] = [1] * 9 + [7] * (N_PARTICLES - 9)


@pytest.mark.usefixtures("no_image_is_read")
@pytest.mark.parametrize(
    ("edit", "pieces"),
    [
        (flipped_and_multiplied, ["row 1", *FLAGS.values(), "both set"]),
        (some_multiplied, ["row 10", "treated as in row 1", FLAGS["multiplied"], "of their own"]),
        (another_box, ["row 1", f"a box of {BOX + 2} pixels", f"found {BOX}"]),
        (two_pixel_sizes, ["row 10", "a pixel size of 8 Å as in row 1", "found 4 Å"]),
        (one_number_twice, ["data_optics", "_rlnOpticsGroup once", "found 1, 1", "apart"]),
        (no_such_group, ["row 10", "_rlnOpticsGroup is 7", "one of data_optics: 1"]),
    ],
)
def test_contradictory_optics(
    edit: Callable[[Tables], None],
    pieces: list[str],
    simulated: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table, run = edited(simulated, tmp_path / "data", edit), tmp_path / "run"
    message = refused(capsys, "reconstruct", table, "--out", run)
    assert_says(message, table, *pieces)
    assert not run.exists()


def with_optics(**columns: object) -> Callable[[Tables], None]:
    def edit(tables: Tables) -> None:
        for name, value in columns.items():
            tables["optics"][name] = [value]

    return edit


ABERRATIONS = {
    "beam tilt": with_optics(rlnBeamTiltX=0.0, rlnBeamTiltY=40.0),
    "odd Zernike": with_optics(rlnOddZernike="[0,0,0,30,0,0]"),
    "even Zernike": with_optics(rlnEvenZernike="[1,0,0,0,0,0,0,0,0]"),
    "anisotropic magnification": with_optics(rlnMagMat00=1.05, rlnMagMat11=0.96),
}


@pytest.mark.usefixtures("no_image_is_read")
@pytest.mark.parametrize("kind", ABERRATIONS)
def test_aberrations_that_matter_are_refused_by_name(
    kind: str, simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, run = edited(simulated, tmp_path / "data", ABERRATIONS[kind]), tmp_path / "run"
    message = refused(capsys, "reconstruct", table, "--out", run)
    assert_says(message, table, "data_optics", kind, "at most 20°", "--ignore-aberrations")
    assert not run.exists()


def test_small_aberrations_are_told_and_large_ones_can_be_ignored(
    simulated: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ("--initial-poses", simulated / "truth.star", "--head-training.epochs", 0)
    maps = []
    # 360° x 1e-3 mrad x 0.01968762 Å squared x Cs 2.7e7 Å / (16 Å)^3 of the tilt in mrad.
    degrees_per_mrad = 0.360 * 2.7e7 * 0.01968762**2 / (2 * PIXEL_SIZE) ** 3
    for tilt, more in ((10.0, ()), (40.0, ("--ignore-aberrations",))):
        out = tmp_path / f"{tilt:g}"
        table = edited(simulated, out / "data", with_optics(rlnBeamTiltX=tilt))
        options = ("--config", tiny, *start, *more)
        assert command("reconstruct", table, "--out", out / "run", *options) == 0
        size = f"phases are up to {degrees_per_mrad * tilt:.2g}° off"
        assert_says(" ".join(capsys.readouterr().out.split()), "beam tilt (_rlnBeamTiltX)", size)
        warnings = json.loads((out / "run" / "summary.json").read_text())["warnings"]
        assert any(size in text for text in warnings)
        maps.append((out / "run/map.mrc").read_bytes())
    # Left out is left out.
    assert maps[0] == maps[1]
