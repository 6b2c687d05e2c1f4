"""What a set of kernels offers, and the nouns it speaks of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

Prepared = Float[Tensor, "side side side"] | Complex[Tensor, "side side side"]


@dataclass(frozen=True, kw_only=True)
class SlicePoints:
    """Frequencies of a slice on a grid: one of each pair k, -k of a disc, the zero left out."""

    frequency: Float[Tensor, "point 2"]
    """Cycles per box (x, y)."""
    oversampling: int
    """Grid steps per cycle per box."""

    @property
    def grid_steps(self) -> Float[Tensor, "point 2"]:
        """The frequencies in steps of the grid."""
        return self.frequency * self.oversampling

    @property
    def wave(self) -> Float[Tensor, "point 2"]:
        """``2 pi k``: radians per box of displacement."""
        return self.frequency * (2 * torch.pi)


@dataclass(frozen=True, kw_only=True)
class Hypotheses:
    """Poses of images, any number of them per image."""

    rotation: Float[Tensor, "hypothesis 3 3"]
    image: Int[Tensor, " hypothesis"]
    """Row of the image that each pose belongs to."""
    shift_box: Float[Tensor, "hypothesis 2"] | None = None
    """Displacement (x, y) in fractions of the box; none: centred."""


@dataclass(frozen=True, kw_only=True)
class PoseSweep:
    """What one pass over the coefficients says of each hypothesis; ``r = CTF slice - observed``.

    Parameters are the rotation vector w of ``exp(w^) R`` (radians) and, where shifts are given, the
    shift (fractions of the box).
    """

    residual: Float[Tensor, " hypothesis"]
    """Sum of ``r^2``."""
    power: Float[Tensor, " hypothesis"]
    """Sum of ``(CTF slice)^2``."""
    gradient: Float[Tensor, "hypothesis parameter"]
    """``J' r``, half the derivative of the residual."""
    curvature: Float[Tensor, "hypothesis parameter parameter"]
    """``J' J``, the Gauss-Newton matrix."""


def sweep_of_sums(sums: Float[Tensor, "hypothesis sum"], n_parameters: int) -> PoseSweep:
    """Unpack residual, power, gradient and upper triangle, in this order."""
    triangle = sums[:, 2 + n_parameters :]
    curvature = sums.new_empty(sums.shape[0], n_parameters, n_parameters)
    row, column = torch.triu_indices(n_parameters, n_parameters, device=sums.device)
    curvature[:, row, column] = triangle
    curvature[:, column, row] = triangle
    return PoseSweep(
        residual=sums[:, 0],
        power=sums[:, 1],
        gradient=sums[:, 2 : 2 + n_parameters],
        curvature=curvature,
    )


@runtime_checkable
class SliceKernels(Protocol):
    """Slicing and its derivatives.

    ``prepared`` is the grid in the layout that the kernels want; rows without the zero frequency,
    ``(n, 2 point)``, hold the coefficients at k and -k side by side.
    """

    @property
    def NAME(self) -> str:  # noqa: N802 (a constant of a module)
        """What a person is told about the path taken."""
        ...

    def prepare(self, grid: Float[Tensor, "side side side"]) -> Prepared:
        """The grid as the kernels read it; differentiable."""
        ...

    def slice_rows(self, prepared: Prepared, rotation: Tensor, points: SlicePoints) -> Tensor:
        """Values at ``k @ rotation`` and ``-k @ rotation``."""
        ...

    def grid_gradient(
        self, rows: Tensor, prepared: Prepared, rotation: Tensor, points: SlicePoints
    ) -> Prepared:
        """Gradient in ``prepared`` of the sum of ``rows`` times the slices."""
        ...

    def rotation_gradient(
        self, rows: Tensor, prepared: Prepared, rotation: Tensor, points: SlicePoints
    ) -> Float[Tensor, "n 3 3"]:
        """Gradient in the rotations of the same sum; the third rows are zero."""
        ...

    def spread_rows(
        self,
        grids: Sequence[Tensor],
        rows: Sequence[Tensor],
        rotation: Tensor,
        points: SlicePoints,
    ) -> None:
        """Add the adjoint of slicing to real grids, in place, one set of rows for each."""
        ...

    def fits(
        self,
        prepared: Prepared,
        hypotheses: Hypotheses,
        points: SlicePoints,
        ctf: Tensor,
        observed: Tensor,
    ) -> tuple[Float[Tensor, " hypothesis"], Float[Tensor, " hypothesis"]]:
        """Residual and power of each hypothesis, the zero frequency left out."""
        ...

    def sweep(
        self,
        prepared: Prepared,
        hypotheses: Hypotheses,
        points: SlicePoints,
        ctf: Tensor,
        observed: Tensor,
    ) -> PoseSweep:
        """Residual, power, gradient and Gauss-Newton matrix, the zero frequency left out."""
        ...
