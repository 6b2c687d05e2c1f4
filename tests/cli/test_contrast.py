"""Dark particles are found to be dark, and what the user says of the sign counts."""

import json
import re
import shutil
from pathlib import Path

import mrcfile
import pytest

from cryogimbal.cli.contrast import ContrastDecision
from cryogimbal.imaging.contrast import ContrastMeasurement
from tests.cli.commands import N_PARTICLES, command

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def dark(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same stack as a program that does not invert writes it."""
    folder = tmp_path_factory.mktemp("dark") / "data"
    shutil.copytree(simulated, folder)
    with mrcfile.open(folder / "particles.mrcs", mode="r+") as stack:
        stack.data[:] *= -1
    return folder / "particles.star"


def test_a_dark_stack_gives_the_same_positive_map(
    dark: Path, finished: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert command("reconstruct", dark, "--out", out, "--config", tiny) == 0
    assert (out / "map.mrc").read_bytes() == (finished / "map.mrc").read_bytes()
    said = capsys.readouterr().out
    assert "dark particles (RELION's convention: light; measured: dark, z = -" in said
    assert "warning: the images show dark particles" in said
    summary, light = (json.loads((r / "summary.json").read_text()) for r in (out, finished))
    assert summary["contrast"]["used"] == summary["contrast"]["measured"] == "dark"
    assert light["contrast"] == {
        "used": "light",
        "option": "auto",
        "declared": "light",
        "measured": "light",
        "z": -summary["contrast"]["z"],
        "n_images": N_PARTICLES,
    }
    assert len(summary["warnings"]) == len(light["warnings"]) + 1


def decision(option: str, n_light: int) -> ContrastDecision:
    return ContrastDecision(
        option=option, measured=ContrastMeasurement(n_images=100, n_light=n_light)
    )


@pytest.mark.parametrize(
    ("option", "n_light", "used", "warning"),
    [
        ("auto", 95, "light", None),
        ("auto", 5, "dark", "--contrast light takes them as they are"),
        # Undecided: RELION's convention, and what to do if it is wrong.
        ("auto", 40, "light", "undecided, z = -2.0 over 100 images.*give --contrast light or"),
        ("light", 95, "light", None),
        ("light", 50, "light", None),
        ("light", 5, "light", "--contrast light, but the images show dark particles"),
        ("dark", 95, "dark", "--contrast auto follows the images"),
    ],
)
def test_the_user_comes_first_then_the_images_then_the_convention(
    option: str, n_light: int, used: str, warning: str | None
) -> None:
    found = decision(option, n_light)
    assert found.used == used
    assert found.sign == (1.0 if used == "light" else -1.0)
    if warning is None:
        assert found.warnings == ()
    else:
        (said,) = found.warnings
        assert re.search(warning, said)
