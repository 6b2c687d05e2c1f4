"""Triton kernels that sum over the points of a pose: fits, gradients and Gauss-Newton matrices.

A program has one pose and one span of its points, and writes its sums beside those of the other spans.

For ``R <- exp(w^) R`` a point moves by ``dq = w x (k, 0)`` turned into the volume, so with the slope of
the spectrum along the rows of R, ``(u, v, n) = R slope``, the slice changes by
``dS = -ky n wx + kx n wy + (ky u - kx v) wz``. For a shift t in fractions of the box,
``dH(k) / dt = 2 pi k H(-k)`` (see :mod:`cryogimbal.imaging.shifts`).
"""

from typing import Any

import triton.language as tl

from cryogimbal.imaging.kernels.triton_loops import (
    compiled,
    frequencies,
    pair_of,
    pair_slopes,
    pair_values,
    turn_of,
)

TWO_PI: tl.constexpr = tl.constexpr(6.283185307179586)


@compiled
def moved(pair: tl.tuple, wave: tl.tuple) -> Any:
    """Coefficients at k and -k of an image moved by a shift of which ``wave`` is cosine and sine."""
    return wave[0] * pair[0] + wave[1] * pair[1], wave[0] * pair[1] - wave[1] * pair[0]


@compiled
def wave_of(shift: tl.tensor, n: tl.tensor, kx: tl.tensor, ky: tl.tensor) -> Any:
    """Cosine and sine of ``2 pi k.t``."""
    at = shift + 2 * n
    phase = TWO_PI * (kx * tl.load(at) + ky * tl.load(at + 1))
    return tl.cos(phase), tl.sin(phase)


@compiled
def turned(turn: tl.tuple, kx: tl.tensor, ky: tl.tensor, values: tl.tuple) -> Any:
    """Value at a point and its three derivatives in w."""
    value, x, y, z = values
    u = x * turn[0] + y * turn[1] + z * turn[2]
    v = x * turn[3] + y * turn[4] + z * turn[5]
    n = x * turn[6] + y * turn[7] + z * turn[8]
    return value, -ky * n, kx * n, ky * u - kx * v


