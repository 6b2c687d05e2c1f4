"""The volume step in closed form: CTF-weighted back-projection and a regularised division.

Everything that particles contribute is a sum, so half-sets, tiles and ranks add up.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.fourier.disc import Disc
from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.shifts import shift_row
from cryogimbal.imaging.slices import add_backprojection
from cryogimbal.imaging.volume import GridGeometry

PLANES_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class SufficientStatistics:
    """``data = sum S* C H`` and ``weight = sum S* C^2`` on a grid, S* the adjoint of slicing."""

    data: Float[Tensor, "side side side"]
    weight: Float[Tensor, "side side side"]

    @classmethod
    def zeros(
        cls, geometry: GridGeometry, device: torch.device | None = None
    ) -> "SufficientStatistics":
        """Nothing seen yet."""
        shape = (geometry.side,) * 3
        return cls(data=torch.zeros(shape, device=device), weight=torch.zeros(shape, device=device))

    def __add__(self, other: "SufficientStatistics") -> "SufficientStatistics":
        """Both sets of particles together."""
        return SufficientStatistics(data=self.data + other.data, weight=self.weight + other.weight)

    def scaled(self, factor: float) -> "SufficientStatistics":
        """As if every particle counted ``factor`` times."""
        return SufficientStatistics(data=self.data * factor, weight=self.weight * factor)

    def add_slices(
        self,
        weighted_data: Float[Tensor, "n coefficient"],
        weight: Float[Tensor, "n coefficient"],
        rotation: Float[Tensor, "n 3 3"],
        disc: Disc,
        oversampling: int,
    ) -> None:
        """Add slices in place: ``weighted_data`` is ``C H``, ``weight`` is ``C^2`` at each rotation."""
        add_backprojection(
            (self.data, self.weight), (weighted_data, weight), rotation, disc, oversampling
        )

    def add_hypotheses(
        self,
        batch: ParticleBatch,
        hypotheses: Hypotheses,
        share: Float[Tensor, " hypothesis"],
        oversampling: int,
    ) -> None:
        """Add images at several poses, each with a share of its image, in place."""
        image = hypotheses.image
        data = (batch.ctf * batch.observed)[image] * share[:, None]
        if hypotheses.shift_box is not None:
            data = shift_row(data, -hypotheses.shift_box, batch.disc)
        weight = batch.ctf.square()[image] * share[:, None]
        self.add_slices(data, weight, hypotheses.rotation, batch.disc, oversampling)

    def add_images(
        self, batch: ParticleBatch, rotation: Float[Tensor, "batch 3 3"], oversampling: int
    ) -> None:
        """Add centred images at one rotation each, in place."""
        self.add_slices(
            batch.ctf * batch.observed, batch.ctf.square(), rotation, batch.disc, oversampling
        )


def solve_density(
    statistics: SufficientStatistics,
    geometry: GridGeometry,
    prior_weight: Float[Tensor, " shell"],
) -> Float[Tensor, "box box box"]:
    """Density of the regularised division ``data / (weight + prior)``.

    The quotient is a local average of the slices under the trilinear kernel, which multiplies the
    density by that kernel once; slicing does it once more. Both are undone, so the density returned
    is the particle's own. The average is even where the slices are dense over a grid step; without
    oversampling they crowd near the origin, and the first three shells suffer (FSC 0.93).

    Parameters
    ----------
    prior_weight
        Added to the weight of each shell of one cycle per box, from shell 0; the last value is used
        beyond. It is the inverse signal power in units where the noise variance is 1 (a Wiener filter).
    """
    grid = torch.empty_like(statistics.data)
    tiny = torch.finfo(prior_weight.dtype).tiny
    for planes, shell in slabs(geometry, grid.device):
        prior = prior_weight[shell.clamp(max=len(prior_weight) - 1)]
        denominator = (statistics.weight[planes] + prior).clamp_min(tiny)
        quotient = statistics.data[planes] / denominator
        grid[planes] = torch.where(shell <= geometry.radius, quotient, 0.0)
    return geometry.density_of_grid(grid) / geometry.kernel(grid.device).square()


def mean_weight_per_shell(
    statistics: SufficientStatistics, geometry: GridGeometry
) -> Float[Tensor, " shell"]:
    """Mean of the weight over each shell of one cycle per box inside the geometry's radius."""
    n_shells = int(geometry.radius) + 1
    total = statistics.weight.new_zeros(n_shells + 1)
    count = torch.zeros(n_shells + 1, dtype=torch.long, device=total.device)
    for planes, shell in slabs(geometry, total.device):
        index = shell.clamp(max=n_shells).flatten()
        total.index_add_(0, index, statistics.weight[planes].flatten())
        count += torch.bincount(index, minlength=n_shells + 1)
    return (total / count)[:n_shells]


def slabs(
    geometry: GridGeometry, device: torch.device
) -> Iterator[tuple[slice, Int[Tensor, "_ side side"]]]:
    """Planes of the grid, some at a time, with the shell of every sample.

    All at once the shells alone would be as large as the sums of four half-sets.
    """
    side = geometry.side
    axis = torch.arange(side, device=device, dtype=torch.float64) - side // 2
    squares = axis.square()
    for first in range(0, side, PLANES_AT_ONCE):
        planes = slice(first, first + PLANES_AT_ONCE)
        squared = squares[planes, None, None] + squares[:, None] + squares
        yield planes, (squared.sqrt() / geometry.oversampling).round().long()
