"""The other hand: the same images at the mirrored poses, the centre and the axes where they were."""

import pytest
import torch

from cryogimbal.data.density import DensityMap
from cryogimbal.evaluation.hand import mirror_map, mirror_pose, mirror_that_keeps_axes
from cryogimbal.fourier.disc import make_disc
from cryogimbal.imaging.slices import central_slices
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.rotations import Mirror, random_rotations
from cryogimbal.symmetry import symmetry_group
from tests.imaging.gaussian_phantom import random_phantom

MIRRORS: tuple[Mirror, ...] = ("z", "centre")


@pytest.mark.parametrize("mirror", MIRRORS)
def test_the_mirrored_map_shows_the_same_images_at_the_mirrored_poses(
    mirror: Mirror, box: int, generator: torch.Generator
) -> None:
    values = random_phantom(generator, n=20, reach=box / 5).density(box).float()
    density = DensityMap(values=values, voxel_size_angstrom=3.0)
    rotation = random_rotations(8, generator)
    geometry = GridGeometry(box=box, radius=box / 2, oversampling=2)
    # At the very rim of the grid it is left to rounding which samples a slice still reaches.
    disc = make_disc(box, box / 2 - 1)

    def images(shown: DensityMap, pose: torch.Tensor) -> torch.Tensor:
        return central_slices(geometry.grid_of_density(shown.values), pose, disc, 2)

    expected = images(density, rotation)
    found = images(mirror_map(density, mirror), mirror_pose(rotation, mirror))
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
    # At the old poses it does not.
    other = images(mirror_map(density, mirror), rotation)
    assert (other - expected).norm() > 0.2 * expected.norm()


@pytest.mark.parametrize("mirror", MIRRORS)
def test_every_voxel_goes_to_the_other_side_of_the_centre(
    mirror: Mirror, box: int, generator: torch.Generator
) -> None:
    values = torch.randn(box, box, box, generator=generator)
    density = DensityMap(values=values, voxel_size_angstrom=3.0)
    found = mirror_map(density, mirror)
    places = [(2 * (box // 2) - i) % box for i in range(box)]
    expected = values[places]
    if mirror == "centre":
        expected = expected[:, places][:, :, places]
    assert torch.equal(found.values, expected)
    assert torch.equal(mirror_map(found, mirror).values, values)
    assert found.voxel_size_angstrom == 3.0


@pytest.mark.parametrize("mirror", MIRRORS)
def test_mirrored_poses_are_rotations_and_twice_is_nothing(
    mirror: Mirror, generator: torch.Generator
) -> None:
    rotation = random_rotations(20, generator)
    found = mirror_pose(rotation, mirror)
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(20))
    assert torch.equal(mirror_pose(found, mirror), rotation)


@pytest.mark.parametrize(
    ("name", "mirror"),
    [
        *((name, "z") for name in ("C1", "C2", "C7", "D2", "D3", "D7", "O", "I", "I1", "I2")),
        *((name, "centre") for name in ("T", "I3", "I4")),
    ],
)
def test_the_mirror_keeps_the_axes_of_the_group(
    name: str, mirror: Mirror, generator: torch.Generator
) -> None:
    group = symmetry_group(name)
    assert mirror_that_keeps_axes(group) == mirror
    # A S shows the same image as A; so must their mirrored poses, by operators of the same group.
    rotation = random_rotations(1, generator).double()
    one, others = (mirror_pose(r, mirror) for r in (rotation, rotation @ group.operators))
    between = one.mT @ others
    distance = (between[:, None] - group.operators).abs().amax(dim=(-2, -1)).amin(dim=1)
    assert float(distance.max()) < 1e-5
