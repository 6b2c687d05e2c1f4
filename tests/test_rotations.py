import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryogimbal.rotations import (
    cross_matrix,
    euler_zyz_deg_to_rotation,
    geodesic_distance_deg,
    geodesic_distance_rad,
    mirror_rotation,
    nearer_than_deg,
    orthonormalise,
    random_rotations,
    rotation_grid,
    rotation_to_euler_zyz_deg,
    rotation_to_rotvec,
    rotvec_to_rotation,
    six_d_to_rotation,
    sphere_grid,
)

DTYPES = [torch.float32, torch.float64]
SMALL_AND_LARGE_ANGLES_RAD = [0.0, 1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 0.049, 0.051, 0.1, 1.0, 3.0]


def random_angles_deg(n: int, generator: torch.Generator) -> Tensor:
    """rot and psi in [-180, 180), tilt in [0, 180)."""
    unit = torch.rand(n, 3, generator=generator, dtype=torch.float64)
    return (unit - torch.tensor([0.5, 0.0, 0.5])) * torch.tensor([360.0, 180.0, 360.0])


def random_axes(n: int, generator: torch.Generator) -> Tensor:
    return torch.nn.functional.normalize(
        torch.randn(n, 3, generator=generator, dtype=torch.float64), dim=-1
    )


def worst_distance_deg(a: Tensor, b: Tensor) -> float:
    return float(geodesic_distance_deg(a.double(), b.double()).max())


def assert_rotations(rotation: Tensor, tolerance: float) -> None:
    eye = torch.eye(3, dtype=rotation.dtype).expand_as(rotation)
    torch.testing.assert_close(rotation @ rotation.mT, eye, atol=tolerance, rtol=0)
    assert bool((torch.linalg.det(rotation) > 0).all())


# --- Euler angles ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_worked_example(dtype: torch.dtype) -> None:
    rotation = euler_zyz_deg_to_rotation(torch.tensor([30.0, 60.0, 45.0], dtype=dtype))
    expected = [
        [-0.047367, 0.789149, -0.612372],
        [-0.659740, 0.435596, 0.612372],
        [0.750000, 0.433013, 0.500000],
    ]
    torch.testing.assert_close(rotation, torch.tensor(expected, dtype=dtype), atol=1e-6, rtol=0)


