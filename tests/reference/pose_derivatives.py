"""Residual of a pose and its derivatives by differences, on top of the slowest slicing, float64."""

import torch
from torch import Tensor

from tests.reference.direct_slice import slices_by_loop

STEP = 1e-5


def predicted_by_loop(
    grid: Tensor, rotation: Tensor, shift_box: Tensor, frequencies: Tensor, oversampling: int
) -> Tensor:
    """Slice of one pose, moved by a shift in fractions of the box, without a CTF."""
    straight, mirrored = (
        slices_by_loop(grid, rotation[None], signed, oversampling)[0]
        for signed in (frequencies, -frequencies)
    )
    phase = 2 * torch.pi * (frequencies.double() @ shift_box)
    return torch.cos(phase) * straight + torch.sin(phase) * mirrored


def sweep_by_differences(
    grid: Tensor,
    pose: tuple[Tensor, Tensor],
    frequencies: Tensor,
    oversampling: int,
    image: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Residual, power, ``J'r`` and ``J'J`` in (rotation vector, shift), from central differences."""
    (rotation, shift_box), (ctf, observed) = pose, image

    def predicted(parameters: Tensor) -> Tensor:
        w = parameters[:3]
        zero = torch.zeros((), dtype=torch.float64)
        cross = torch.stack(
            [
                torch.stack([zero, -w[2], w[1]]),
                torch.stack([w[2], zero, -w[0]]),
                torch.stack([-w[1], w[0], zero]),
            ]
        )
        turned = torch.matrix_exp(cross) @ rotation
        moved = shift_box + parameters[3:]
        return ctf * predicted_by_loop(grid, turned, moved, frequencies, oversampling)

    steps = STEP * torch.eye(5, dtype=torch.float64)
    jacobian = torch.stack([(predicted(s) - predicted(-s)) / (2 * STEP) for s in steps], dim=1)
    value = predicted(torch.zeros(5, dtype=torch.float64))
    residual = value - observed
    return (
        residual.square().sum(),
        value.square().sum(),
        jacobian.T @ residual,
        jacobian.T @ jacobian,
    )
