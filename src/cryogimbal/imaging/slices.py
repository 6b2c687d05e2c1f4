"""Central slices of a Hartley spectrum, and their exact adjoint.

The spectrum lives on a symmetric grid of odd side, zero frequency in the middle. The arithmetic is in
``kernels``; this module gives it gradients and the row layout of a disc.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.fourier.disc import Disc
from cryogimbal.imaging.kernels.choice import kernels_for
from cryogimbal.imaging.kernels.contract import Prepared, SliceKernels, SlicePoints


@dataclass(frozen=True, kw_only=True)
class PreparedGrid:
    """A grid as the kernels of its device read it; made once where it is sliced many times."""

    values: Prepared
    oversampling: int
    kernels: SliceKernels

    @classmethod
    def of(cls, grid: Float[Tensor, "side side side"], oversampling: int) -> "PreparedGrid":
        """Prepare a grid; gradients flow back to it where torch records them."""
        kernels = kernels_for(grid.device)
        return cls(values=kernels.prepare(grid), oversampling=oversampling, kernels=kernels)

    def slices(
        self, rotation: Float[Tensor, "*n 3 3"], disc: Disc
    ) -> Float[Tensor, "*n coefficient"]:
        """:func:`central_slices` of the grid."""
        points = slice_points(disc, self.oversampling, rotation.dtype)
        pairs = _SliceRows.apply(self.values, rotation.reshape(-1, 3, 3), points, self.kernels)
        zero = self.zero_frequency().expand(pairs.shape[0], 1)
        return torch.cat([zero, pairs], dim=1).view(*rotation.shape[:-2], disc.n_coefficients)

    def zero_frequency(self) -> Float[Tensor, ""]:
        """The coefficient that all slices share."""
        middle = self.values.shape[-1] // 2
        value = self.values[middle, middle, middle]
        return value.real if value.is_complex() else value


def central_slices(
    grid: Float[Tensor, "side side side"],
    rotation: Float[Tensor, "*n 3 3"],
    disc: Disc,
    oversampling: int,
) -> Float[Tensor, "*n coefficient"]:
    """Slices of ``grid`` at ``k @ rotation``, trilinear, for every coefficient k of the disc.

    Differentiable in the grid and in the rotation (as a free 3 x 3 matrix).

    Parameters
    ----------
    grid
        Hartley coefficients; neighbours are ``1 / oversampling`` cycles per box apart.
    rotation
        Volume frame to image frame.
    disc
        Frequencies of the slice.
    oversampling
        The oversampling of the grid.

    Raises
    ------
    ValueError
        If the side is even or the grid does not reach the radius of the disc.
    """
    side = grid.shape[-1]
    reach = float(disc.radius_per_coefficient[-1]) * oversampling
    if side % 2 == 0 or reach > side // 2:
        raise ValueError(f"a grid of side {side} cannot hold slices of radius {reach} samples")
    return PreparedGrid.of(grid, oversampling).slices(rotation, disc)


def add_backprojection(
    grids: tuple[Float[Tensor, "side side side"], ...],
    rows: tuple[Float[Tensor, "n coefficient"], ...],
    rotation: Float[Tensor, "n 3 3"],
    disc: Disc,
    oversampling: int,
) -> None:
    """Add the adjoint of :func:`central_slices` to each grid, in place, from its own rows.

    Every coefficient is spread to its eight corners with the weights it was fetched with.
    """
    points = slice_points(disc, oversampling, rotation.dtype)
    pairs = [one[:, 1:] for one in rows]
    kernels_for(grids[0].device).spread_rows(grids, pairs, rotation, points)
    for grid, one in zip(grids, rows, strict=True):
        middle = grid.shape[-1] // 2
        grid[middle, middle, middle] += one[:, 0].sum()


def slice_points(disc: Disc, oversampling: int, dtype: torch.dtype) -> SlicePoints:
    """One of each pair of the disc's frequencies."""
    return SlicePoints(frequency=disc.frequency_index[1::2].to(dtype), oversampling=oversampling)


class _SliceRows(torch.autograd.Function):
    """(prepared grid, rotation) -> coefficients at k, -k side by side."""

    @staticmethod
    def forward(
        ctx: Any, prepared: Tensor, rotation: Tensor, points: SlicePoints, kernels: SliceKernels
    ) -> Tensor:
        ctx.save_for_backward(prepared, rotation)
        ctx.points, ctx.kernels = points, kernels
        return kernels.slice_rows(prepared, rotation, points)

    @staticmethod
    def backward(
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        rows = grad_outputs[0].contiguous()
        prepared, rotation = ctx.saved_tensors
        grad_prepared = grad_rotation = None
        if ctx.needs_input_grad[0]:
            grad_prepared = ctx.kernels.grid_gradient(rows, prepared, rotation, ctx.points)
        if ctx.needs_input_grad[1]:
            grad_rotation = ctx.kernels.rotation_gradient(rows, prepared, rotation, ctx.points)
        return grad_prepared, grad_rotation, None, None
