"""Our predicted images are those of relion_project."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cryogimbal.fourier.disc import Disc, make_disc
from cryogimbal.fourier.transforms import image_to_hartley
from cryogimbal.imaging.shifts import shift_row
from cryogimbal.io.mrc import read_density
from cryogimbal.io.star import read_particles
from tests.imaging.gaussian_phantom import random_phantom
from tests.laws import relative_error
from tests.relion.particles import (
    Relion,
    correlation_per_image,
    predicted_rows,
    random_stack,
    transfer_of,
    write_inputs,
)

N_IMAGES = 12


def projected_by_relion(folder: Path, disc: Disc, relion: Relion, *options: object) -> Tensor:
    """Rows of the images that relion_project makes of ``map.mrc`` at the poses of the table."""
    relion("relion_project", "--i", "map.mrc", "--ang", "particles.star", "--o", "seen", *options)
    stack, _ = read_particles(folder / "seen.star")
    rows = disc.gather(image_to_hartley(stack.images.read(torch.arange(N_IMAGES))))
    if disc.box % 2 == 0:
        return rows
    # RELION 3.1 has the centre of odd images, not of odd maps, one pixel behind the middle.
    return shift_row(rows, torch.full((N_IMAGES, 2), -1 / disc.box), disc)


@pytest.mark.relion
@pytest.mark.parametrize(
    ("side", "oversampling", "tolerance"),
    # RELION makes the padded box even: without padding an odd map is interpolated otherwise.
    [(48, 1, 2e-3), (48, 2, 2e-4), (49, 1, 0.04), (49, 2, 2e-4)],
)
@pytest.mark.parametrize("with_ctf", [False, True])
def test_predictions_equal_relions(
    tmp_path: Path,
    side: int,
    oversampling: int,
    tolerance: float,
    with_ctf: bool,
    generator: torch.Generator,
    relion: Relion,
) -> None:
    density = random_phantom(generator, n=60, reach=side / 4).density(side)
    stack = random_stack(N_IMAGES, side, generator)
    write_inputs(tmp_path, density, stack)
    disc = make_disc(side, 0.8 * side / 2)
    options = ["--pad", oversampling, *(["--ctf"] if with_ctf else [])]
    theirs = projected_by_relion(tmp_path, disc, relion, *options)
    transfer = transfer_of(stack, disc)
    if not with_ctf:
        transfer = torch.ones_like(transfer)
    ours = predicted_rows(density, stack, disc, transfer, oversampling)
    # The mean of an image carries most of the signal and no pose.
    assert float(correlation_per_image(ours[:, 1:], theirs[:, 1:]).min()) > 0.999
    assert relative_error(ours[:, 1:], theirs[:, 1:]) < tolerance


@pytest.mark.relion
def test_a_wrong_pose_is_seen(tmp_path: Path, generator: torch.Generator, relion: Relion) -> None:
    # The transposed pose, the other sign of the shift: such mistakes are far from the tolerance.
    side = 48
    density = random_phantom(generator, n=60, reach=side / 4).density(side)
    stack = random_stack(N_IMAGES, side, generator)
    write_inputs(tmp_path, density, stack)
    disc = make_disc(side, 0.8 * side / 2)
    theirs = projected_by_relion(tmp_path, disc, relion)[:, 1:]
    assert stack.poses is not None
    plain = torch.ones(N_IMAGES, disc.n_coefficients)
    rotation, shift = stack.poses.rotation.clone(), stack.poses.shift_angstrom.clone()
    for wrong_rotation, wrong_shift in ((rotation.mT, shift), (rotation, -shift)):
        stack.poses.rotation.copy_(wrong_rotation)
        stack.poses.shift_angstrom.copy_(wrong_shift)
        wrong = predicted_rows(density, stack, disc, plain, 2)[:, 1:]
        assert float(correlation_per_image(wrong, theirs).median()) < 0.9


def test_relions_images_of_a_point_mass(reference_data: Path) -> None:
    # Made by relion_project --pad 1 --ctf, with shifts: no padding, so none here either.
    folder = reference_data / "particles" / "convention_relion_pointmass"
    stack, _ = read_particles(folder / "relion_proj_batch.star")
    density = read_density(folder / "pointmass.mrc", stack.pixel_size_angstrom).values
    disc = make_disc(stack.box, 0.8 * stack.box / 2)
    theirs = disc.gather(image_to_hartley(stack.images.read(torch.arange(len(stack)))))
    transfer = transfer_of(stack, disc)
    ours = predicted_rows(density, stack, disc, transfer, 1)
    assert len(stack) == 24
    assert relative_error(ours, theirs) < 1e-4
    # Padding comes nearer to the truth, a plane wave, which RELION's 14 % of error hides.
    padded = predicted_rows(density, stack, disc, transfer, 2)
    assert float(correlation_per_image(padded, theirs).min()) > 0.98
