"""Maps made symmetric: the mean over all operators of a point group."""

import torch

from cryogimbal.data.density import DensityMap
from cryogimbal.evaluation.alignment import Alignment, apply_alignment
from cryogimbal.imaging.symmetrisation import permuted_sum
from cryogimbal.symmetry import SymmetryGroup, coset_representatives, on_grid


def symmetrise_density(density: DensityMap, group: SymmetryGroup) -> DensityMap:
    """Mean of ``V(S p)`` over the operators of a group about the box centre, on the same grid.

    Operators that take the grid to itself are exact, others cost what turning a map costs: see
    :func:`cryogimbal.evaluation.alignment.apply_alignment`, also for what becomes of the corners of
    the spectrum. A group that is exact all through (C2, C4, D2, D4, O) keeps them.
    """
    total = density.values
    for operator in coset_representatives(group, on_grid(group))[1:]:
        turn = Alignment(
            rotation=operator.T, shift_angstrom=torch.zeros(3), mirrored=False, score=1.0
        )
        total = total + apply_alignment(density, turn).values
    values = permuted_sum(total, group) / group.order
    return DensityMap(values=values, voxel_size_angstrom=density.voxel_size_angstrom)