def test_euler_angles_are_the_transpose_of_scipys(generator: torch.Generator) -> None:
    angles = random_angles_deg(200, generator)
    theirs = Rotation.from_euler("ZYZ", angles.numpy(), degrees=True).as_matrix()
    ours = euler_zyz_deg_to_rotation(angles)
    torch.testing.assert_close(ours, torch.from_numpy(theirs).mT, atol=1e-14, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_euler_angles_come_back(dtype: torch.dtype, generator: torch.Generator) -> None:
    angles = random_angles_deg(500, generator)
    angles = angles[(angles[:, 1] > 1) & (angles[:, 1] < 179)].to(dtype)
    back = rotation_to_euler_zyz_deg(euler_zyz_deg_to_rotation(angles))
    assert back.dtype == dtype
    error = (back - angles + 180).remainder(360) - 180
    assert float(error.abs().max()) < (1e-2 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("from_pole_deg", [0.0, 1e-6, 1e-4, 1.2e-4, 1e-3, 0.01, 0.1])
@pytest.mark.parametrize("pole_deg", [0.0, 180.0])
def test_rotations_come_back_near_the_poles(
    dtype: torch.dtype, from_pole_deg: float, pole_deg: float, generator: torch.Generator
) -> None:
    angles = random_angles_deg(300, generator)
    angles[:, 1] = abs(pole_deg - from_pole_deg)
    # A product of rotations: its entries carry rounding errors that do not know the pole.
    turn = random_rotations(300, generator).to(dtype)
    rotation = turn.mT @ (turn @ euler_zyz_deg_to_rotation(angles).to(dtype))
    angles = rotation_to_euler_zyz_deg(rotation)
    assert bool(((angles[:, 1] >= 0) & (angles[:, 1] <= 180)).all())
    # Polar angles are snapped within 2e-6 rad, 1.2e-4 degrees.
    assert worst_distance_deg(euler_zyz_deg_to_rotation(angles), rotation) < 2e-4


@pytest.mark.parametrize(("tilt", "psi_sign"), [(0.0, 1), (180.0, -1)])
def test_at_the_poles_rot_is_zero(tilt: float, psi_sign: int) -> None:
    angles = torch.tensor([20.0, tilt, 50.0], dtype=torch.float64)
    expected = torch.tensor([0.0, tilt, 50.0 + psi_sign * 20.0], dtype=torch.float64)
    found = rotation_to_euler_zyz_deg(euler_zyz_deg_to_rotation(angles))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_the_third_row_is_the_view_direction(generator: torch.Generator) -> None:
    angles = random_angles_deg(50, generator)
    rot, tilt, _ = torch.deg2rad(angles).unbind(-1)
    direction = torch.stack([tilt.sin() * rot.cos(), tilt.sin() * rot.sin(), tilt.cos()], dim=-1)
    torch.testing.assert_close(euler_zyz_deg_to_rotation(angles)[:, 2], direction)


# --- rotation vectors ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("angle_rad", [*SMALL_AND_LARGE_ANGLES_RAD, math.pi, 5.0])
def test_exponential_equals_scipys(
    dtype: torch.dtype, angle_rad: float, generator: torch.Generator
) -> None:
    rotvec = (random_axes(100, generator) * angle_rad).to(dtype)
    ours = rotvec_to_rotation(rotvec)
    theirs = torch.from_numpy(Rotation.from_rotvec(rotvec.double().numpy()).as_matrix())
    # The error of the turn itself, not only of entries near 1: the antisymmetric part is the turn.
    for part in (lambda a: a, lambda a: a - a.mT):
        error = (part(ours.double()) - part(theirs)).abs().max()
        scale = 1.0 if angle_rad > 0.1 or part(theirs).abs().max() > 0.9 else angle_rad
        assert float(error) <= 4 * torch.finfo(dtype).eps * scale


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("angle_rad", SMALL_AND_LARGE_ANGLES_RAD)
def test_derivative_of_the_exponential_equals_differences(
    dtype: torch.dtype, angle_rad: float, generator: torch.Generator
) -> None:
    rotvec = (random_axes(1, generator)[0] * angle_rad).to(dtype)
    found = torch.autograd.functional.jacobian(rotvec_to_rotation, rotvec)
    step = 1e-5
    steps = step * torch.eye(3, dtype=torch.float64)
    at = rotvec.double() + torch.cat([steps, -steps])
    values = torch.from_numpy(Rotation.from_rotvec(at.numpy()).as_matrix())
    expected = ((values[:3] - values[3:]) / (2 * step)).permute(1, 2, 0)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=0)


def test_derivative_at_zero_is_the_cross_product() -> None:
    found = torch.autograd.functional.jacobian(rotvec_to_rotation, torch.zeros(3))
    for axis in range(3):
        torch.testing.assert_close(found[..., axis], cross_matrix(torch.eye(3)[axis]))


def test_cross_matrix(generator: torch.Generator) -> None:
    v, u = torch.randn(2, 20, 3, generator=generator, dtype=torch.float64)
    found = (cross_matrix(v) @ u[..., None]).squeeze(-1)
    torch.testing.assert_close(found, torch.linalg.cross(v, u))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("angle_rad", [*SMALL_AND_LARGE_ANGLES_RAD, math.pi - 1e-3])
def test_rotation_vectors_come_back(
    dtype: torch.dtype, angle_rad: float, generator: torch.Generator
) -> None:
    rotvec = (random_axes(100, generator) * angle_rad).to(dtype)
    back = rotation_to_rotvec(rotvec_to_rotation(rotvec))
    torch.testing.assert_close(back, rotvec, atol=20 * torch.finfo(dtype).eps, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_turns_come_back_as_rotations(dtype: torch.dtype, generator: torch.Generator) -> None:
    # The vector of a half turn is defined up to its sign only.
    rotation = rotvec_to_rotation((random_axes(100, generator) * math.pi).to(dtype))
    again = rotvec_to_rotation(rotation_to_rotvec(rotation))
    torch.testing.assert_close(again, rotation, atol=20 * torch.finfo(dtype).eps, rtol=0)


def test_turns_about_one_axis_add_up(generator: torch.Generator) -> None:
    axis = random_axes(50, generator)
    product = rotvec_to_rotation(0.7 * axis) @ rotvec_to_rotation(1.1 * axis)
    torch.testing.assert_close(product, rotvec_to_rotation(1.8 * axis))
    torch.testing.assert_close(rotvec_to_rotation(-0.7 * axis), rotvec_to_rotation(0.7 * axis).mT)


# --- making rotations ---


def from_rotvec(n: int, generator: torch.Generator) -> Tensor:
    return rotvec_to_rotation(3 * torch.randn(n, 3, generator=generator))


def from_euler(n: int, generator: torch.Generator) -> Tensor:
    return euler_zyz_deg_to_rotation(random_angles_deg(n, generator).float())


def from_six_d(n: int, generator: torch.Generator) -> Tensor:
    return six_d_to_rotation(torch.randn(n, 6, generator=generator))


def from_worn(n: int, generator: torch.Generator) -> Tensor:
    worn = random_rotations(n, generator) + 0.01 * torch.randn(n, 3, 3, generator=generator)
    return orthonormalise(worn)


@pytest.mark.parametrize("make", [random_rotations, from_rotvec, from_euler, from_six_d, from_worn])
def test_all_ways_make_rotations(
    make: Callable[[int, torch.Generator], Tensor], generator: torch.Generator
) -> None:
    assert_rotations(make(1000, generator), 5e-6)


def test_six_d_keeps_its_first_direction_and_its_plane(generator: torch.Generator) -> None:
    six_d = torch.randn(100, 6, generator=generator, dtype=torch.float64)
    rotation = six_d_to_rotation(six_d)
    first, second = six_d[:, :3], six_d[:, 3:]
    torch.testing.assert_close(rotation[:, :, 0], torch.nn.functional.normalize(first, dim=-1))
    normal = torch.linalg.cross(first, second)
    torch.testing.assert_close(rotation[:, :, 2], torch.nn.functional.normalize(normal, dim=-1))
    columns = rotation[:, :, :2].mT.flatten(1)
    torch.testing.assert_close(six_d_to_rotation(2.5 * columns), rotation)


def test_orthonormalise_finds_the_nearest_rotation(generator: torch.Generator) -> None:
    rotation = random_rotations(100, generator).double()
    # A symmetric stretch of a rotation has that rotation as its polar factor.
    stretch = 0.05 * torch.randn(100, 3, 3, generator=generator, dtype=torch.float64)
    worn = rotation @ (torch.eye(3, dtype=torch.float64) + stretch + stretch.mT)
    torch.testing.assert_close(orthonormalise(worn), orthonormalise(rotation))


# --- distance ---


@pytest.mark.parametrize("angle_rad", [*SMALL_AND_LARGE_ANGLES_RAD, math.pi])
def test_distance_is_the_angle_between(angle_rad: float, generator: torch.Generator) -> None:
    start = orthonormalise(random_rotations(100, generator).double())
    end = rotvec_to_rotation(random_axes(100, generator) * angle_rad) @ start
    found = geodesic_distance_rad(start, end)
    # The arc sine is flat at pi: half of the digits are lost there.
    tolerance = 1e-14 if angle_rad < 3 else 1e-7
    torch.testing.assert_close(found, torch.full_like(found, angle_rad), atol=tolerance, rtol=1e-7)
    torch.testing.assert_close(geodesic_distance_deg(start, end), torch.rad2deg(found))
    # ... which is 2 asin(|dR|_F / sqrt 8), Frobenius norm by hand.
    chord = (start - end).square().sum((-2, -1)).sqrt()
    by_hand = 2 * torch.asin((chord / math.sqrt(8)).clamp(max=1))
    torch.testing.assert_close(found, by_hand, atol=1e-7, rtol=1e-12)


def test_distance_is_symmetric_invariant_and_a_metric(generator: torch.Generator) -> None:
    a, b, c = orthonormalise(random_rotations(300, generator).double()).split(100)
    d = geodesic_distance_rad(a, b)
    torch.testing.assert_close(geodesic_distance_rad(b, a), d)
    torch.testing.assert_close(geodesic_distance_rad(c @ a, c @ b), d, atol=1e-6, rtol=0)
    torch.testing.assert_close(geodesic_distance_rad(a @ c, b @ c), d, atol=1e-6, rtol=0)
    torch.testing.assert_close(geodesic_distance_rad(a.mT, b.mT), d)
    assert bool((geodesic_distance_rad(a, c) <= d + geodesic_distance_rad(b, c) + 1e-6).all())


# --- sets of rotations ---


def test_random_rotations_are_uniform(generator: torch.Generator) -> None:
    n = 20000
    rotation = random_rotations(n, generator).double()
    # Haar measure: entries have mean 0 and variance 1/3 and are uncorrelated; the angle has the
    # distribution function (t - sin t) / pi.
    entries = rotation.flatten(1)
    assert float(entries.mean(0).abs().max()) < 5 * math.sqrt(1 / 3 / n)
    covariance = entries.T @ entries / n
    expected = torch.eye(9, dtype=torch.float64) / 3
    torch.testing.assert_close(covariance, expected, atol=5 * math.sqrt(1 / 5 / n), rtol=0)
    eye = torch.eye(3, dtype=torch.float64).expand(n, 3, 3)
    angle = geodesic_distance_rad(rotation, eye).sort().values
    reached = (angle - angle.sin()) / math.pi
    steps = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    # Kolmogorov-Smirnov at a significance of 1e-6.
    assert float((reached - steps).abs().max()) < 2.7 / math.sqrt(n)


def test_random_rotations_follow_their_generator() -> None:
    first, again = (random_rotations(5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, random_rotations(5, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("n_side", [1, 2, 4, 8])
def test_sphere_grid_is_balanced_and_of_equal_areas(
    n_side: int, generator: torch.Generator
) -> None:
    points = sphere_grid(n_side)
    assert points.shape == (12 * n_side**2, 3)
    torch.testing.assert_close(points.norm(dim=-1), torch.ones(len(points)))
    torch.testing.assert_close(points.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    # Second moments of the sphere are 1/3; of the pixel centres nearly so.
    moments = points.T @ points / len(points)
    torch.testing.assert_close(moments, torch.eye(3) / 3, atol=0.08 / n_side**2, rtol=0)


@pytest.mark.parametrize("n_side", [1, 2, 4])
def test_rotation_grid_covers_all_rotations(n_side: int, generator: torch.Generator) -> None:
    grid = rotation_grid(n_side)
    n_in_plane = 6 * n_side
    assert grid.shape == (12 * n_side**2 * n_in_plane, 3, 3)
    assert_rotations(grid, 1e-6)
    wanted = random_rotations(2000, generator)
    trace = grid.flatten(1) @ wanted.flatten(1).T
    nearest_rad = torch.acos(((trace.max(0).values - 1) / 2).clamp(-1, 1))
    # The direction is within a pixel's reach, the turn about it within half a step; at right angles
    # cos(d / 2) = cos(b / 2) cos(g / 2).
    directions = sphere_grid(n_side) @ wanted[:, 2].T
    reach_rad = torch.acos(directions.max(0).values.clamp(-1, 1))
    half_step_rad = math.pi / n_in_plane
    bound = 2 * torch.acos(torch.cos(reach_rad / 2) * math.cos(half_step_rad / 2))
    assert bool((nearest_rad <= bound + 1e-3).all())
    # HEALPix pixels reach 0.84 / n_side rad at most (48 degrees at n_side 1).
    assert float(reach_rad.max()) < 0.85 / n_side
    assert float(nearest_rad.max()) < math.radians(60 / n_side)


def test_rotation_grid_keeps_its_members_apart() -> None:
    n_side = 2
    grid = rotation_grid(n_side).double()
    trace = grid.flatten(1) @ grid.flatten(1).T
    trace.fill_diagonal_(-1)
    nearest_deg = np.degrees(np.arccos((trace.max(0).values.numpy() - 1) / 2))
    assert nearest_deg.min() > 0.6 * 60 / n_side


# --- hand ---


def test_mirrored_poses_have_turned_euler_angles(generator: torch.Generator) -> None:
    angles = random_angles_deg(100, generator)
    mirrored = mirror_rotation(euler_zyz_deg_to_rotation(angles))
    turned = angles + torch.tensor([180.0, 0.0, 180.0], dtype=torch.float64)
    torch.testing.assert_close(mirrored, euler_zyz_deg_to_rotation(turned))
    found = rotation_to_euler_zyz_deg(
        mirror_rotation(euler_zyz_deg_to_rotation(torch.tensor([30.0, 60.0, 45.0])))
    )
    torch.testing.assert_close(found, torch.tensor([-150.0, 60.0, -135.0]), atol=1e-4, rtol=0)


def test_mirroring_twice_is_nothing_and_respects_products(generator: torch.Generator) -> None:
    a, b = random_rotations(40, generator).split(20)
    assert torch.equal(mirror_rotation(mirror_rotation(a)), a)
    torch.testing.assert_close(mirror_rotation(a @ b), mirror_rotation(a) @ mirror_rotation(b))


def test_a_mirrored_particle_shows_the_same_image_at_the_mirrored_pose(
    generator: torch.Generator,
) -> None:
    points = torch.randn(30, 3, generator=generator)
    rotation = random_rotations(10, generator)
    mirror = torch.tensor([1.0, 1.0, -1.0])
    image = points @ rotation.mT
    other_image = (points * mirror) @ mirror_rotation(rotation).mT
    torch.testing.assert_close(other_image[..., :2], image[..., :2])


def test_rotations_near_each_other_are_those_within_the_angle(generator: torch.Generator) -> None:
    rotation = random_rotations(40, generator).double()
    distance = geodesic_distance_deg(*torch.broadcast_tensors(rotation[:, None], rotation))
    for angle_deg in (30.0, 90.0, 170.0):
        assert torch.equal(nearer_than_deg(rotation, angle_deg), distance < angle_deg)
