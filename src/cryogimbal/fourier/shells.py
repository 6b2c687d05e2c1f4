"""Rings and shells of equal radius: RELION's, ``round(|k|)`` in steps of one cycle per box."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def radius_grid(
    box: int, n_axes: int, *, device: torch.device | None = None
) -> Float[Tensor, "..."]:
    """``|k|`` in cycles per box at every sample of a centred grid (float64)."""
    axis = torch.arange(box, device=device, dtype=torch.float64) - box // 2
    squares = torch.zeros((), dtype=torch.float64, device=device)
    for _ in range(n_axes):
        squares = squares[..., None] + axis.square()
    return squares.sqrt()


def shell_index(box: int, n_axes: int, *, device: torch.device | None = None) -> Int[Tensor, "..."]:
    """Shell number ``round(|k|)`` at every sample of a centred grid."""
    return radius_grid(box, n_axes, device=device).round().long()


def shell_sum(values: Float[Tensor, "..."], n_axes: int) -> Float[Tensor, " shell"]:
    """Sum of a centred grid over each of the shells 0 to ``box // 2``; corners are left out."""
    box = values.shape[-1]
    index = shell_index(box, n_axes, device=values.device).flatten()
    n_shells = box // 2 + 1
    inside = index < n_shells
    sums = torch.zeros(n_shells, dtype=values.dtype, device=values.device)
    return sums.index_add(0, index[inside], values.flatten()[inside])
