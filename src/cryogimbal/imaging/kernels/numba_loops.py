"""Compiled inner loops over the points of a slice, image by image.

The grid is real, flat and symmetric about its middle, so the mirrored spectrum is the flat grid read
backwards: the cell with lower corner ``b`` has its mirror at ``side**3 - 1 - b``. Frequencies are half
a disc, (axis, point) in grid steps; rows hold the coefficients at k and -k side by side, and rows of
images begin with the zero frequency, which is left to the caller.

The arithmetic is arranged so that LLVM makes vector instructions of the loop over points: indices are
32-bit and unsigned (a signed one is tested for wrapping), and no body branches.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

Array = np.ndarray


def compiled(function: Callable[..., Any]) -> Any:
    """Compile on first use; sums may be reordered, without which none is vectorised.

    A checker of annotations may have wrapped the function; what is compiled is the function itself.
    """
    options = {"nogil": True, "fastmath": True, "error_model": "numpy"}
    try:
        return numba.njit(**options, cache=True)(inspect.unwrap(function))
    except RuntimeError:
        # No folder to keep compiled code in can be written: every run compiles anew (seconds).
        return numba.njit(**options)(inspect.unwrap(function))


@compiled
def cell(rotation: Array, kx: Any, ky: Any, side: int) -> Any:
    """Lower corner (flat index) of the cell around ``k @ rotation``, and the place inside it."""
    middle, top = np.float32(side // 2), np.int32(side - 2)
    x = kx * rotation[0, 0] + ky * rotation[1, 0] + middle
    y = kx * rotation[0, 1] + ky * rotation[1, 1] + middle
    z = kx * rotation[0, 2] + ky * rotation[1, 2] + middle
    # Rounding may push a point of the outermost ring past the last cell; it stays in that cell.
    ix, iy, iz = min(np.int32(x), top), min(np.int32(y), top), min(np.int32(z), top)
    base = (iz * np.int32(side) + iy) * np.int32(side) + ix
    return base, x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)


@compiled
def corner_values(grid: Array, base: Any, sign: int, side: int) -> Any:
    """Eight corners of a cell, x fastest; ``sign`` -1 walks backwards from the mirrored corner."""
    x, y, z = np.int32(sign), np.int32(sign * side), np.int32(sign * side * side)
    return (
        grid[np.uint32(base)],
        grid[np.uint32(base + x)],
        grid[np.uint32(base + y)],
        grid[np.uint32(base + y + x)],
        grid[np.uint32(base + z)],
        grid[np.uint32(base + z + x)],
        grid[np.uint32(base + z + y)],
        grid[np.uint32(base + z + y + x)],
    )


@compiled
def interpolated(corners: Any, fx: Any, fy: Any, fz: Any) -> Any:
    """Trilinear value."""
    c000, c001, c010, c011, c100, c101, c110, c111 = corners
    line00, line01 = c000 + fx * (c001 - c000), c010 + fx * (c011 - c010)
    line10, line11 = c100 + fx * (c101 - c100), c110 + fx * (c111 - c110)
    plane0, plane1 = line00 + fy * (line01 - line00), line10 + fy * (line11 - line10)
    return plane0 + fz * (plane1 - plane0)


@compiled
def value_and_slope(corners: Any, fx: Any, fy: Any, fz: Any) -> Any:
    """Trilinear value and its derivatives along x, y and z, per grid step."""
    c000, c001, c010, c011, c100, c101, c110, c111 = corners
    dx00, dx01, dx10, dx11 = c001 - c000, c011 - c010, c101 - c100, c111 - c110
    line00, line01 = c000 + fx * dx00, c010 + fx * dx01
    line10, line11 = c100 + fx * dx10, c110 + fx * dx11
    dy0, dy1 = line01 - line00, line11 - line10
    plane0, plane1 = line00 + fy * dy0, line10 + fy * dy1
    along_x0, along_x1 = dx00 + fy * (dx01 - dx00), dx10 + fy * (dx11 - dx10)
    along_z = plane1 - plane0
    along_y = dy0 + fz * (dy1 - dy0)
    along_x = along_x0 + fz * (along_x1 - along_x0)
    return plane0 + fz * along_z, along_x, along_y, along_z


@compiled
def slice_rows(grid: Array, side: int, rotation: Array, frequency: Array, out: Array) -> None:
    """Values at the points of each rotation, into ``out`` (image, 2 point)."""
    last = np.int32(side * side * side - 1)
    for image in range(rotation.shape[0]):
        turn, row = rotation[image], out[image]
        for p in range(frequency.shape[1]):
            base, fx, fy, fz = cell(turn, frequency[0, p], frequency[1, p], side)
            row[2 * p] = interpolated(corner_values(grid, base, 1, side), fx, fy, fz)
            row[2 * p + 1] = interpolated(corner_values(grid, last - base, -1, side), fx, fy, fz)


@compiled
def rotation_gradient(
    rows: Array, grid: Array, side: int, rotation: Array, frequency: Array, out: Array
) -> None:
    """Pull gradients of rows (image, 2 point) back to the two rows of R that a slice uses.

    ``dq = k dR``, so ``out[image, i] = sum of k_i row slope``.
    """
    last = np.int32(side * side * side - 1)
    for image in range(rotation.shape[0]):
        turn, row = rotation[image], rows[image]
        zero = turn[0, 0] - turn[0, 0]
        x0, y0, z0, x1, y1, z1 = zero, zero, zero, zero, zero, zero
        for p in range(frequency.shape[1]):
            kx, ky = frequency[0, p], frequency[1, p]
            base, fx, fy, fz = cell(turn, kx, ky, side)
            _, ax, ay, az = value_and_slope(corner_values(grid, base, 1, side), fx, fy, fz)
            _, bx, by, bz = value_and_slope(corner_values(grid, last - base, -1, side), fx, fy, fz)
            straight, mirrored = row[2 * p], row[2 * p + 1]
            sx, sy, sz = (
                straight * ax + mirrored * bx,
                straight * ay + mirrored * by,
                straight * az + mirrored * bz,
            )
            x0, y0, z0 = x0 + kx * sx, y0 + kx * sy, z0 + kx * sz
            x1, y1, z1 = x1 + ky * sx, y1 + ky * sy, z1 + ky * sz
        out[image, 0, 0], out[image, 0, 1], out[image, 0, 2] = x0, y0, z0
        out[image, 1, 0], out[image, 1, 1], out[image, 1, 2] = x1, y1, z1


@compiled
def fits(
    grid: Array,
    side: int,
    rotation: Array,
    image: Array,
    frequency: Array,
    ctf: Array,
    observed: Array,
    out: Array,
) -> None:
    """``out[n] = (sum of (C S - H)^2, sum of (C S)^2)`` of hypothesis n of image ``image[n]``."""
    last = np.int32(side * side * side - 1)
    for n in range(rotation.shape[0]):
        turn, c_row, h_row = rotation[n], ctf[image[n]], observed[image[n]]
        residual = turn[0, 0] - turn[0, 0]
        power = residual
        for p in range(frequency.shape[1]):
            base, fx, fy, fz = cell(turn, frequency[0, p], frequency[1, p], side)
            straight = interpolated(corner_values(grid, base, 1, side), fx, fy, fz)
            mirrored = interpolated(corner_values(grid, last - base, -1, side), fx, fy, fz)
            a, b = c_row[2 * p + 1] * straight, c_row[2 * p + 2] * mirrored
            da, db = a - h_row[2 * p + 1], b - h_row[2 * p + 2]
            residual += da * da + db * db
            power += a * a + b * b
        out[n, 0], out[n, 1] = residual, power
