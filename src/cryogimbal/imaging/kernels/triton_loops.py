"""Kernels that Triton compiles for a GPU on first use, or interprets on a CPU (``TRITON_INTERPRET=1``).

A program has one pose and blocks of points. The grid is real, flat and symmetric about its middle, so
the mirrored spectrum is the flat grid read backwards: the cell with lower corner ``b`` has its mirror at
``side**3 - 1 - b``. Frequencies are half a disc; rows hold the coefficients at k and -k side by side,
and rows of images begin with the zero frequency, which is left to the caller.

Points past the end are put at zero frequency, where every grid may be read, and count nothing.
"""

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl


def compiled(function: Callable[..., Any]) -> Any:
    """Compile on first use.

    A checker of annotations may have wrapped the function; what is compiled is the function itself.
    """
    return triton.jit(inspect.unwrap(function))


@compiled
def turn_of(rotation: tl.tensor, n: tl.tensor) -> Any:
    """The nine numbers of rotation n."""
    at = rotation + 9 * n.to(tl.int64)
    return (
        tl.load(at),
        tl.load(at + 1),
        tl.load(at + 2),
        tl.load(at + 3),
        tl.load(at + 4),
        tl.load(at + 5),
        tl.load(at + 6),
        tl.load(at + 7),
        tl.load(at + 8),
    )


@compiled
def frequencies(frequency: tl.tensor, stride: tl.tensor, p: tl.tensor, inside: tl.tensor) -> Any:
    """Cycles per box (x, y) of the points p."""
    at = frequency + p * stride
    return tl.load(at, mask=inside, other=0), tl.load(at + 1, mask=inside, other=0)


@compiled
def pair_of(row: tl.tensor, p: tl.tensor, inside: tl.tensor) -> Any:
    """Coefficients of a row at k and -k of the points p."""
    at = row + 2 * p
    return tl.load(at, mask=inside, other=0), tl.load(at + 1, mask=inside, other=0)


@compiled
def cell(turn: tl.tuple, kx: tl.tensor, ky: tl.tensor, side: tl.tensor, WIDE: tl.constexpr) -> Any:
    """Lower corner (flat index) of the cell around ``k @ rotation``, and the place inside it.

    ``WIDE`` takes 64-bit indices, for grids that 32 bits cannot count.
    """
    middle, top = side // 2, side - 2
    x = kx * turn[0] + ky * turn[3] + middle
    y = kx * turn[1] + ky * turn[4] + middle
    z = kx * turn[2] + ky * turn[5] + middle
    # Rounding may push a point of the outermost ring past the last cell; it stays in that cell.
    ix = tl.minimum(x.to(tl.int32), top)
    iy = tl.minimum(y.to(tl.int32), top)
    iz = tl.minimum(z.to(tl.int32), top)
    plane = iz.to(tl.int64) if WIDE else iz
    base = (plane * side + iy) * side + ix
    return base, x - ix.to(x.dtype), y - iy.to(y.dtype), z - iz.to(z.dtype)


@compiled
def last_cell(side: tl.tensor, WIDE: tl.constexpr) -> Any:
    """Flat index of the last grid point."""
    wide = side.to(tl.int64) if WIDE else side
    return wide * side * side - 1


@compiled
def corner_values(grid: tl.tensor, base: tl.tensor, side: tl.tensor, SIGN: tl.constexpr) -> Any:
    """Eight corners of a cell, x fastest; ``SIGN`` -1 walks backwards from the mirrored corner."""
    y, z = SIGN * side, SIGN * side * side
    return (
        tl.load(grid + base),
        tl.load(grid + (base + SIGN)),
        tl.load(grid + (base + y)),
        tl.load(grid + (base + (y + SIGN))),
        tl.load(grid + (base + z)),
        tl.load(grid + (base + (z + SIGN))),
        tl.load(grid + (base + (z + y))),
        tl.load(grid + (base + (z + y + SIGN))),
    )


@compiled
def interpolated(c: tl.tuple, fx: tl.tensor, fy: tl.tensor, fz: tl.tensor) -> Any:
    """Trilinear value."""
    line00, line01 = c[0] + fx * (c[1] - c[0]), c[2] + fx * (c[3] - c[2])
    line10, line11 = c[4] + fx * (c[5] - c[4]), c[6] + fx * (c[7] - c[6])
    plane0, plane1 = line00 + fy * (line01 - line00), line10 + fy * (line11 - line10)
    return plane0 + fz * (plane1 - plane0)


