import math

import pytest
import torch

from cryogimbal.data.poses import PoseSet
from cryogimbal.errors import InputError
from cryogimbal.evaluation.pose_alignment import align_poses
from cryogimbal.evaluation.pose_error import pose_errors
from cryogimbal.rotations import (
    geodesic_distance_rad,
    mirror_rotation,
    random_rotations,
    rotvec_to_rotation,
)
from cryogimbal.symmetry import symmetry_group

HANDS = pytest.mark.parametrize("sign", [1.0, -1.0], ids=["same_hand", "mirrored"])


def random_poses(n: int, generator: torch.Generator) -> PoseSet:
    return PoseSet(
        rotation=random_rotations(n, generator),
        shift_angstrom=5 * torch.randn(n, 2, generator=generator),
    )


def seen_from_another_frame(
    true: PoseSet, rotation: torch.Tensor, origin: torch.Tensor, sign: float
) -> PoseSet:
    """Poses of the same images for a particle turned, moved and perhaps mirrored."""
    turned = true.rotation @ rotation
    shift = true.shift_angstrom + (true.rotation @ origin)[:, :2]
    return PoseSet(rotation=mirror_rotation(turned) if sign < 0 else turned, shift_angstrom=shift)


def degrees_apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return math.degrees(geodesic_distance_rad(a.double(), b.double()))


def small_rotations(n: int, spread_deg: float, generator: torch.Generator) -> torch.Tensor:
    return rotvec_to_rotation(math.radians(spread_deg) * torch.randn(n, 3, generator=generator))


@HANDS
@pytest.mark.parametrize("n", [1, 2, 5, 2000])
def test_a_change_of_frame_is_recovered(sign, n, generator):
    true = random_poses(n, generator)
    rotation, origin = random_rotations(1, generator)[0], torch.tensor([3.0, -7.0, 1.5])
    estimated = seen_from_another_frame(true, rotation, origin, sign)
    errors = pose_errors(estimated, true)
    assert errors.rotation_error_deg.max() < 0.01
    assert errors.shift_error_angstrom.max() < 1e-3
    if n > 2:
        # One or two relative rotations fit both hands.
        assert errors.mirrored == (sign < 0)
        assert degrees_apart(errors.alignment.rotation, rotation) < 0.01
        torch.testing.assert_close(
            errors.alignment.shift_angstrom.float(), origin, atol=1e-3, rtol=0
        )


@HANDS
def test_half_of_the_poses_may_be_anything(sign, generator):
    true = random_poses(1000, generator)
    rotation, origin = random_rotations(1, generator)[0], torch.tensor([2.0, 4.0, -6.0])
    estimated = seen_from_another_frame(true, rotation, origin, sign)
    estimated.rotation[::2] = random_rotations(500, generator)
    estimated.shift_angstrom[::2] += 20 * torch.randn(500, 2, generator=generator)
    found = align_poses(estimated, true)
    assert found.mirrored == (sign < 0)
    assert degrees_apart(found.rotation, rotation) < 0.01
    torch.testing.assert_close(found.shift_angstrom.float(), origin, atol=0.01, rtol=0)
    assert 0.5 <= found.score < 0.53


def test_the_larger_of_two_modes_wins(generator):
    # A near two-fold axis: 45 % of the poses sit on the other mode, the rest scatter by 3 degrees.
    true = random_poses(2000, generator)
    half_turn = rotvec_to_rotation(torch.tensor([0.0, 0.0, math.radians(178.0)]))
    rotation = random_rotations(1, generator)[0]
    wrong = torch.rand(2000, generator=generator) < 0.45
    chosen = torch.where(wrong[:, None, None], true.rotation @ half_turn, true.rotation)
    scatter = small_rotations(2000, 3.0, generator)
    estimated = PoseSet(rotation=scatter @ chosen @ rotation, shift_angstrom=true.shift_angstrom)
    errors = pose_errors(estimated, true)
    assert degrees_apart(errors.alignment.rotation, rotation) < 0.4
    assert abs(errors.alignment.score - float((~wrong).double().mean())) < 0.01
    assert errors.rotation_error_deg[wrong].min() > 150


