"""Masks in real space."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.fourier.shells import radius_grid


def soft_sphere_mask(
    box: int, voxel_size_angstrom: float, *, diameter_angstrom: float, edge_angstrom: float
) -> Float[Tensor, "box box box"]:
    """Centred sphere that is 1 inside and falls to 0 over a cosine edge outside the diameter.

    ``m(r) = (1 + cos(pi (r - radius) / edge)) / 2`` between the radius and radius + edge.

    Raises
    ------
    ValueError
        If the diameter is not positive or the edge negative.
    """
    if diameter_angstrom <= 0 or edge_angstrom < 0:
        raise ValueError(
            "a spherical mask needs a positive diameter and no negative edge: "
            f"{diameter_angstrom=}, {edge_angstrom=}"
        )
    outside = radius_grid(box, 3) * voxel_size_angstrom - diameter_angstrom / 2
    # An edge of no width would be 0 / 0 on the surface itself, which belongs to the sphere.
    way = (outside / max(edge_angstrom, torch.finfo(torch.float64).tiny)).clamp(0, 1)
    return ((1 + torch.cos(math.pi * way)) / 2).float()
