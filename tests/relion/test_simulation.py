"""RELION reads a simulation, and a flipped one, as what we say it is."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cryogimbal.fourier.disc import make_disc
from cryogimbal.fourier.transforms import image_to_hartley
from cryogimbal.io.mrc import read_density, write_density
from cryogimbal.io.star import read_particles
from tests.cli.commands import command
from tests.relion.particles import Relion, correlation_per_image

pytestmark = pytest.mark.relion
BOX, N_IMAGES = 48, 12


def simulated(folder: Path) -> Path:
    """Nothing but signal, as far as the eye can see, up to 3 pixels off the centre."""
    options = f"--box {BOX} --pixel-size 4 --n-particles {N_IMAGES} --snr 1e8 --shift-sd 6".split()
    assert command("simulate", "asymmetric", "--out", folder / "data", *options) == 0
    return folder / "data"


def rows_of(table: Path) -> Tensor:
    stack, _ = read_particles(table)
    images = stack.images.read(torch.arange(N_IMAGES))
    return make_disc(BOX, 0.8 * BOX / 2).gather(image_to_hartley(images))[:, 1:]


def projected(folder: Path, name: str, relion: Relion) -> Tensor:
    options = ("--i", folder / "truth.mrc", "--ang", folder / "truth.star", "--o", name, "--ctf")
    relion("relion_project", *options)
    return rows_of(folder.parent / f"{name}.star")


def test_relion_projects_the_true_map_to_the_simulated_images(
    tmp_path: Path, relion: Relion
) -> None:
    folder = simulated(tmp_path)
    theirs = projected(folder, "theirs", relion)
    assert float(correlation_per_image(rows_of(folder / "truth.star"), theirs).min()) > 0.999


def test_relion_sees_the_same_images_in_a_flipped_map_at_flipped_poses(
    tmp_path: Path, relion: Relion
) -> None:
    folder = simulated(tmp_path)
    before = projected(folder, "before", relion)
    for mirror in ("z", "centre"):
        out = tmp_path / mirror
        files = ("--maps", folder / "truth.mrc", "--particles", folder / "truth.star")
        assert command("flip-hand", *files, "--mirror", mirror, "--out", out) == 0
        after = projected(out, f"after_{mirror}", relion)
        # What little the map holds in its planes at index 0, which have no partner, costs 0.9 %.
        assert float((after - before).norm() / before.norm()) < 0.02
        # A drift by one voxel would cost far more.
        density = read_density(out / "truth.mrc")
        drifted = replace(density, values=density.values.roll((1, 1, 1), (0, 1, 2)))
        write_density(out / "truth.mrc", drifted)
        after = projected(out, f"drifted_{mirror}", relion)
        assert float((after - before).norm() / before.norm()) > 0.2
