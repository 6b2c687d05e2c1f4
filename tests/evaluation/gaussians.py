"""Densities known in closed form wherever they are turned: sums of Gaussians."""

import torch
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.rotations import orthonormalise, random_rotations

VOXEL_SIZE_ANGSTROM = 3.0


def gaussian_density(position_px: Tensor, box: int, *, sigma_px: float = 1.2) -> DensityMap:
    """Gaussians of equal height at positions (x, y, z) in voxels from the centre."""
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    x, y, z = (
        torch.exp(-(axis - position_px[:, i, None]).square() / (2 * sigma_px**2)) for i in range(3)
    )
    values = torch.einsum("nz,ny,nx->zyx", z, y, x)
    return DensityMap(values=values.float(), voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)


def random_positions(
    n: int, box: int, generator: torch.Generator, *, reach: float = 0.33
) -> Tensor:
    """Positions in voxels inside a ball of radius ``reach`` boxes, without any symmetry."""
    direction = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
    radius = torch.rand(n, 1, generator=generator) ** (1 / 3)
    return (direction * radius * reach * box).double()


def random_frame(
    box: int, generator: torch.Generator, *, sign: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Q, M and s (voxels) of ``p' = Q M p + s``; a sign of -1 changes the hand."""
    rotation = orthonormalise(random_rotations(1, generator)[0].double())
    shift_px = (torch.rand(3, generator=generator).double() - 0.5) * 0.1 * box
    return rotation, torch.diag(torch.tensor([1.0, 1.0, sign]).double()), shift_px