@compiled
def added(sums: tl.tuple, d: tl.tensor, s: tl.tensor, j: tl.tuple, N: tl.constexpr) -> Any:
    """Sums of residual, power, gradient and triangle with one more coefficient.

    Its residual is d, its prediction s, and j are its N derivatives.
    """
    new = (sums[0] + d * d, sums[1] + s * s)
    for a in tl.static_range(N):
        new = new + (sums[2 + a] + d * j[a],)
    for a in tl.static_range(N):
        for b in tl.static_range(a, N):
            # The triangle row by row: row a begins after the a longer rows above it.
            new = new + (sums[2 + N + a * N - a * (a - 1) // 2 + b - a] + j[a] * j[b],)
    return new


@compiled
def rotation_gradient(
    grid: tl.tensor,
    side: tl.tensor,
    rotation: tl.tensor,
    frequency: tl.tensor,
    stride: tl.tensor,
    oversampling: tl.tensor,
    n_points: tl.tensor,
    span: tl.tensor,
    rows: tl.tensor,
    row_stride: tl.tensor,
    out: tl.tensor,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Pull gradients of rows back to the two rows of R that a slice uses, six sums each.

    ``dq = k dR``, so ``out[image, part, i] = sum of k_i row slope``.
    """
    n, part = tl.program_id(0), tl.program_id(1)
    row, turn = rows + n.to(tl.int64) * row_stride, turn_of(rotation, n)
    zero = tl.zeros((BLOCK,), rotation.dtype.element_ty)
    x0, y0, z0, x1, y1, z1 = zero, zero, zero, zero, zero, zero
    for first in range(part * span, min((part + 1) * span, n_points), BLOCK):
        p = first + tl.arange(0, BLOCK)
        inside = p < n_points
        kx, ky = frequencies(frequency, stride, p, inside)
        kx, ky = oversampling * kx, oversampling * ky
        at_k, at_mirror = pair_slopes(grid, side, turn, kx, ky, WIDE)
        a, b = pair_of(row, p, inside)
        sx = a * at_k[1] + b * at_mirror[1]
        sy = a * at_k[2] + b * at_mirror[2]
        sz = a * at_k[3] + b * at_mirror[3]
        x0, y0, z0 = x0 + kx * sx, y0 + kx * sy, z0 + kx * sz
        x1, y1, z1 = x1 + ky * sx, y1 + ky * sy, z1 + ky * sz
    at = out + (n.to(tl.int64) * tl.num_programs(1) + part) * 6
    tl.store(at, tl.sum(x0, 0))
    tl.store(at + 1, tl.sum(y0, 0))
    tl.store(at + 2, tl.sum(z0, 0))
    tl.store(at + 3, tl.sum(x1, 0))
    tl.store(at + 4, tl.sum(y1, 0))
    tl.store(at + 5, tl.sum(z1, 0))


@compiled
def fits(
    grid: tl.tensor,
    side: tl.tensor,
    rotation: tl.tensor,
    frequency: tl.tensor,
    stride: tl.tensor,
    oversampling: tl.tensor,
    n_points: tl.tensor,
    span: tl.tensor,
    shift: tl.tensor,
    image: tl.tensor,
    ctf: tl.tensor,
    ctf_stride: tl.tensor,
    observed: tl.tensor,
    observed_stride: tl.tensor,
    out: tl.tensor,
    SHIFTED: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """``out[n, part] = (sum of (C S - H)^2, sum of (C S)^2)`` of pose n of image ``image[n]``."""
    n, part = tl.program_id(0), tl.program_id(1)
    turn, which = turn_of(rotation, n), tl.load(image + n).to(tl.int64)
    c_row, h_row = ctf + which * ctf_stride + 1, observed + which * observed_stride + 1
    residual = tl.zeros((BLOCK,), rotation.dtype.element_ty)
    power = tl.zeros((BLOCK,), rotation.dtype.element_ty)
    for first in range(part * span, min((part + 1) * span, n_points), BLOCK):
        p = first + tl.arange(0, BLOCK)
        inside = p < n_points
        kx, ky = frequencies(frequency, stride, p, inside)
        pair = pair_values(grid, side, turn, oversampling * kx, oversampling * ky, WIDE)
        if SHIFTED:
            pair = moved(pair, wave_of(shift, n, kx, ky))
        a, b = pair_of(c_row, p, inside)
        g, h = pair_of(h_row, p, inside)
        a, b = a * pair[0], b * pair[1]
        residual += (a - g) * (a - g) + (b - h) * (b - h)
        power += a * a + b * b
    at = out + (n.to(tl.int64) * tl.num_programs(1) + part) * 2
    tl.store(at, tl.sum(residual, 0))
    tl.store(at + 1, tl.sum(power, 0))


@compiled
def sweep(
    grid: tl.tensor,
    side: tl.tensor,
    rotation: tl.tensor,
    frequency: tl.tensor,
    stride: tl.tensor,
    oversampling: tl.tensor,
    n_points: tl.tensor,
    span: tl.tensor,
    shift: tl.tensor,
    image: tl.tensor,
    ctf: tl.tensor,
    ctf_stride: tl.tensor,
    observed: tl.tensor,
    observed_stride: tl.tensor,
    out: tl.tensor,
    SHIFTED: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """``out[n, part]``: residual, power, gradient ``J'r`` and upper triangle of ``J'J`` of pose n."""
    N: tl.constexpr = 5 if SHIFTED else 3
    N_SUMS: tl.constexpr = 2 + N + N * (N + 1) // 2
    n, part = tl.program_id(0), tl.program_id(1)
    turn, which = turn_of(rotation, n), tl.load(image + n).to(tl.int64)
    c_row, h_row = ctf + which * ctf_stride + 1, observed + which * observed_stride + 1
    zero = tl.zeros((BLOCK,), rotation.dtype.element_ty)
    sums = (zero,) * N_SUMS
    for first in range(part * span, min((part + 1) * span, n_points), BLOCK):
        p = first + tl.arange(0, BLOCK)
        inside = p < n_points
        kx, ky = frequencies(frequency, stride, p, inside)
        gx, gy = oversampling * kx, oversampling * ky
        at_k, at_mirror = pair_slopes(grid, side, turn, gx, gy, WIDE)
        s, m = turned(turn, gx, gy, at_k), turned(turn, gx, gy, at_mirror)
        a, b = pair_of(c_row, p, inside)
        g, h = pair_of(h_row, p, inside)
        if SHIFTED:
            wave = wave_of(shift, n, kx, ky)
            s0, m0 = moved((s[0], m[0]), wave)
            s1, m1 = moved((s[1], m[1]), wave)
            s2, m2 = moved((s[2], m[2]), wave)
            s3, m3 = moved((s[3], m[3]), wave)
            wx, wy = TWO_PI * kx, TWO_PI * ky
            js = (a * s1, a * s2, a * s3, a * wx * m0, a * wy * m0)
            jm = (b * m1, b * m2, b * m3, -b * wx * s0, -b * wy * s0)
        else:
            s0, m0 = s[0], m[0]
            js, jm = (a * s[1], a * s[2], a * s[3]), (b * m[1], b * m[2], b * m[3])
        sums = added(sums, a * s0 - g, a * s0, js, N)
        sums = added(sums, b * m0 - h, b * m0, jm, N)
    at = out + (n.to(tl.int64) * tl.num_programs(1) + part) * N_SUMS
    for place in tl.static_range(N_SUMS):
        tl.store(at + place, tl.sum(sums[place], 0))
