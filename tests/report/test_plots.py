"""Each picture as it lies on the disk."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from matplotlib import image

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.evaluation.fsc import FscCurve
from cryogimbal.report.images import ParticlePicture
from cryogimbal.report.plots import (
    plot_fsc,
    plot_map,
    plot_particles,
    plot_pose_errors,
    plot_progress,
    plot_view_directions,
)
from cryogimbal.rotations import random_rotations

WIDTH_PX = 1200
FIRST_BYTES = b"\x89PNG\r\n\x1a\n"


def draw_map(path: Path) -> None:
    values = torch.rand(17, 17, 17, generator=torch.Generator().manual_seed(1))
    plot_map(DensityMap(values=values, voxel_size_angstrom=4.0), path)


def draw_fsc(path: Path) -> None:
    curve = FscCurve(
        box=16, voxel_size_angstrom=4.0, correlation=torch.linspace(1, 0, 9), poses="shared"
    )
    plot_fsc({"half-maps": curve}, path)


def draw_view_directions(path: Path) -> None:
    plot_view_directions(random_rotations(500, torch.Generator().manual_seed(1)), path)


def draw_progress(path: Path) -> None:
    fields = {"stage": "auto_decoding", "resolution_angstrom": 20.0}
    plot_progress([{"epoch": i, "loss": 1 - i / 9, **fields} for i in range(5)], path)


def draw_particles(path: Path) -> None:
    noise = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1))
    images = dict(zip(("observed", "predicted", "residual"), noise, strict=True))
    plot_particles([ParticlePicture(name="row 1", loss=1.0, **images)], path)


def draw_pose_errors(path: Path) -> None:
    plot_pose_errors(torch.linspace(0.1, 170, 300), path)


PICTURES = [
    draw_map,
    draw_fsc,
    draw_view_directions,
    draw_progress,
    draw_particles,
    draw_pose_errors,
]


@pytest.mark.parametrize("draw", PICTURES)
def test_a_picture_is_written_whole_and_has_content(
    draw: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    draw(path)
    assert path.read_bytes().startswith(FIRST_BYTES)
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]
    pixels = image.imread(path)[..., :3]
    assert pixels.shape[1] == WIDTH_PX
    # Neither blank nor overfull: white paper, ink, and nothing drawn over the edge of the page.
    dark = pixels.mean(-1) < 0.9
    assert 0.005 < dark.mean() < 0.9
    edge = (dark[0], dark[-1], dark[:, 0], dark[:, -1])
    assert not any(side.any() for side in edge)


def test_an_earlier_picture_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_text("older")
    draw_pose_errors(path)
    assert path.read_bytes().startswith(FIRST_BYTES)


def test_a_refused_picture_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_text("older")
    with pytest.raises(InputError):
        plot_pose_errors(torch.tensor([400.0]), path)
    assert path.read_text() == "older"


def test_only_png_is_written_and_only_into_folders_that_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"picture\.jpg.*ends in \.png"):
        draw_fsc(tmp_path / "picture.jpg")
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        draw_fsc(tmp_path / "nowhere" / "picture.png")
    assert list(tmp_path.iterdir()) == []


def test_nothing_waits_for_matplotlib_before_it_draws() -> None:
    code = (
        "import sys, cryogimbal.report.plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import torch, pathlib, tempfile\n"
        "path = pathlib.Path(tempfile.mkdtemp()) / 'p.png'\n"
        "cryogimbal.report.plots.plot_pose_errors(torch.ones(3), path)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
