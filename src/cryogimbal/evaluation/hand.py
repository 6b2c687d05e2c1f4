"""The other hand of a map, exactly: mirrored in z, or through the centre voxel.

Both are the same mirror image; they differ by half a turn about z. The axes of most point groups lie
where they were after either. Those of T, I3 and I4 as RELION sets them up do so after the second alone.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.evaluation.alignment import mirror_density
from cryogimbal.fourier.transforms import mirror_spectrum
from cryogimbal.rotations import Mirror, mirror_rotation
from cryogimbal.symmetry import SAME_ELEMENT, SymmetryGroup


def mirror_map(density: DensityMap, mirror: Mirror) -> DensityMap:
    """The other hand about the centre voxel, which stays where it is.

    Poses follow by :func:`mirror_pose`. On an even box the planes at index 0 have no partner and stay.
    """
    if mirror == "z":
        return mirror_density(density)
    values = mirror_spectrum(density.values, 3).contiguous()
    return DensityMap(values=values, voxel_size_angstrom=density.voxel_size_angstrom)


def mirror_pose(rotation: Float[Tensor, "*n 3 3"], mirror: Mirror) -> Float[Tensor, "*n 3 3"]:
    """Pose of the same image in the mirrored map: ``M A M`` or ``-M A``, ``M = diag(1, 1, -1)``."""
    if mirror == "z":
        return mirror_rotation(rotation)
    return rotation * column_signs(mirror).to(rotation)[:, None]


def column_signs(mirror: Mirror) -> Float[Tensor, "3"]:
    """What the first two columns of a pose are multiplied by, element by element, by a mirror."""
    return torch.tensor([1.0, 1.0, -1.0] if mirror == "z" else [-1.0, -1.0, 1.0])


def mirror_that_keeps_axes(group: SymmetryGroup) -> Mirror:
    """In z, as other programs do, where that leaves the axes of a group in place; else the centre."""
    turned = mirror_rotation(group.operators)
    distance = (turned[:, None] - group.operators).abs().amax(dim=(-2, -1))
    return "z" if bool((distance.amin(dim=1) < SAME_ELEMENT).all()) else "centre"
