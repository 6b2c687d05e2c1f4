"""Compiled sweeps that give residual, gradient and Gauss-Newton matrix of every pose at once.

For ``R <- exp(w^) R`` a point moves by ``dq = w x (k, 0)`` turned into the volume, so with the slope of
the spectrum along the rows of R, ``(u, v, n) = R slope``, the slice changes by
``dS = -ky n wx + kx n wy + (ky u - kx v) wz``. For a shift t in fractions of the box,
``dH(k) / dt = 2 pi k H(-k)`` (see :mod:`cryogimbal.imaging.shifts`).
"""

from typing import Any

import numpy as np

from cryogimbal.imaging.kernels.numba_loops import (
    Array,
    cell,
    compiled,
    corner_values,
    value_and_slope,
)


@compiled
def turned(rotation: Array, kx: Any, ky: Any, values: Any) -> Any:
    """Value at a point and its three derivatives in w."""
    value, x, y, z = values
    u = x * rotation[0, 0] + y * rotation[0, 1] + z * rotation[0, 2]
    v = x * rotation[1, 0] + y * rotation[1, 1] + z * rotation[1, 2]
    n = x * rotation[2, 0] + y * rotation[2, 1] + z * rotation[2, 2]
    return value, -ky * n, kx * n, ky * u - kx * v


@compiled
def rotation_sweep(
    grid: Array,
    side: int,
    rotation: Array,
    image: Array,
    frequency: Array,
    ctf: Array,
    observed: Array,
    out: Array,
) -> None:
    """``out[n]``: residual, power, 3 of the gradient ``J'r``, 6 of the upper triangle of ``J'J``."""
    last = np.int32(side * side * side - 1)
    for n in range(rotation.shape[0]):
        turn, c_row, h_row = rotation[n], ctf[image[n]], observed[image[n]]
        zero = turn[0, 0] - turn[0, 0]
        residual, power, g0, g1, g2 = zero, zero, zero, zero, zero
        h00, h01, h02, h11, h12, h22 = zero, zero, zero, zero, zero, zero
        for p in range(frequency.shape[1]):
            kx, ky = frequency[0, p], frequency[1, p]
            base, fx, fy, fz = cell(turn, kx, ky, side)
            straight = value_and_slope(corner_values(grid, base, 1, side), fx, fy, fz)
            mirrored = value_and_slope(corner_values(grid, last - base, -1, side), fx, fy, fz)
            s, s0, s1, s2 = turned(turn, kx, ky, straight)
            m, m0, m1, m2 = turned(turn, kx, ky, mirrored)
            a, b = c_row[2 * p + 1], c_row[2 * p + 2]
            s, s0, s1, s2 = a * s, a * s0, a * s1, a * s2
            m, m0, m1, m2 = b * m, b * m0, b * m1, b * m2
            ds, dm = s - h_row[2 * p + 1], m - h_row[2 * p + 2]
            residual += ds * ds + dm * dm
            power += s * s + m * m
            g0 += ds * s0 + dm * m0
            g1 += ds * s1 + dm * m1
            g2 += ds * s2 + dm * m2
            h00 += s0 * s0 + m0 * m0
            h01 += s0 * s1 + m0 * m1
            h02 += s0 * s2 + m0 * m2
            h11 += s1 * s1 + m1 * m1
            h12 += s1 * s2 + m1 * m2
            h22 += s2 * s2 + m2 * m2
        row = out[n]
        row[0], row[1], row[2], row[3], row[4] = residual, power, g0, g1, g2
        row[5], row[6], row[7], row[8], row[9], row[10] = h00, h01, h02, h11, h12, h22


@compiled
def no_sums(zero: Any) -> Any:
    """Residual, gradient and triangle of five parameters, all zero."""
    five = (zero, zero, zero, zero, zero)
    return (zero, *five, *five, *five, *five)


@compiled
def added(sums: Any, d: Any, j: Any) -> Any:
    """The sums with one more coefficient: its residual d and five derivatives j."""
    (
        q,
        g0,
        g1,
        g2,
        g3,
        g4,
        h00,
        h01,
        h02,
        h03,
        h04,
        h11,
        h12,
        h13,
        h14,
        h22,
        h23,
        h24,
        h33,
        h34,
        h44,
    ) = sums
    j0, j1, j2, j3, j4 = j
    return (
        q + d * d,
        g0 + d * j0,
        g1 + d * j1,
        g2 + d * j2,
        g3 + d * j3,
        g4 + d * j4,
        h00 + j0 * j0,
        h01 + j0 * j1,
        h02 + j0 * j2,
        h03 + j0 * j3,
        h04 + j0 * j4,
        h11 + j1 * j1,
        h12 + j1 * j2,
        h13 + j1 * j3,
        h14 + j1 * j4,
        h22 + j2 * j2,
        h23 + j2 * j3,
        h24 + j2 * j4,
        h33 + j3 * j3,
        h34 + j3 * j4,
        h44 + j4 * j4,
    )


@compiled
def pose_sweep(
    grid: Array,
    side: int,
    rotation: Array,
    image: Array,
    frequency: Array,
    wave: Array,
    cosine: Array,
    sine: Array,
    ctf: Array,
    observed: Array,
    out: Array,
) -> None:
    """As :func:`rotation_sweep` for rotation and shift: 5 of the gradient, 15 of the triangle.

    ``wave`` is ``2 pi k`` (axis, point) per box; ``cosine`` and ``sine`` (n, point) are of ``wave . t``.
    """
    last = np.int32(side * side * side - 1)
    for n in range(rotation.shape[0]):
        turn, c_row, h_row = rotation[n], ctf[image[n]], observed[image[n]]
        power = turn[0, 0] - turn[0, 0]
        sums = no_sums(power)
        for p in range(frequency.shape[1]):
            kx, ky, wx, wy = frequency[0, p], frequency[1, p], wave[0, p], wave[1, p]
            c, d = cosine[n, p], sine[n, p]
            base, fx, fy, fz = cell(turn, kx, ky, side)
            straight = value_and_slope(corner_values(grid, base, 1, side), fx, fy, fz)
            mirrored = value_and_slope(corner_values(grid, last - base, -1, side), fx, fy, fz)
            s, s0, s1, s2 = turned(turn, kx, ky, straight)
            m, m0, m1, m2 = turned(turn, kx, ky, mirrored)
            s, s0, s1, s2, m, m0, m1, m2 = (
                c * s + d * m,
                c * s0 + d * m0,
                c * s1 + d * m1,
                c * s2 + d * m2,
                c * m - d * s,
                c * m0 - d * s0,
                c * m1 - d * s1,
                c * m2 - d * s2,
            )
            a, b = c_row[2 * p + 1], c_row[2 * p + 2]
            js = (a * s0, a * s1, a * s2, a * wx * m, a * wy * m)
            jm = (b * m0, b * m1, b * m2, -b * wx * s, -b * wy * s)
            s, m = a * s, b * m
            ds, dm = s - h_row[2 * p + 1], m - h_row[2 * p + 2]
            sums = added(sums, ds, js)
            sums = added(sums, dm, jm)
            power += s * s + m * m
        out[n, 0], out[n, 1] = sums[0], power
        for place in range(20):
            out[n, 2 + place] = sums[1 + place]
