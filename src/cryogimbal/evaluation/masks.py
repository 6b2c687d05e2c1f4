"""Masks in real space."""

import math

import numpy
import scipy.ndimage
import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.fourier.shells import radius_grid
from cryogimbal.fourier.transforms import density_to_hartley, hartley_to_density

# A support is drawn where the blurred density reaches this fraction of its strongest half percent.
SUPPORT_LEVEL = 0.2
SUPPORT_QUANTILE = 0.995


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


def soft_support_mask(
    density: Float[Tensor, "box box box"],
    within: Float[Tensor, "box box box"],
    *,
    blur_radius: float,
    margin_voxels: float,
    edge_voxels: float,
    level: float = SUPPORT_LEVEL,
) -> Float[Tensor, "box box box"]:
    """Where a particle is: its blurred density above a level, widened, with a cosine edge.

    Parameters
    ----------
    within
        Mask that the support stays inside.
    blur_radius
        Cycles per box at which the blur ``exp(-(k / radius)^2)`` has fallen to 1/e.
    margin_voxels
        How far the support reaches beyond the level.
    edge_voxels
        Width of the edge outside of that.
    level
        Fraction of the strongest half percent that the blurred density must reach.
    """
    radius = radius_grid(density.shape[-1], 3, device=density.device).to(density.dtype)
    blur = torch.exp(-(radius / blur_radius).square())
    blurred = hartley_to_density(density_to_hartley(density) * blur) * within
    inside = blurred[within > 0.5].cpu().numpy()
    least = level * float(numpy.quantile(inside, SUPPORT_QUANTILE))
    # The level is positive where there is a particle; an empty density keeps the whole mask.
    solid = (blurred > least).cpu().numpy() if least > 0 else (within > 0.5).cpu().numpy()
    outside = torch.from_numpy(scipy.ndimage.distance_transform_edt(~solid)) - margin_voxels
    way = (outside / edge_voxels).clamp(0, 1)
    return ((1 + torch.cos(math.pi * way)) / 2).to(within) * within
