"""A simulation from a file is the one that flags give; what the file gets wrong is said."""

import json
import pickle
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch

from cryogimbal.cli.simulation_case import read_case
from cryogimbal.io.star import read_particles
from cryogimbal.io.star_junk import table_junk
from cryogimbal.io.star_table import read_table
from tests.cli.commands import assert_says, command, refused

CASES = Path(__file__).resolve().parents[2] / "benchmarks" / "cases"
CASE = """
source = "asymmetric"
box = 16
pixel_size = 12.0
n_particles = 30
snr = 0.5
shift_sd = 12.0
noise_length = 40.0
noise_floor = 0.1
view_density_ratio = 10.0
junk_fraction = 0.2
junk_kinds = ["noise", "pair"]
contrast = "dark"
"""
FLAGS = (
    "--box 16 --pixel-size 12 --n-particles 30 --snr 0.5 --shift-sd 12 --noise-length 40 "
    "--noise-floor 0.1 --view-density-ratio 10 --junk-fraction 0.2 --junk-kinds noise pair "
    "--contrast dark"
).split()
GROUPS = """
[[optics_groups]]
voltage = 300.0
[[optics_groups]]
voltage = 200.0
spherical_aberration = 2.0
box = 20
pixel_size = 9.6
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "case.toml"
    path.write_text(text)
    return path


def test_a_file_and_flags_are_the_same_simulation(tmp_path: Path) -> None:
    assert command("simulate", written(tmp_path, CASE), "--out", tmp_path / "file") == 0
    assert command("simulate", "asymmetric", "--out", tmp_path / "flags", *FLAGS) == 0
    for name in ("particles.mrcs", "particles.star", "truth.star", "truth.mrc"):
        assert (tmp_path / "file" / name).read_bytes() == (tmp_path / "flags" / name).read_bytes()


def test_flags_go_over_the_file(tmp_path: Path) -> None:
    case = written(tmp_path, CASE)
    assert command("simulate", "--out", tmp_path / "a", case, "--seed", 1) == 0
    assert command("simulate", "asymmetric", "--out", tmp_path / "b", *FLAGS, "--seed", 1) == 0
    stacks = [(tmp_path / name / "particles.mrcs").read_bytes() for name in "ab"]
    assert stacks[0] == stacks[1]


def test_the_truth_labels_junk_and_the_input_does_not(tmp_path: Path) -> None:
    assert command("simulate", written(tmp_path, CASE), "--out", tmp_path / "out") == 0
    truth = starfile.read(tmp_path / "out" / "truth.star")["particles"]
    given = starfile.read(tmp_path / "out" / "particles.star")["particles"]
    assert set(truth) - set(given) == {
        *("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"),
        *("cryogimbalJunk", "cryogimbalJunkKind"),
    }
    kinds = truth["cryogimbalJunkKind"].tolist()
    assert (kinds.count("noise"), kinds.count("pair"), kinds.count("none")) == (3, 3, 24)
    assert (truth["cryogimbalJunk"] == (truth["cryogimbalJunkKind"] != "none")).all()
    labels = table_junk(read_table(tmp_path / "out" / "truth.star"))
    assert labels is not None
    assert labels.tolist() == truth["cryogimbalJunk"].tolist()
    assert table_junk(read_table(tmp_path / "out" / "particles.star")) is None


def test_optics_groups_have_files_and_samplings_of_their_own(tmp_path: Path) -> None:
    assert command("simulate", written(tmp_path, CASE + GROUPS), "--out", tmp_path / "out") == 0
    tables = starfile.read(tmp_path / "out" / "truth.star")
    optics, particles = tables["optics"], tables["particles"]
    assert optics["rlnVoltage"].tolist() == [300.0, 200.0]
    assert optics["rlnSphericalAberration"].tolist() == [2.7, 2.0]
    assert optics["rlnImageSize"].tolist() == [16, 20]
    assert optics["rlnImagePixelSize"].tolist() == [12.0, 9.6]
    assert optics["rlnOpticsGroupName"].nunique() == 2
    assert particles["rlnOpticsGroup"].tolist() == [1] * 15 + [2] * 15
    names = particles["rlnImageName"].tolist()
    assert (names[0], names[14]) == ("000001@particles1.mrcs", "000015@particles1.mrcs")
    assert (names[15], names[29]) == ("000001@particles2.mrcs", "000015@particles2.mrcs")
    for number, box, pixel_size in ((1, 16, 12.0), (2, 20, 9.6)):
        with mrcfile.open(tmp_path / "out" / f"particles{number}.mrcs") as stack:
            assert stack.data.shape == (15, box, box)
            assert float(stack.voxel_size.x) == pytest.approx(pixel_size)
    # The map is sampled as the first group is.
    with mrcfile.open(tmp_path / "out" / "truth.mrc") as truth:
        assert truth.data.shape == (16, 16, 16)


def test_groups_of_one_sampling_are_read_as_one_stack(tmp_path: Path) -> None:
    groups = "[[optics_groups]]\nvoltage = 300.0\n[[optics_groups]]\nvoltage = 200.0\n"
    assert command("simulate", written(tmp_path, CASE + groups), "--out", tmp_path / "out") == 0
    stack, _ = read_particles(tmp_path / "out" / "truth.star")
    assert [group.voltage_kilovolt for group in stack.optics] == [300.0, 200.0]
    assert stack.ctf.voltage_kilovolt.tolist() == [300.0] * 15 + [200.0] * 15
    with mrcfile.open(tmp_path / "out" / "particles2.mrcs") as file:
        assert np.array_equal(stack.images.read(torch.arange(15, 30)).numpy(), file.data)


@pytest.mark.parametrize("path", sorted(CASES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_cases_of_the_benchmarks_are_simulations(
    path: Path, reference_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYOGIMBAL_TEST_DATA", str(reference_data))
    case = read_case(path)
    assert Path(case.source).is_file()
    assert case.settings.ctf_table is not None
    assert case.settings.ctf_table.is_file()


def test_defoci_of_a_table_and_paths_through_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.array([[360, 1.3, 9000 + 10 * n, 8000, 45, 300, 2.0, 0.1, 0] for n in range(7)])
    (tmp_path / "ctf.pkl").write_bytes(pickle.dumps(rows.astype(np.float32)))
    monkeypatch.setenv("SOME_DATA", str(tmp_path))
    case = written(tmp_path, CASE + 'ctf_table = "$SOME_DATA/ctf.pkl"\n')
    assert command("simulate", case, "--out", tmp_path / "out") == 0
    tables = starfile.read(tmp_path / "out" / "particles.star")
    assert tables["optics"]["rlnSphericalAberration"].tolist() == [2.0]
    # 30 images of 7 rows: each row four times, two of them a fifth time.
    found = tables["particles"]["rlnDefocusU"].value_counts()
    assert sorted(found.index) == rows[:, 2].tolist()
    assert sorted(found) == [4, 4, 4, 4, 4, 5, 5]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("box = 16\n", ("expected source = a phantom", "found None")),
        ("source = [\n", ("expected a TOML file",)),
        (CASE + "snrr = 1\n", ("unknown option snrr", "expected one of")),
        (CASE.replace("0.5", '"much"'), ("snr", "found 'much'")),
        (CASE.replace("0.5", "-1.0"), ("--snr", "above 0, found -1.0")),
        (CASE.replace('"pair"', '"pear"'), ("junk_kinds", "'pear'")),
        (CASE.replace("noise_length = 40.0\n", ""), ("--noise-floor", "no --noise-length")),
        (CASE + 'ctf_table = "ctf.pkl"\nvoltage = 200.0\n', ("--voltage", "ctf.pkl", "one of the")),
        (CASE + 'ctf_table = "missing.pkl"\n', ("missing.pkl: no such file",)),
        (CASE.replace("asymmetric", "$NOT_SET_ANYWHERE/x.pdb"), ("NOT_SET_ANYWHERE", "not set")),
        (CASE.replace("asymmetric", "missing.pdb"), ("missing.pdb", "no such file")),
        (CASE + "[[optics_groups]]\nsnr = 1.0\n", ("optics group 1: unknown option snr",)),
        (CASE + "[[optics_groups]]\nvoltage = -1.0\n", ("optics group 1", "--voltage")),
        (CASE + "optics_groups = 3\n", ("expected tables [[optics_groups]], found 3",)),
        (CASE.replace("30", "1") + GROUPS, ("each of 2 optics groups", "n_particles = 1")),
    ],
)
def test_what_a_file_gets_wrong_is_said_before_any_work(
    text: str, pieces: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, out = written(tmp_path, text), tmp_path / "out"
    assert_says(refused(capsys, "simulate", case, "--out", out), *pieces)
    assert not out.exists()


def test_a_file_that_is_not_there_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "simulate", tmp_path / "no.toml", "--out", tmp_path / "out")
    assert_says(message, "no.toml: expected a TOML file of options, No such file")


def test_junk_has_no_true_pose(finished: Path, simulated: Path, tmp_path: Path) -> None:
    # The run's own poses as truth, wrong where the truth says junk.
    run, truth = tmp_path / "run", tmp_path / "truth.star"
    shutil.copytree(finished, run)
    tables = starfile.read(run / "particles.star")
    rows = tables["particles"]
    rows["cryogimbalJunk"] = [1, 1, 1] + [0] * (len(rows) - 3)
    rows.loc[:2, "rlnAngleTilt"] += 40.0
    starfile.write(tables, truth)
    assert command("evaluate", run, "--truth-star", truth) == 0
    found = json.loads((run / "evaluation.json").read_text())
    assert found["n_junk_left_out"] == 3
    assert found["n_particles"] == len(rows) - 3
    assert found["rotation_error_90th_percentile_deg"] < 0.01
    assert found["shift_error_median_angstrom"] < 1e-3
