"""The eight symmetries of a square image, and what each does to the pose.

Turning an image by a quarter turns its pose about the beam. Mirroring it is the view from behind:
line integrals have no direction, so the projection of a particle turned by 180 degrees about x is its
projection with y reversed. For each such rotation G of the image frame,

``slice(G R)(k) = slice(R)(k G)``

and ``k G`` is on the disc again, so that the row of the changed image is a permutation of the row.
Whatever proposes poses needs to know only an eighth of all rotations.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.fourier.disc import Disc

N_SYMMETRIES = 8


def plane_symmetries(device: torch.device | None = None) -> Float[Tensor, "symmetry 3 3"]:
    """The eight rotations G: quarter turns about the beam, each without and with the mirror."""
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    mirror = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    turns = [torch.linalg.matrix_power(turn, quarter) for quarter in range(4)]
    return torch.stack([*turns, *(one @ mirror for one in turns)]).to(device)


def symmetric_places(disc: Disc) -> Int[Tensor, "symmetry coefficient"]:
    """Where each coefficient of a changed image stands in the row of the image as it is.

    The row of the image whose pose is ``G R`` is ``row[..., places]``.
    """
    in_plane = plane_symmetries(disc.device)[:, :2, :2]
    column, row = (disc.frequency_index @ in_plane).round().long().unbind(-1)
    half = disc.box // 2
    place_in_row = torch.zeros(disc.box**2, dtype=torch.long, device=disc.device)
    place_in_row[disc.square_index] = torch.arange(disc.n_coefficients, device=disc.device)
    return place_in_row[(row + half) * disc.box + column + half]


def into_asymmetric_unit(rotation: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3 3"]:
    """Whichever of the eight ``G R`` is seen from the front and turned about the beam the least.

    That is an eighth of all rotations: the view direction lies in the upper hemisphere, and the angle
    of the turn about the beam that best undoes the rotation, ``atan2(R10 - R01, R00 + R11)``, lies
    within 45 degrees.
    """
    symmetries = plane_symmetries(rotation.device).to(rotation.dtype)
    behind = rotation[..., 2, 2, None, None] < 0
    front = torch.where(behind, symmetries[4] @ rotation, rotation)
    twist = torch.atan2(front[..., 1, 0] - front[..., 0, 1], front[..., 0, 0] + front[..., 1, 1])
    quarters = torch.round(-twist / (math.pi / 2)).long() % 4
    return symmetries[quarters] @ front