@compiled
def value_and_slope(c: tl.tuple, fx: tl.tensor, fy: tl.tensor, fz: tl.tensor) -> Any:
    """Trilinear value and its derivatives along x, y and z, per grid step."""
    dx00, dx01, dx10, dx11 = c[1] - c[0], c[3] - c[2], c[5] - c[4], c[7] - c[6]
    line00, line01 = c[0] + fx * dx00, c[2] + fx * dx01
    line10, line11 = c[4] + fx * dx10, c[6] + fx * dx11
    dy0, dy1 = line01 - line00, line11 - line10
    plane0, plane1 = line00 + fy * dy0, line10 + fy * dy1
    along_x0, along_x1 = dx00 + fy * (dx01 - dx00), dx10 + fy * (dx11 - dx10)
    along_z = plane1 - plane0
    along_y = dy0 + fz * (dy1 - dy0)
    along_x = along_x0 + fz * (along_x1 - along_x0)
    return plane0 + fz * along_z, along_x, along_y, along_z


@compiled
def pair_values(
    grid: tl.tensor,
    side: tl.tensor,
    turn: tl.tuple,
    kx: tl.tensor,
    ky: tl.tensor,
    WIDE: tl.constexpr,
) -> Any:
    """Trilinear values at k and -k; frequencies in grid steps."""
    base, fx, fy, fz = cell(turn, kx, ky, side, WIDE)
    mirror = last_cell(side, WIDE) - base
    straight = interpolated(corner_values(grid, base, side, 1), fx, fy, fz)
    mirrored = interpolated(corner_values(grid, mirror, side, -1), fx, fy, fz)
    return straight, mirrored


@compiled
def pair_slopes(
    grid: tl.tensor,
    side: tl.tensor,
    turn: tl.tuple,
    kx: tl.tensor,
    ky: tl.tensor,
    WIDE: tl.constexpr,
) -> Any:
    """Values and slopes at k, then at -k, the latter along the axes of the mirrored grid."""
    base, fx, fy, fz = cell(turn, kx, ky, side, WIDE)
    mirror = last_cell(side, WIDE) - base
    straight = value_and_slope(corner_values(grid, base, side, 1), fx, fy, fz)
    mirrored = value_and_slope(corner_values(grid, mirror, side, -1), fx, fy, fz)
    return straight, mirrored


@compiled
def slice_rows(
    grid: tl.tensor,
    side: tl.tensor,
    rotation: tl.tensor,
    frequency: tl.tensor,
    stride: tl.tensor,
    oversampling: tl.tensor,
    n_points: tl.tensor,
    out: tl.tensor,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Values at the points of each rotation, into ``out`` (image, 2 point)."""
    n = tl.program_id(0)
    p = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = p < n_points
    kx, ky = frequencies(frequency, stride, p, inside)
    turn = turn_of(rotation, n)
    straight, mirrored = pair_values(grid, side, turn, oversampling * kx, oversampling * ky, WIDE)
    at = out + n.to(tl.int64) * (2 * n_points) + 2 * p
    tl.store(at, straight, mask=inside)
    tl.store(at + 1, mirrored, mask=inside)


@compiled
def spread_rows(
    grid: tl.tensor,
    side: tl.tensor,
    rotation: tl.tensor,
    frequency: tl.tensor,
    stride: tl.tensor,
    oversampling: tl.tensor,
    n_points: tl.tensor,
    rows: tl.tensor,
    row_stride: tl.tensor,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Add every coefficient to its eight corners, atomically."""
    n = tl.program_id(0)
    p = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = p < n_points
    kx, ky = frequencies(frequency, stride, p, inside)
    straight, mirrored = pair_of(rows + n.to(tl.int64) * row_stride, p, inside)
    turn = turn_of(rotation, n)
    base, fx, fy, fz = cell(turn, oversampling * kx, oversampling * ky, side, WIDE)
    mirror = last_cell(side, WIDE) - base
    for corner in tl.static_range(8):
        dx, dy, dz = corner % 2, corner // 2 % 2, corner // 4
        weight = (
            (fx if dx == 1 else 1 - fx) * (fy if dy == 1 else 1 - fy) * (fz if dz == 1 else 1 - fz)
        )
        step = (dz * side + dy) * side + dx
        tl.atomic_add(grid + (base + step), weight * straight, mask=inside, sem="relaxed")
        tl.atomic_add(grid + (mirror - step), weight * mirrored, mask=inside, sem="relaxed")
