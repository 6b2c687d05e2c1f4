import json
import math

import torch

from cryogimbal.data.poses import PoseSet
from cryogimbal.evaluation.alignment import Alignment
from cryogimbal.evaluation.pose_error import pose_errors
from cryogimbal.rotations import orthonormalise, random_rotations, rotvec_to_rotation

SAME_FRAME = Alignment(
    rotation=torch.eye(3).double(),
    shift_angstrom=torch.zeros(3).double(),
    mirrored=False,
    score=1.0,
)


def poses(rotation: torch.Tensor, shift_angstrom: torch.Tensor | None = None) -> PoseSet:
    shift = torch.zeros(len(rotation), 2) if shift_angstrom is None else shift_angstrom
    return PoseSet(rotation=rotation, shift_angstrom=shift.to(rotation.dtype))


def exact_rotations(n: int, generator: torch.Generator) -> torch.Tensor:
    return orthonormalise(random_rotations(n, generator).double())


def test_the_angle_is_that_of_the_frobenius_norm(generator):
    a, b = exact_rotations(100, generator), exact_rotations(100, generator)
    found = pose_errors(poses(a), poses(b), alignment=SAME_FRAME).rotation_error_deg
    chord = (a - b).square().sum((-2, -1))
    torch.testing.assert_close(found, torch.rad2deg(2 * torch.asin((chord / 8).sqrt())))
    # The same angle from the trace: 1 + 2 cos = tr(A B^T).
    cosine = ((a * b).sum((-2, -1)) - 1) / 2
    torch.testing.assert_close(found, torch.rad2deg(torch.acos(cosine)), atol=1e-5, rtol=0)


def test_a_known_turn_has_its_own_angle(generator):
    true = exact_rotations(6, generator)
    angle_deg = torch.tensor([1e-4, 0.1, 5.0, 60.0, 120.0, 180.0]).double()
    axis = torch.nn.functional.normalize(torch.randn(6, 3, generator=generator).double(), dim=-1)
    turned = rotvec_to_rotation(torch.deg2rad(angle_deg)[:, None] * axis) @ true
    found = pose_errors(poses(turned), poses(true), alignment=SAME_FRAME)
    torch.testing.assert_close(found.rotation_error_deg, angle_deg, atol=1e-5, rtol=0)


def test_turns_in_the_image_plane_leave_the_view_direction(generator):
    true = exact_rotations(20, generator)
    angle = torch.linspace(-3, 3, 20).double()
    in_plane = rotvec_to_rotation(angle[:, None] * torch.tensor([0.0, 0.0, 1.0]).double())
    found = pose_errors(poses(in_plane @ true), poses(true), alignment=SAME_FRAME)
    assert found.view_direction_error_deg.max() < 1e-5
    torch.testing.assert_close(
        found.rotation_error_deg, torch.rad2deg(angle.abs()), atol=1e-5, rtol=0
    )
    # A turn about an axis in the image plane moves the view by its whole angle.
    tilt = rotvec_to_rotation(angle[:, None] * torch.tensor([0.6, 0.8, 0.0]).double())
    found = pose_errors(poses(tilt @ true), poses(true), alignment=SAME_FRAME)
    torch.testing.assert_close(found.view_direction_error_deg, torch.rad2deg(angle.abs()))


def test_the_summary_counts_as_it_says():
    angle_deg = torch.arange(1.0, 12.0).double()
    rotvec = torch.deg2rad(angle_deg)[:, None] * torch.tensor([1.0, 0.0, 0.0]).double()
    true = poses(torch.eye(3).double().repeat(11, 1, 1))
    shifted = poses(rotvec_to_rotation(rotvec), torch.tensor([[3.0, 4.0]]).repeat(11, 1))
    found = pose_errors(shifted, true, alignment=SAME_FRAME).to_dict()
    expected = {
        "n_particles": 11,
        "rotation_error_mean_deg": 6.0,
        "rotation_error_median_deg": 6.0,
        "rotation_error_90th_percentile_deg": 10.0,
        "rotation_error_fraction_within_5_deg": 4 / 11,
        "view_direction_error_mean_deg": 6.0,
        "view_direction_error_median_deg": 6.0,
        "shift_error_mean_angstrom": 5.0,
        "shift_error_median_angstrom": 5.0,
    }
    for key, value in expected.items():
        # The fifth angle is 5 degrees within rounding, on either side.
        tolerance = 1 / 11 + 1e-9 if "within" in key else 1e-9
        assert math.isclose(found[key], value, abs_tol=tolerance), key
    assert found["mirrored"] is False
    assert json.loads(json.dumps(found)) == found
