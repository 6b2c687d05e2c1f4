"""Slicing in plain tensor operations: runs on every device, slower.

Slices need H at q and at -q, with the same trilinear weights: both are stored side by side as one
complex number and every corner is fetched once for two coefficients. Points are processed in chunks
that stay in the cache.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryogimbal.imaging.kernels.contract import Hypotheses, PoseSweep, SlicePoints

NAME = "torch"

# Points per chunk on a CPU; the temporaries of one chunk then fit into the second-level cache.
CHUNK_POINTS_CPU = 1 << 16
CHUNK_POINTS_DEVICE = 1 << 24


def prepare(grid: Float[Tensor, "side side side"]) -> Complex[Tensor, "side side side"]:
    """``H(q) + i H(-q)``."""
    return torch.complex(grid, grid.flip(0, 1, 2))


def slice_rows(prepared: Tensor, rotation: Tensor, points: SlicePoints) -> Tensor:
    """Values at ``k @ rotation`` and ``-k @ rotation``."""
    out = rotation.new_empty(rotation.shape[0], 2 * points.frequency.shape[0])
    for rows, base, (wx, wy, wz) in _chunks(rotation, points, prepared.shape[-1]):
        x0, x1 = _corner_edges(prepared, base)
        lines = torch.lerp(x0, x1, wx)
        planes = torch.lerp(lines[0::2], lines[1::2], wy)
        out[rows] = torch.lerp(planes[0], planes[1], wz).view_as(out[rows])
    return out


def grid_gradient(rows: Tensor, prepared: Tensor, rotation: Tensor, points: SlicePoints) -> Tensor:
    """Gradient in ``prepared``: what belongs to q as real part, to -q as imaginary part."""
    side = prepared.shape[-1]
    straight, mirrored = rows.new_zeros(side**3), rows.new_zeros(side**3)
    for index, values in _corners(rows, rotation, points, side):
        straight.scatter_add_(0, index, values[0::2].contiguous())
        mirrored.scatter_add_(0, index, values[1::2].contiguous())
    return torch.complex(straight, mirrored).view(side, side, side)


def rotation_gradient(
    rows: Tensor, prepared: Tensor, rotation: Tensor, points: SlicePoints
) -> Float[Tensor, "n 3 3"]:
    """Gradient in the rotations: the trilinear interpolant's own slope.

    ``q = kx R[0] + ky R[1]``, so ``dL/dR[0] = sum kx dL/dq`` and likewise for the second row; the
    third row (the view direction) is not used by a slice through the origin.
    """
    out, frequency = torch.zeros_like(rotation), points.grid_steps
    for chunk, _, slope in _values_and_slopes(prepared, rotation, points):
        # (3, image, pair): both members of a pair depend on the same point q.
        by_point = (slope * rows[chunk]).unflatten(-1, (frequency.shape[0], 2)).sum(-1)
        out[chunk, :2] = torch.matmul(by_point, frequency).permute(1, 2, 0)
    return out


def spread_rows(
    grids: Sequence[Tensor], rows: Sequence[Tensor], rotation: Tensor, points: SlicePoints
) -> None:
    """Add the adjoint of slicing to real grids, in place, one set of rows for each."""
    for grid, values_of_grid in zip(grids, rows, strict=True):
        side, flat = grid.shape[-1], grid.view(-1)
        for index, values in _corners(values_of_grid, rotation, points, side):
            flat.scatter_add_(0, index, values[0::2].contiguous())
            flat.scatter_add_(0, (side**3 - 1) - index, values[1::2].contiguous())


def fits(
    prepared: Tensor, hypotheses: Hypotheses, points: SlicePoints, ctf: Tensor, observed: Tensor
) -> tuple[Float[Tensor, " hypothesis"], Float[Tensor, " hypothesis"]]:
    """Residual and power of each hypothesis, the zero frequency left out."""
    rows = slice_rows(prepared, hypotheses.rotation, points)
    if hypotheses.shift_box is not None:
        cosine, sine = _waves(hypotheses.shift_box, points)
        rows = cosine * rows + sine * _mirrored(rows)
    predicted = rows * ctf[hypotheses.image, 1:]
    residual = predicted - observed[hypotheses.image, 1:]
    return residual.square().sum(1), predicted.square().sum(1)


def sweep(
    prepared: Tensor, hypotheses: Hypotheses, points: SlicePoints, ctf: Tensor, observed: Tensor
) -> PoseSweep:
    """Residual, power, gradient and Gauss-Newton matrix, the zero frequency left out.

    A point moves by ``dq = w x (k, 0)`` turned into the volume, so with the slope of the spectrum along
    the rows of R, ``(u, v, n) = R slope``, the slice changes by
    ``dS = -ky n wx + kx n wy + (ky u - kx v) wz``. For a shift t in fractions of the box,
    ``dH(k) / dt = 2 pi k H(-k)``.
    """
    parts = []
    kx, ky = points.grid_steps.repeat_interleave(2, dim=0).unbind(-1)
    for chunk, values, slope in _values_and_slopes(prepared, hypotheses.rotation, points):
        u, v, n = torch.einsum("hij,jhp->ihp", hypotheses.rotation[chunk], slope)
        rows = torch.stack([values, -ky * n, kx * n, ky * u - kx * v])
        if hypotheses.shift_box is not None:
            rows = _shifted_with_derivatives(rows, hypotheses.shift_box[chunk], points)
        image = hypotheses.image[chunk]
        rows = rows * ctf[image, 1:]
        residual = rows[0] - observed[image, 1:]
        jacobian = rows[1:]
        parts.append(
            (
                residual.square().sum(1),
                rows[0].square().sum(1),
                torch.einsum("ahp,hp->ha", jacobian, residual),
                torch.einsum("ahp,bhp->hab", jacobian, jacobian),
            )
        )
    residual, power, gradient, curvature = (torch.cat(sums) for sums in zip(*parts, strict=True))
    return PoseSweep(residual=residual, power=power, gradient=gradient, curvature=curvature)


def _shifted_with_derivatives(rows: Tensor, shift_box: Tensor, points: SlicePoints) -> Tensor:
    """Slices and their derivatives moved by a shift, and two derivatives more."""
    cosine, sine = _waves(shift_box, points)
    rows = cosine * rows + sine * _mirrored(rows)
    wave = points.wave.repeat_interleave(2, dim=0)
    wave[1::2] *= -1
    by_shift = [wave[:, axis] * _mirrored(rows[0]) for axis in (0, 1)]
    return torch.cat([rows, torch.stack(by_shift)])


def _waves(shift_box: Tensor, points: SlicePoints) -> tuple[Tensor, Tensor]:
    """Cosine and sine of ``2 pi k.t`` at k and -k side by side."""
    phase = shift_box @ points.wave.T
    cosine = phase.cos().repeat_interleave(2, dim=1)
    return cosine, torch.stack([phase.sin(), -phase.sin()], dim=-1).flatten(-2)


def _mirrored(rows: Tensor) -> Tensor:
    return rows.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


def _chunks(
    rotation: Tensor, points: SlicePoints, side: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Per chunk of rotations: lower corner (flat index) and fractions (axis, 2 x point) of x, y, z."""
    frequency = points.grid_steps
    limit = CHUNK_POINTS_CPU if rotation.device.type == "cpu" else CHUNK_POINTS_DEVICE
    size = max(1, limit // max(1, frequency.shape[0]))
    stride = torch.tensor([1, side, side * side], device=rotation.device)
    for start in range(0, rotation.shape[0], size):
        rows = slice(start, min(start + size, rotation.shape[0]))
        point = torch.matmul(frequency, rotation[rows, :2]).reshape(-1, 3).T.contiguous()
        point += side // 2
        # Rounding may push a point of the outermost ring past the last cell; it stays in that cell.
        corner = point.floor().clamp_(0, side - 2)
        fraction = (point - corner).repeat_interleave(2, dim=1)
        base = (corner.long() * stride[:, None]).sum(0)
        yield rows, base, fraction


def _corner_edges(prepared: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """Values at the four lower-x and the four upper-x corners, (4, 2 x point), ordered y fastest."""
    side, flat = prepared.shape[-1], prepared.reshape(-1)
    offsets = (0, side, side * side, side * side + side)
    lower = torch.stack([flat.index_select(0, base + o) for o in offsets])
    upper = torch.stack([flat.index_select(0, base + (o + 1)) for o in offsets])
    return torch.view_as_real(lower).flatten(1), torch.view_as_real(upper).flatten(1)


def _values_and_slopes(
    prepared: Tensor, rotation: Tensor, points: SlicePoints
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Per chunk of rotations: rows of values, and their slopes along x, y, z per grid step."""
    for rows, base, (wx, wy, wz) in _chunks(rotation, points, prepared.shape[-1]):
        x0, x1 = _corner_edges(prepared, base)
        lines, along_x = torch.lerp(x0, x1, wx), x1 - x0
        planes, along_y = torch.lerp(lines[0::2], lines[1::2], wy), lines[1::2] - lines[0::2]
        plane_x = torch.lerp(along_x[0::2], along_x[1::2], wy)
        slope = torch.stack(
            [
                torch.lerp(plane_x[0], plane_x[1], wz),
                torch.lerp(along_y[0], along_y[1], wz),
                planes[1] - planes[0],
            ]
        )
        shape = (rows.stop - rows.start, 2 * points.frequency.shape[0])
        yield rows, torch.lerp(planes[0], planes[1], wz).view(shape), slope.view(3, *shape)


def _corners(
    rows: Tensor, rotation: Tensor, points: SlicePoints, side: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Per chunk and corner: flat index of each point, and what its pair of coefficients leaves there."""
    for chunk, base, (wx, wy, wz) in _chunks(rotation, points, side):
        values = rows[chunk].reshape(-1)
        for dz, by_z in ((0, values * (1 - wz)), (1, values * wz)):
            for dy, by_y in ((0, by_z * (1 - wy)), (1, by_z * wy)):
                for dx, corner in ((0, by_y * (1 - wx)), (1, by_y * wx)):
                    yield base + ((dz * side + dy) * side + dx), corner
