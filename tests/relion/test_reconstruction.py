"""Our poses and CTF values drive relion_reconstruct to the particle's density."""

from pathlib import Path

import pytest
import torch

from cryogimbal.fourier.disc import make_disc
from cryogimbal.fourier.shells import shell_sum
from cryogimbal.fourier.transforms import density_to_hartley, hartley_to_image, image_to_hartley
from cryogimbal.imaging.backprojection import (
    SufficientStatistics,
    mean_weight_per_shell,
    solve_density,
)
from cryogimbal.imaging.shifts import shift_row
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.io.mrc import read_density, write_image_stack
from tests.imaging.gaussian_phantom import random_phantom
from tests.relion.particles import (
    PIXEL_SIZE_ANGSTROM,
    Relion,
    random_stack,
    transfer_of,
    write_inputs,
)

pytestmark = pytest.mark.relion


def shell_correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``sum H1 H2 / sqrt(sum H1^2 sum H2^2)`` per shell."""
    one, other = density_to_hartley(a.double()), density_to_hartley(b.double())
    power = shell_sum(one.square(), 3) * shell_sum(other.square(), 3)
    return shell_sum(one * other, 3) / power.sqrt()


def test_relion_reconstructs_from_our_poses(
    tmp_path: Path, generator: torch.Generator, relion: Relion
) -> None:
    # Even boxes only: relion_reconstruct 3.1 does not give an odd map back, whatever the centre.
    side, n = 32, 800
    phantom = random_phantom(generator, reach=side / 4)
    stack = random_stack(n, side, generator)
    assert stack.poses is not None
    disc = make_disc(side)
    clean = torch.stack(
        [
            phantom.turned(rotation).hartley_slice(disc.frequency_index, side)
            for rotation in stack.poses.rotation
        ]
    ).float()
    displacement = stack.poses.shift_angstrom / (side * PIXEL_SIZE_ANGSTROM)
    transfer = transfer_of(stack, disc)
    rows = shift_row(clean, displacement, disc) * transfer
    rows = rows + 0.05 * rows.std() * torch.randn(rows.shape, generator=generator)
    truth = phantom.density(side)
    write_inputs(tmp_path, truth, stack)
    images = hartley_to_image(disc.scatter(rows))
    write_image_stack(tmp_path / "particles.mrcs", [images], PIXEL_SIZE_ANGSTROM)
    relion("relion_reconstruct", "--i", "particles.star", "--o", "theirs.mrc", "--ctf")
    theirs = read_density(tmp_path / "theirs.mrc").values

    geometry = GridGeometry(box=side, radius=side / 2, oversampling=2)
    centred = shift_row(disc.gather(image_to_hartley(images)), -displacement, disc)
    statistics = SufficientStatistics.zeros(geometry)
    statistics.add_slices(
        transfer * centred, transfer.square(), stack.poses.rotation, disc, geometry.oversampling
    )
    prior = 1e-2 * mean_weight_per_shell(statistics, geometry)
    ours = solve_density(statistics, geometry, prior)

    band = slice(0, int(0.9 * side / 2) + 1)
    assert float(shell_correlation(theirs, truth)[band].min()) > 0.95
    assert float(shell_correlation(theirs, ours)[band].min()) > 0.95
    # The same scale too, not only the same shape.
    slope = float((ours * theirs).sum() / (theirs * theirs).sum())
    assert slope == pytest.approx(1, abs=0.1)
