"""Central slices of a Hartley spectrum, and their exact adjoint.

The spectrum lives on a symmetric grid of odd side, zero frequency in the middle, so the flattened
grid reversed is the mirrored spectrum. Slices need H at q and at -q, with the same trilinear weights:
both are stored side by side as one complex number and every corner is fetched once for two
coefficients. Points are processed in chunks that stay in the cache.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryogimbal.fourier.disc import Disc

# Points per chunk on a CPU; the temporaries of one chunk then fit into the second-level cache.
CHUNK_POINTS_CPU = 1 << 16
CHUNK_POINTS_DEVICE = 1 << 24


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
    return paired_slices(pair_spectrum(grid), rotation, disc, oversampling)


def pair_spectrum(
    grid: Float[Tensor, "side side side"],
) -> Complex[Tensor, "side side side"]:
    """``H(q) + i H(-q)``: what slicing fetches; make it once where a grid is sliced many times."""
    return torch.complex(grid, grid.flip(0, 1, 2))


def paired_slices(
    paired: Complex[Tensor, "side side side"],
    rotation: Float[Tensor, "*n 3 3"],
    disc: Disc,
    oversampling: int,
) -> Float[Tensor, "*n coefficient"]:
    """:func:`central_slices` of a grid that is paired already."""
    middle = paired.shape[-1] // 2
    frequency = disc.frequency_index[1::2].to(rotation.dtype) * oversampling
    pairs = _PairedSlices.apply(paired, rotation.reshape(-1, 3, 3), frequency)
    zero = paired[middle, middle, middle].real.expand(pairs.shape[0], 1)
    return torch.cat([zero, pairs], dim=1).view(*rotation.shape[:-2], disc.n_coefficients)


def add_backprojection(
    grid: Float[Tensor, "side side side"],
    rows: Float[Tensor, "n coefficient"],
    rotation: Float[Tensor, "n 3 3"],
    disc: Disc,
    oversampling: int,
) -> None:
    """Add the adjoint of :func:`central_slices` in the grid, in place.

    Every coefficient is spread to its eight corners with the weights it was fetched with.
    """
    side, flat = grid.shape[-1], grid.view(-1)
    frequency = disc.frequency_index[1::2].to(rows.dtype) * oversampling
    for index, values in _corners(rows[:, 1:], rotation, frequency, side):
        flat.scatter_add_(0, index, values[0::2].contiguous())
        flat.scatter_add_(0, (side**3 - 1) - index, values[1::2].contiguous())
    grid[side // 2, side // 2, side // 2] += rows[:, 0].sum()


class _PairedSlices(torch.autograd.Function):
    """(paired grid, rotation, half of the disc) -> coefficients at k, -k side by side."""

    @staticmethod
    def forward(ctx: Any, paired: Tensor, rotation: Tensor, frequency: Tensor) -> Tensor:
        ctx.save_for_backward(paired, rotation, frequency)
        out = rotation.new_empty(rotation.shape[0], 2 * frequency.shape[0])
        for rows, base, (wx, wy, wz) in _chunks(rotation, frequency, paired.shape[-1]):
            x0, x1 = _corner_edges(paired, base)
            lines = torch.lerp(x0, x1, wx)
            planes = torch.lerp(lines[0::2], lines[1::2], wy)
            out[rows] = torch.lerp(planes[0], planes[1], wz).view_as(out[rows])
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grad_outputs
        paired, rotation, frequency = ctx.saved_tensors
        grad = grad.contiguous()
        grad_paired = grad_rotation = None
        if ctx.needs_input_grad[0]:
            grad_paired = _paired_gradient(grad, rotation, frequency, paired.shape[-1])
        if ctx.needs_input_grad[1]:
            grad_rotation = _rotation_gradient(grad, paired, rotation, frequency)
        return grad_paired, grad_rotation, None


def _chunks(
    rotation: Tensor, frequency: Tensor, side: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Per chunk of rotations: lower corner (flat index) and fractions (axis, 2 x point) of x, y, z."""
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


def _corner_edges(paired: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """Values at the four lower-x and the four upper-x corners, (4, 2 x point), ordered y fastest."""
    side, flat = paired.shape[-1], paired.reshape(-1)
    offsets = (0, side, side * side, side * side + side)
    lower = torch.stack([flat.index_select(0, base + o) for o in offsets])
    upper = torch.stack([flat.index_select(0, base + (o + 1)) for o in offsets])
    return torch.view_as_real(lower).flatten(1), torch.view_as_real(upper).flatten(1)


def _corners(
    rows: Tensor, rotation: Tensor, frequency: Tensor, side: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Per chunk and corner: flat index of each point, and what its pair of coefficients leaves there."""
    for chunk, base, (wx, wy, wz) in _chunks(rotation, frequency, side):
        values = rows[chunk].reshape(-1)
        for dz, by_z in ((0, values * (1 - wz)), (1, values * wz)):
            for dy, by_y in ((0, by_z * (1 - wy)), (1, by_z * wy)):
                for dx, corner in ((0, by_y * (1 - wx)), (1, by_y * wx)):
                    yield base + ((dz * side + dy) * side + dx), corner


def _paired_gradient(rows: Tensor, rotation: Tensor, frequency: Tensor, side: int) -> Tensor:
    """What belongs to q as real part, to -q as imaginary part."""
    straight, mirrored = rows.new_zeros(side**3), rows.new_zeros(side**3)
    for index, values in _corners(rows, rotation, frequency, side):
        straight.scatter_add_(0, index, values[0::2].contiguous())
        mirrored.scatter_add_(0, index, values[1::2].contiguous())
    return torch.complex(straight, mirrored).view(side, side, side)


def _rotation_gradient(grad: Tensor, paired: Tensor, rotation: Tensor, frequency: Tensor) -> Tensor:
    """Pull a gradient of slices back to the rotation: the trilinear interpolant's own slope.

    ``q = kx R[0] + ky R[1]``, so ``dL/dR[0] = sum kx dL/dq`` and likewise for the second row; the
    third row (the view direction) is not used by a slice through the origin.
    """
    out = torch.zeros_like(rotation)
    for rows, base, (wx, wy, wz) in _chunks(rotation, frequency, paired.shape[-1]):
        x0, x1 = _corner_edges(paired, base)
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
        # (3, image, pair): both members of a pair depend on the same point q.
        by_point = (slope * grad[rows].reshape(-1)).view(3, *grad[rows].shape)
        by_point = by_point.unflatten(-1, (frequency.shape[0], 2)).sum(-1)
        out[rows, :2] = torch.matmul(by_point, frequency).permute(1, 2, 0)
    return out
