"""SO(3) for particle poses: parametrisations, distances, random and regular sets.

A ``rotation`` is RELION's matrix A: it takes the volume frame to the image frame, so the point p of
the particle appears at ``(A p)_xy`` and the slice point q (a row) samples the spectrum at ``q @ A``.
"""

import math
from typing import Literal

import astropy_healpix
import numpy
import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

Mirror = Literal["z", "centre"]
"""How the hand is changed: in the plane through the centre across z, or through the centre itself. Both
give the same mirror image, half a turn about z apart."""

# Below this angle (rad) the closed forms lose digits in float32 and the series is exact to 1e-9.
SERIES_ANGLE_RAD = 0.05


def euler_zyz_deg_to_rotation(angles: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3 3"]:
    """Rotation of RELION's rot, tilt, psi in degrees: ``A = Rz(psi)^T Ry(tilt)^T Rz(rot)^T``."""
    rot, tilt, psi = torch.deg2rad(angles).unbind(-1)
    ca, sa, cb, sb, cg, sg = (
        f(angle) for angle in (rot, tilt, psi) for f in (torch.cos, torch.sin)
    )
    rows = [
        [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
        [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
        [sb * ca, sb * sa, cb],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def rotation_to_euler_zyz_deg(rotation: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3"]:
    """rot, tilt, psi in degrees, tilt in [0, 180]; at the poles rot is 0, as RELION has it.

    psi follows from rot: ``A (-sin rot, cos rot, 0) = (sin psi, cos psi, 0)`` at every tilt. Near a
    pole rot and psi are hardly defined each, but their sum is; read apart from the matrix they would
    lose it to rounding (0.7 degrees in float32 at a tilt of 0.001 degrees).
    """
    a = rotation.double()
    sin_tilt = torch.hypot(a[..., 0, 2], a[..., 1, 2])
    tilt = torch.atan2(sin_tilt, a[..., 2, 2])
    polar = sin_tilt < 2e-6
    pole = math.pi * (a[..., 2, 2] < 0).double()
    tilt = torch.where(polar, pole, tilt)
    rot = torch.where(polar, 0.0, torch.atan2(a[..., 2, 1], a[..., 2, 0]))
    node = torch.stack([-rot.sin(), rot.cos()], dim=-1)
    psi = torch.atan2((a[..., 0, :2] * node).sum(-1), (a[..., 1, :2] * node).sum(-1))
    return torch.rad2deg(torch.stack([rot, tilt, psi], dim=-1)).to(rotation.dtype)


def rotvec_to_rotation(rotvec: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3 3"]:
    """Rotation by ``|rotvec|`` radians about ``rotvec``, with stable values and derivatives.

    ``exp(w^) = I + a w^ + b (w w^T - |w|^2 I)`` with ``a = sin t / t`` and ``b = (1 - cos t) / t^2``
    (Rodrigues). Near zero both are replaced by their series, which autograd differentiates cleanly
    (the paper's supplement A; Panetta 2018).
    """
    squared = rotvec.square().sum(-1)
    small = squared < SERIES_ANGLE_RAD**2
    # The unused branch must stay finite: its gradient is multiplied by zero, not dropped.
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    a = torch.where(
        small, 1 - squared / 6 * (1 - squared / 20 * (1 - squared / 42)), angle.sin() / angle
    )
    b = torch.where(
        small,
        0.5 - squared / 24 * (1 - squared / 30 * (1 - squared / 56)),
        (1 - angle.cos()) / angle.square(),
    )
    eye = torch.eye(3, dtype=rotvec.dtype, device=rotvec.device)
    outer = rotvec[..., :, None] * rotvec[..., None, :]
    diagonal = (1 - b * squared)[..., None, None] * eye
    return diagonal + a[..., None, None] * cross_matrix(rotvec) + b[..., None, None] * outer


def rotation_to_rotvec(rotation: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3"]:
    """Axis times angle in radians, the inverse of :func:`rotvec_to_rotation` up to pi."""
    return roma.rotmat_to_rotvec(rotation)


def cross_matrix(vector: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3 3"]:
    """The matrix ``v^`` with ``v^ u = v x u``."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    entries = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1)
    return entries.unflatten(-1, (3, 3))


def six_d_to_rotation(six_d: Float[Tensor, "*n 6"]) -> Float[Tensor, "*n 3 3"]:
    """Gram-Schmidt of two 3-vectors (Zhou et al. 2019): continuous, so a network can learn it."""
    return roma.special_gramschmidt(six_d.unflatten(-1, (2, 3)).transpose(-1, -2))


def orthonormalise(rotation: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3 3"]:
    """The nearest rotation of any matrix, by singular values."""
    nearest = roma.special_procrustes(rotation)
    assert isinstance(nearest, Tensor)
    return nearest


def polish_rotation(rotation: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3 3"]:
    """Remove what float32 products have accumulated, by one Newton step ``R (3 I - R^T R) / 2``.

    For a matrix within e of a rotation the result is within about ``e^2``; it is not meant for others.
    """
    gram = rotation.transpose(-1, -2) @ rotation
    eye = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    return rotation @ (1.5 * eye - 0.5 * gram)


def random_rotations(n: int, generator: torch.Generator) -> Float[Tensor, "n 3 3"]:
    """Uniform over SO(3): unit quaternions from four normal numbers each."""
    quaternion = torch.randn(n, 4, generator=generator, device=generator.device)
    return roma.unitquat_to_rotmat(torch.nn.functional.normalize(quaternion, dim=-1))


def geodesic_distance_rad(
    a: Float[Tensor, "*n 3 3"], b: Float[Tensor, "*n 3 3"]
) -> Float[Tensor, "*n"]:
    """Angle of the rotation from a to b, ``2 asin(|a - b|_F / (2 sqrt 2))``, good near zero too."""
    chord = torch.linalg.matrix_norm(a - b) / (2 * math.sqrt(2))
    return 2 * torch.asin(chord.clamp(max=1.0))


def geodesic_distance_deg(
    a: Float[Tensor, "*n 3 3"], b: Float[Tensor, "*n 3 3"]
) -> Float[Tensor, "*n"]:
    """The same angle in degrees, for records that people read."""
    return torch.rad2deg(geodesic_distance_rad(a, b))


def angle_deg(angle_rad: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The same angles in degrees, for what people read."""
    return torch.rad2deg(angle_rad)


def nearer_than_deg(
    rotation: Float[Tensor, "*n m 3 3"],
    angle_deg: float,
    other: Float[Tensor, "*n k 3 3"] | None = None,
) -> Bool[Tensor, "*n m k"]:
    """Which rotations lie within an angle of others, or of each other where no others are given.

    ``trace(A' B) = 1 + 2 cos(angle)``.
    """
    flat = rotation.flatten(-2)
    other_flat = flat if other is None else other.flatten(-2)
    # The trace of the product is the sum over elements.
    return (flat @ other_flat.mT - 1) / 2 > math.cos(math.radians(angle_deg))


def mirror_rotation(rotation: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3 3"]:
    """Pose of the same image in the map of the other hand, ``M A M`` with ``M = diag(1, 1, -1)``."""
    signs = torch.tensor([1.0, 1.0, -1.0], dtype=rotation.dtype, device=rotation.device)
    return rotation * signs[:, None] * signs


def sphere_grid(n_side: int) -> Float[Tensor, "pixel 3"]:
    """Centres of the ``12 n_side**2`` equal-area HEALPix pixels (ring order) as unit vectors.

    Raises
    ------
    ValueError
        If ``n_side`` is no power of two.
    """
    pixels = numpy.arange(12 * n_side * n_side)
    longitude, latitude = astropy_healpix.healpix_to_lonlat(pixels, n_side)
    rot = numpy.asarray(longitude.to_value("rad"))
    tilt = math.pi / 2 - numpy.asarray(latitude.to_value("rad"))
    vectors = numpy.stack(
        [numpy.sin(tilt) * numpy.cos(rot), numpy.sin(tilt) * numpy.sin(rot), numpy.cos(tilt)], -1
    )
    return torch.from_numpy(vectors).float()


def rotation_grid(n_side: int) -> Float[Tensor, "orientation 3 3"]:
    """Regular grid on SO(3): HEALPix view directions x ``6 n_side`` in-plane angles.

    The spacing is about ``60 / n_side`` degrees both ways (15 degrees at 4, 7.5 at 8), and no
    rotation is farther than that from the grid. ``n_side`` is a power of two.
    """
    x, y, z = sphere_grid(n_side).unbind(-1)
    rot, tilt = torch.rad2deg(torch.atan2(y, x)), torch.rad2deg(torch.acos(z.clamp(-1, 1)))
    n_in_plane = 6 * n_side
    psi = torch.arange(n_in_plane) * (360.0 / n_in_plane)
    angles = torch.stack(
        [
            rot[:, None].expand(-1, n_in_plane),
            tilt[:, None].expand(-1, n_in_plane),
            psi.expand(len(rot), -1),
        ],
        dim=-1,
    )
    return euler_zyz_deg_to_rotation(angles.flatten(0, 1))
