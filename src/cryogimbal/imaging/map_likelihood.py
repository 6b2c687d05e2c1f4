"""How likely a map makes images, from what back-projection has summed of them; no image is read.

Against no map at all and in units where the noise variance is 1, an image H whose slice of the map V,
seen through its CTF, is C S V has the log-likelihood ``<C S V, H> - |C S V|^2 / 2``. Summed over images
that is ``<V, data> - <V^2, weight> / 2`` with the sufficient statistics ``data = sum S* C H`` and
``weight = sum S* C^2``. The first term is exact. The second puts interpolated squares in place of the
squared interpolation, which is smaller: in the mean over places between two samples, it has
``(2 + cos(2 pi x / P)) / 3`` of the power that the samples have, at voxel x of a density padded to P.
With the density multiplied by the root of that along each axis, the two agree wherever images fall
evenly into the cells of the grid.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.imaging.backprojection import SufficientStatistics, slabs
from cryogimbal.imaging.volume import GridGeometry


@dataclass(frozen=True, kw_only=True)
class ShellFit:
    """What the slices of a map and images have to do with each other, shell by shell."""

    agreement: Float[Tensor, " shell"]
    """``sum C S V H``."""
    power: Float[Tensor, " shell"]
    """``sum (C S V)^2``: also the variance that noise alone gives the agreement."""

    def filtered(self, factor: Float[Tensor, " shell"]) -> "ShellFit":
        """The same of a map whose shells are multiplied."""
        return ShellFit(agreement=self.agreement * factor, power=self.power * factor.square())

    def log_likelihood(self) -> float:
        """Nats that the map gains over no map, summed over images."""
        return float((self.agreement - self.power / 2).sum())


def fit_per_shell(
    density: Float[Tensor, "box box box"],
    statistics: SufficientStatistics,
    geometry: GridGeometry,
) -> ShellFit:
    """Agreement and power of a density's slices with images, up to the geometry's band limit.

    What lies between the last whole shell and the band limit counts to the last one.
    """
    n_shells = int(geometry.radius) + 1
    slices = geometry.grid_of_density(density) * statistics.data
    agreement = _shell_sums(slices, geometry, n_shells)
    line = _interpolated_power(geometry, density.device).sqrt()
    evened = density * line[:, None, None] * line[:, None] * line
    squares = geometry.grid_of_density(evened).square_() * statistics.weight
    return ShellFit(agreement=agreement, power=_shell_sums(squares, geometry, n_shells))


def _interpolated_power(geometry: GridGeometry, device: torch.device) -> Float[Tensor, " box"]:
    """Mean over places between samples of ``|1 - f + f exp(i a)|^2``, ``a = 2 pi x / padded_box``."""
    axis = torch.arange(geometry.box, device=device) - geometry.box // 2
    return (2 + torch.cos(2 * math.pi * axis / geometry.padded_box)) / 3


def _shell_sums(
    grid: Float[Tensor, "side side side"], geometry: GridGeometry, n_shells: int
) -> Float[Tensor, " shell"]:
    total = torch.zeros(n_shells, dtype=torch.float64, device=grid.device)
    for planes, shell in slabs(geometry, grid.device):
        index = shell.clamp(max=n_shells - 1).flatten()
        total.index_add_(0, index, grid[planes].flatten().double())
    return total
