import pytest
import torch

from cryogimbal.data.density import DensityMap
from cryogimbal.data.poses import PoseSet
from cryogimbal.evaluation.alignment import (
    Alignment,
    align_pose_frame,
    apply_alignment,
    mirror_density,
)
from cryogimbal.evaluation.fsc import fourier_shell_correlation
from cryogimbal.evaluation.masks import soft_sphere_mask
from cryogimbal.evaluation.spline import sample_spline, transform_to_spline
from cryogimbal.fourier.shells import shell_index
from cryogimbal.fourier.transforms import density_to_hartley, hartley_to_density
from cryogimbal.rotations import orthonormalise, random_rotations
from tests.evaluation.gaussians import (
    VOXEL_SIZE_ANGSTROM,
    gaussian_density,
    random_frame,
    random_positions,
)
from tests.laws import relative_error

HANDS = pytest.mark.parametrize("sign", [1.0, -1.0], ids=["same_hand", "mirrored"])
BOXES = pytest.mark.parametrize("box", [32, 33], ids=["even", "odd"])


def frame(rotation, *, shift_angstrom=(0.0, 0.0, 0.0), mirrored: bool = False) -> Alignment:
    shift = torch.as_tensor(shift_angstrom, dtype=rotation.dtype)
    return Alignment(rotation=rotation, shift_angstrom=shift, mirrored=mirrored, score=1.0)


@BOXES
@HANDS
def test_a_turned_map_is_the_map_of_the_turned_gaussians(box, sign, generator):
    position = random_positions(40, box, generator, reach=0.3)
    rotation, hand, shift_px = random_frame(box, generator, sign=sign)
    alignment = frame(rotation, shift_angstrom=shift_px * VOXEL_SIZE_ANGSTROM, mirrored=sign < 0)
    found = apply_alignment(gaussian_density(position, box, sigma_px=1.5), alignment)
    expected = gaussian_density(position @ (rotation @ hand).T + shift_px, box, sigma_px=1.5)
    assert relative_error(found.values, expected.values) < 0.01


@BOXES
def test_turning_there_and_back_keeps_noise_up_to_nyquist(box, generator):
    # The hardest map: as much power at Nyquist as anywhere, inside the ball that stays in the box.
    ball = soft_sphere_mask(box, 1.0, diameter_angstrom=0.7 * box, edge_angstrom=0.1 * box)
    noise = ball * torch.randn(box, box, box, generator=generator)
    spectrum = density_to_hartley(noise)
    kept = torch.where(shell_index(box, 3) <= box // 2 - 1, spectrum, 0.0)
    start = DensityMap(values=hartley_to_density(kept), voxel_size_angstrom=1.0)
    rotation = random_rotations(1, generator)[0]
    there = apply_alignment(start, frame(rotation, shift_angstrom=(1.3, -0.4, 0.7)))
    moved_back = -torch.tensor([1.3, -0.4, 0.7]) @ rotation
    back = apply_alignment(there, frame(rotation.T, shift_angstrom=moved_back))
    found = fourier_shell_correlation(back, start, poses="truth").correlation
    limit = int(0.9 * (box // 2))
    assert found[1 : limit + 1].min() > 0.99
    assert found[1 : box // 4 + 1].min() > 0.998


@BOXES
@HANDS
def test_the_centre_voxel_stays_the_centre(box, sign, generator):
    blob = gaussian_density(torch.zeros(1, 3).double(), box)
    for rotation in random_rotations(5, generator):
        turned = apply_alignment(blob, frame(rotation, mirrored=sign < 0))
        assert relative_error(turned.values, blob.values) < 0.003


@BOXES
def test_whole_voxel_shifts_move_the_array(box, generator):
    start = gaussian_density(random_positions(10, box, generator, reach=0.2), box, sigma_px=1.5)
    shift_angstrom = torch.tensor([2.0, -3.0, 1.0]) * VOXEL_SIZE_ANGSTROM
    found = apply_alignment(start, frame(torch.eye(3), shift_angstrom=shift_angstrom))
    expected = start.values.roll((1, -3, 2), (0, 1, 2))
    assert relative_error(found.values, expected) < 0.003


@BOXES
def test_the_other_hand_keeps_the_centre_and_undoes_itself(box, generator):
    position = random_positions(20, box, generator)
    start = gaussian_density(position, box)
    mirrored = mirror_density(start)
    expected = gaussian_density(position * torch.tensor([1.0, 1.0, -1.0]), box)
    torch.testing.assert_close(mirrored.values, expected.values, atol=1e-6, rtol=1e-5)
    assert torch.equal(mirror_density(mirrored).values, start.values)


@HANDS
def test_poses_follow_the_map_so_that_points_stay_where_they_are_in_the_images(sign, generator):
    position = random_positions(30, 64, generator) * VOXEL_SIZE_ANGSTROM
    rotation, hand, shift = random_frame(64, generator, sign=sign)
    poses = PoseSet(
        rotation=orthonormalise(random_rotations(7, generator).double()),
        shift_angstrom=torch.randn(7, 2, generator=generator).double(),
    )
    moved = align_pose_frame(poses, frame(rotation, shift_angstrom=shift, mirrored=sign < 0))
    moved_position = position @ (rotation @ hand).T + shift

    def image_points(p: torch.Tensor, poses: PoseSet) -> torch.Tensor:
        return (p @ poses.rotation.mT)[..., :2] + poses.shift_angstrom[:, None]

    torch.testing.assert_close(image_points(moved_position, moved), image_points(position, poses))


def test_spline_values_between_samples_are_the_transform_summed_directly(box, generator):
    array = torch.randn(box, box, box, generator=generator).double()
    points = (torch.rand(20, 3, generator=generator).double() - 0.5) * box
    axis = torch.arange(box).double() - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    grid = torch.stack([x, y, z], dim=-1).flatten(0, 2)
    phase = 2 * torch.pi * points @ grid.T / box
    expected = (phase.cos() + phase.sin()) @ array.flatten() / box**1.5
    found = sample_spline(transform_to_spline(array), points)
    # Full power up to the very corner of the band, where the kernel's alias is largest.
    assert relative_error(found, expected) < 0.01
