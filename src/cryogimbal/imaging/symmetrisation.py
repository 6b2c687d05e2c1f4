"""Back-projection of a symmetric particle: every image counts at all poses that look the same.

The poses ``A S`` of one image fall into cosets ``A T E``, where E runs over the operators that take the
cubic grid to itself. Images are added at the poses ``A T``; E permutes samples of the sums, which is
exact and next to free. Octahedral particles need one pose per image instead of 24, icosahedral ones 5
instead of 60, D7 seven instead of 14.
"""

from collections.abc import Iterator
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from cryogimbal.imaging.backprojection import SufficientStatistics
from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.symmetry import SymmetryGroup, coset_representatives, on_grid


def rotations_off_grid(
    rotation: Float[Tensor, "n 3 3"], group: SymmetryGroup
) -> Iterator[Float[Tensor, "n 3 3"]]:
    """The rotations ``A T`` for each T; :func:`sum_on_grid` makes the rest of ``A S``."""
    for representative in coset_representatives(group, on_grid(group)):
        yield rotation @ representative.to(rotation)


def turned_off_grid(hypotheses: Hypotheses, group: SymmetryGroup) -> Iterator[Hypotheses]:
    """The hypotheses at ``A T`` for each T, see :func:`rotations_off_grid`."""
    for rotation in rotations_off_grid(hypotheses.rotation, group):
        yield replace(hypotheses, rotation=rotation)


def sum_on_grid(statistics: SufficientStatistics, group: SymmetryGroup) -> SufficientStatistics:
    """The statistics summed over the operators of a group that take the grid to itself."""
    data, weight = (permuted_sum(grid, group) for grid in (statistics.data, statistics.weight))
    return SufficientStatistics(data=data, weight=weight)


def permuted_sum(
    grid: Float[Tensor, "side side side"], group: SymmetryGroup
) -> Float[Tensor, "side side side"]:
    """``sum_E g(k E)`` over rows k = (x, y, z) on a grid with axes (z, y, x).

    On an even side the lone samples at index 0 are their own mirror image, as in a periodic grid.
    """
    lone = 1 - grid.shape[-1] % 2
    total = grid
    for operator in on_grid(group).operators[1:]:
        # In the order of the axes: column a of the matrix says which axis becomes axis a.
        matrix = operator.flip(0, 1)
        source = matrix.abs().argmax(dim=0).tolist()
        mirrored = [axis for axis in range(3) if float(matrix[source[axis], axis]) < 0]
        permuted = grid.permute(source)
        for axis in mirrored:
            permuted = permuted.flip(axis).roll(lone, axis)
        total = total + permuted
    return total
