"""Slicing by kernels that Triton compiles on first use: the fast path on a GPU.

Spreading adds atomically, so the last digits of its sums depend on chance.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.imaging.kernels import triton_loops, triton_sweeps
from cryogimbal.imaging.kernels.contract import Hypotheses, PoseSweep, SlicePoints, sweep_of_sums

NAME = "triton"

# Points that a program works on at a time.
BLOCK = 128
# With fewer programs a large GPU has idle multiprocessors: the points of a pose are shared out.
FEWEST_PROGRAMS = 1024
# A larger grid takes 64-bit indices.
LARGEST_32_BIT_GRID = 2**31 - 1


def prepare(grid: Float[Tensor, "side side side"]) -> Float[Tensor, "side side side"]:
    """The grid itself."""
    return grid.contiguous()


def slice_rows(prepared: Tensor, rotation: Tensor, points: SlicePoints) -> Tensor:
    """Values at ``k @ rotation`` and ``-k @ rotation``."""
    n, n_points = rotation.shape[0], points.frequency.shape[0]
    out = rotation.new_empty(n, 2 * n_points)
    arguments = (*_geometry(prepared, rotation, points), out)
    _launch(triton_loops.slice_rows, (n, _blocks(n_points)), arguments)
    return out


def grid_gradient(rows: Tensor, prepared: Tensor, rotation: Tensor, points: SlicePoints) -> Tensor:
    """Gradient in the grid of the sum of ``rows`` times the slices."""
    out = torch.zeros_like(prepared)
    spread_rows([out], [rows], rotation, points)
    return out


def rotation_gradient(
    rows: Tensor, prepared: Tensor, rotation: Tensor, points: SlicePoints
) -> Float[Tensor, "n 3 3"]:
    """Gradient in the rotations of the same sum; the third rows are zero."""
    n = rotation.shape[0]
    parts, span = _parts(n, points.frequency.shape[0])
    sums = rotation.new_empty(n, parts, 6)
    arguments = (*_geometry(prepared, rotation, points), span, *_rows(rows), sums)
    _launch(triton_sweeps.rotation_gradient, (n, parts), arguments)
    out = torch.zeros_like(rotation)
    out[:, :2] = sums.sum(1).unflatten(1, (2, 3))
    return out


def spread_rows(
    grids: Sequence[Tensor], rows: Sequence[Tensor], rotation: Tensor, points: SlicePoints
) -> None:
    """Add the adjoint of slicing to real grids, in place, one set of rows for each."""
    programs = (rotation.shape[0], _blocks(points.frequency.shape[0]))
    for grid, values in zip(grids, rows, strict=True):
        # A copy would take what is added to it away.
        assert grid.is_contiguous()
        arguments = (*_geometry(grid, rotation, points), *_rows(values))
        _launch(triton_loops.spread_rows, programs, arguments)


def fits(
    prepared: Tensor, hypotheses: Hypotheses, points: SlicePoints, ctf: Tensor, observed: Tensor
) -> tuple[Float[Tensor, " hypothesis"], Float[Tensor, " hypothesis"]]:
    """Residual and power of each hypothesis, the zero frequency left out."""
    geometry = _geometry(prepared, hypotheses.rotation, points)
    sums = _sums(triton_sweeps.fits, geometry, hypotheses, (ctf, observed), 2)
    return sums[:, 0], sums[:, 1]


def sweep(
    prepared: Tensor, hypotheses: Hypotheses, points: SlicePoints, ctf: Tensor, observed: Tensor
) -> PoseSweep:
    """Residual, power, gradient and Gauss-Newton matrix, the zero frequency left out."""
    geometry = _geometry(prepared, hypotheses.rotation, points)
    n_parameters = 3 if hypotheses.shift_box is None else 5
    n_sums = 2 + n_parameters + n_parameters * (n_parameters + 1) // 2
    sums = _sums(triton_sweeps.sweep, geometry, hypotheses, (ctf, observed), n_sums)
    return sweep_of_sums(sums, n_parameters)


def _sums(
    kernel: Any,
    geometry: tuple[Any, ...],
    hypotheses: Hypotheses,
    images: tuple[Tensor, Tensor],
    n_sums: int,
) -> Tensor:
    """What a kernel sums over the points of each hypothesis."""
    n, n_points = hypotheses.rotation.shape[0], geometry[-1]
    parts, span = _parts(n, n_points)
    out = hypotheses.rotation.new_empty(n, parts, n_sums)
    shift = hypotheses.shift_box
    # Without shifts the kernel reads none: any tensor stands in for them.
    shifts = hypotheses.rotation if shift is None else shift.detach().contiguous()
    ctf, observed = images
    poses = (span, shifts, hypotheses.image.contiguous())
    arguments = (*geometry, *poses, *_rows(ctf), *_rows(observed), out)
    _launch(kernel, (n, parts), arguments, SHIFTED=shift is not None)
    return out.sum(1)


def _launch(
    kernel: Any, programs: tuple[int, int], arguments: tuple[Any, ...], **fixed: Any
) -> None:
    """Run as many programs of a kernel as asked for; none is fine."""
    if 0 in programs:
        return
    grid = arguments[0]
    wide = grid.numel() > LARGEST_32_BIT_GRID
    with torch.cuda.device_of(grid):
        kernel[programs](*arguments, WIDE=wide, BLOCK=BLOCK, enable_fp_fusion=True, **fixed)


def _geometry(grid: Tensor, rotation: Tensor, points: SlicePoints) -> tuple[Any, ...]:
    """The grid, the rotations and the points, as every kernel takes them first."""
    frequency = points.frequency.to(rotation.dtype)
    return (
        grid.detach(),
        grid.shape[-1],
        rotation.detach().contiguous(),
        *_rows(frequency),
        points.oversampling,
        frequency.shape[0],
    )


def _rows(rows: Tensor) -> tuple[Tensor, int]:
    """Rows whose elements are neighbours, and the step from one to the next."""
    rows = rows.detach() if rows.stride(1) == 1 else rows.detach().contiguous()
    return rows, rows.stride(0)


def _blocks(n_points: int) -> int:
    return -(-n_points // BLOCK)


def _parts(n: int, n_points: int) -> tuple[int, int]:
    """Into how many parts the points of a pose are cut, and how long each is: whole blocks."""
    wanted = min(_blocks(n_points), -(-FEWEST_PROGRAMS // max(1, n)))
    span = BLOCK * -(-_blocks(n_points) // max(1, wanted))
    return -(-n_points // max(1, span)), span
