"""The volume step in closed form: CTF-weighted back-projection and a regularised division.

Everything that particles contribute is a sum, so half-sets, tiles and ranks add up.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.fourier.disc import Disc
from cryogimbal.fourier.shells import radius_grid
from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.shifts import shift_row
from cryogimbal.imaging.slices import add_backprojection
from cryogimbal.imaging.volume import GridGeometry


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
    side, step = geometry.side, geometry.oversampling
    shell = (radius_grid(side, 3, device=statistics.data.device) / step).round().long()
    prior = prior_weight[shell.clamp(max=len(prior_weight) - 1)]
    inside = shell <= geometry.radius
    denominator = (statistics.weight + prior).clamp_min(torch.finfo(prior.dtype).tiny)
    grid = torch.where(inside, statistics.data / denominator, 0.0)
    return geometry.density_of_grid(grid) / geometry.kernel(grid.device).square()


def mean_weight_per_shell(
    statistics: SufficientStatistics, geometry: GridGeometry
) -> Float[Tensor, " shell"]:
    """Mean of the weight over each shell of one cycle per box inside the geometry's radius."""
    shell = radius_grid(geometry.side, 3, device=statistics.weight.device) / geometry.oversampling
    n_shells = int(geometry.radius) + 1
    index = shell.round().long().clamp(max=n_shells).flatten()
    total = statistics.weight.new_zeros(n_shells + 1).index_add(
        0, index, statistics.weight.flatten()
    )
    return (total / torch.bincount(index, minlength=n_shells + 1))[:n_shells]
