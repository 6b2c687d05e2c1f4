"""Turning or mirroring an image is a turn of its pose."""

import math

import torch
from torch import Tensor

from cryogimbal.fourier.disc import make_disc
from cryogimbal.fourier.transforms import hartley_to_image
from cryogimbal.imaging.plane_symmetry import (
    N_SYMMETRIES,
    into_asymmetric_unit,
    plane_symmetries,
    symmetric_places,
)
from cryogimbal.imaging.slices import central_slices
from cryogimbal.rotations import random_rotations


def random_slices(box: int, rotation: Tensor, generator: torch.Generator) -> Tensor:
    side = 2 * math.ceil(box / 2) + 1
    grid = torch.randn(side, side, side, generator=generator, dtype=torch.float64)
    return central_slices(grid, rotation.double(), make_disc(box), 1)


def test_the_row_of_a_changed_image_is_a_permutation(box: int, generator: torch.Generator) -> None:
    rotation = random_rotations(5, generator)
    symmetries = plane_symmetries()
    poses = torch.cat([rotation[:, None], symmetries @ rotation[:, None]], dim=1)
    rows = random_slices(box, poses, generator)
    permuted = rows[:, 0][:, symmetric_places(make_disc(box))]
    assert (permuted - rows[:, 1:]).abs().max() < 1e-5


def test_the_changed_images_are_quarter_turns_and_a_mirror_image(
    generator: torch.Generator,
) -> None:
    # An odd box turns about a pixel, so that whole pixels change places.
    disc = make_disc(17)
    rows = random_slices(17, random_rotations(1, generator), generator)[0]
    images = hartley_to_image(disc.scatter(rows[symmetric_places(disc)]))
    for quarter in range(4):
        # x runs along columns and y along rows, so that +x turns towards +y against rot90's sense.
        turned = torch.rot90(images[0], -quarter, (0, 1))
        assert torch.allclose(images[quarter], turned)
    assert torch.allclose(images[4], images[0].flip(0))


def test_the_eight_are_a_group_of_rotations() -> None:
    symmetries = plane_symmetries().double()
    assert torch.allclose(torch.linalg.det(symmetries), torch.ones(8, dtype=torch.float64))
    products = (symmetries[:, None] @ symmetries).flatten(0, 1)
    distance = (products[:, None] - symmetries).abs().amax((-1, -2))
    assert N_SYMMETRIES == len(symmetries)
    assert bool(((distance < 1e-12).sum(1) == 1).all())


def test_every_pose_has_one_place_in_the_asymmetric_unit(generator: torch.Generator) -> None:
    rotation = random_rotations(500, generator)
    unit = into_asymmetric_unit(rotation)
    copies = plane_symmetries()[:, None] @ rotation
    assert bool(((copies - unit).abs().amax((-1, -2)) < 1e-6).any(dim=0).all())
    assert (into_asymmetric_unit(copies) - unit).abs().max() < 1e-5
    assert float(unit[:, 2, 2].min()) >= 0
    twist = torch.atan2(unit[:, 1, 0] - unit[:, 0, 1], unit[:, 0, 0] + unit[:, 1, 1])
    assert float(twist.abs().max()) <= math.pi / 4 + 1e-5