def test_gaussian_scatter_averages_out(generator):
    # The mean of n errors of s degrees per axis is within about s sqrt(3 / n) of the truth; the L1
    # mean has somewhat more variance.
    n, spread_deg = 3000, 6.0
    true = random_poses(n, generator)
    rotation = random_rotations(1, generator)[0]
    scatter = small_rotations(n, spread_deg, generator)
    estimated = PoseSet(
        rotation=scatter @ true.rotation @ rotation, shift_angstrom=true.shift_angstrom
    )
    found = align_poses(estimated, true)
    assert degrees_apart(found.rotation, rotation) < 3 * spread_deg * math.sqrt(3 / n)


def test_views_along_one_axis_leave_the_origin_there_at_zero(generator):
    in_plane = torch.rand(50, generator=generator) * 2 * math.pi
    rotation = rotvec_to_rotation(in_plane[:, None] * torch.tensor([0.0, 0.0, 1.0]))
    true = PoseSet(rotation=rotation, shift_angstrom=torch.zeros(50, 2))
    estimated = seen_from_another_frame(true, torch.eye(3), torch.tensor([1.0, 2.0, 9.0]), 1.0)
    found = align_poses(estimated, true)
    torch.testing.assert_close(
        found.shift_angstrom.float(), torch.tensor([1.0, 2.0, 0.0]), atol=1e-4, rtol=0
    )


def test_unrelated_poses_still_give_a_finite_answer(generator):
    errors = pose_errors(random_poses(200, generator), random_poses(200, generator))
    assert errors.rotation_error_deg.isfinite().all()
    # The mean angle between unrelated rotations is 90 + 360 / pi^2 = 126.5 degrees.
    assert 100 < errors.rotation_error_deg.mean() < 140


def test_the_same_call_gives_the_same_bits(generator):
    true, estimated = random_poses(300, generator), random_poses(300, generator)
    first, second = align_poses(estimated, true), align_poses(estimated, true)
    assert torch.equal(first.rotation, second.rotation)
    assert torch.equal(first.shift_angstrom, second.shift_angstrom)


def test_tables_of_different_length_are_refused(generator):
    with pytest.raises(InputError, match=r"3 estimated poses and 4 true poses"):
        align_poses(random_poses(3, generator), random_poses(4, generator))
    with pytest.raises(InputError, match=r"0 estimated poses and 0 true poses"):
        align_poses(random_poses(0, generator), random_poses(0, generator))


@HANDS
@pytest.mark.parametrize("name", ["C3", "C20", "D7", "I"])
def test_poses_that_look_the_same_are_equal(name, sign, generator):
    group = symmetry_group(name)
    true = random_poses(600, generator)
    rotation, origin = random_rotations(1, generator)[0], torch.tensor([3.0, -7.0, 1.5])
    chosen = torch.randint(group.order, (600,), generator=generator)
    same = PoseSet(
        rotation=small_rotations(600, 2.0, generator)
        @ true.rotation
        @ group.operators.float()[chosen],
        shift_angstrom=true.shift_angstrom,
    )
    estimated = seen_from_another_frame(same, rotation, origin, sign)
    # A fifth may be anything.
    estimated.rotation[::5] = random_rotations(120, generator)
    right = torch.arange(600) % 5 > 0
    errors = pose_errors(estimated, true, group=group)
    # Three numbers of standard deviation 2 have a length of 3.1 (median); seldom more than 9.
    assert errors.mirrored == (sign < 0)
    assert errors.rotation_error_deg[right].median() == pytest.approx(3.1, abs=0.4)
    assert errors.rotation_error_deg[right].max() < 9
    assert errors.shift_error_angstrom[right].median() < 1.0
    assert errors.to_dict()["symmetry"] == name
    # The frame is one of those that the group makes equal.
    frames = group.operators @ rotation.double()
    apart = geodesic_distance_rad(errors.alignment.rotation.expand_as(frames), frames)
    assert math.degrees(float(apart.min())) < 0.7
    assert pose_errors(estimated, true).rotation_error_deg[right].median() > 15
