"""Laws as functions: each takes an object and random elements, and asserts."""

from collections.abc import Callable

import torch
from torch import Tensor


def assert_adjoint(
    forward: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    tolerance: float = 1e-9,
) -> None:
    """``<A x, y> = <x, A* y>`` relative to the norms."""
    left = (forward(x) * y).sum()
    right = (x * adjoint(y)).sum()
    scale = forward(x).norm() * y.norm()
    assert abs(left - right) <= tolerance * scale, f"{left} != {right} at scale {scale}"


def assert_linear(
    function: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *, tolerance: float = 1e-9
) -> None:
    """``f(2 x - 3 y) = 2 f(x) - 3 f(y)``."""
    left = function(2 * x - 3 * y)
    right = 2 * function(x) - 3 * function(y)
    assert relative_error(left, right) <= tolerance


def relative_error(found: Tensor, expected: Tensor) -> float:
    """``|found - expected| / |expected|`` in the Euclidean norm."""
    return float((found - expected).norm() / expected.norm().clamp_min(torch.finfo().tiny))
