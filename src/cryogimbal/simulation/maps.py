"""Maps of other programs as truth: sampled anew in Fourier space, cropped or padded, softened."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.fourier.shells import radius_grid
from cryogimbal.fourier.transforms import density_to_hartley, hartley_to_density

# Share of a map's power that a smaller box may cut off: noise, not the molecule.
MAX_CUT_POWER = 0.05


def regrid_density(density: DensityMap, box: int, voxel_size_angstrom: float) -> DensityMap:
    """The map on another box and voxel size, origin kept; zero outside the old box.

    The map's trigonometric interpolant, cut off below the Nyquist frequencies of both samplings, is
    evaluated at the new voxels: exact for any ratio of the two, one axis after the other.

    Raises
    ------
    InputError
        If the new box cuts off more than 5 % of the map's power.
    """
    _refuse_cut(density, box * voxel_size_angstrom)
    matrix = _interpolation_matrix(density, box, voxel_size_angstrom)
    values = density.values.double()
    for _ in range(3):
        # The new axis comes first: after three turns the order is (z, y, x) again.
        values = torch.einsum("zyx,jx->jzy", values, matrix)
    return DensityMap(values=values.float(), voxel_size_angstrom=voxel_size_angstrom)


def soften_density(density: DensityMap, b_factor_angstrom2: float) -> DensityMap:
    """The map with its spectrum times ``exp(-B |s|^2 / 4)``, s in 1/Å."""
    frequency = radius_grid(density.box, 3) / (density.box * density.voxel_size_angstrom)
    envelope = torch.exp(-b_factor_angstrom2 / 4 * frequency.square()).float()
    spectrum = density_to_hartley(density.values) * envelope
    return DensityMap(
        values=hartley_to_density(spectrum), voxel_size_angstrom=density.voxel_size_angstrom
    )


def _interpolation_matrix(
    density: DensityMap, box: int, voxel_size_angstrom: float
) -> Float[Tensor, "new old"]:
    """``M_ji = (1 / n) sum_k cos(2 pi k (x_j - x_i) / L)`` over ``|k|`` below the cut-off."""
    old_box, side = density.box, density.box * density.voxel_size_angstrom
    old = (torch.arange(old_box, dtype=torch.float64) - old_box // 2) / old_box
    new = (torch.arange(box, dtype=torch.float64) - box // 2) * (voxel_size_angstrom / side)
    cut_off = min(old_box / 2, side / (2 * voxel_size_angstrom))
    k = torch.arange(1, max(1, math.ceil(cut_off - 1e-9)), dtype=torch.float64)
    phase = 2 * math.pi * (new[:, None] - old)
    matrix = (1 + 2 * torch.cos(phase[..., None] * k).sum(-1)) / old_box
    # The interpolant is periodic; beyond the old box there is nothing, not a neighbour.
    outside = (new < old[0] - 0.5 / old_box) | (new >= old[-1] + 0.5 / old_box)
    matrix[outside] = 0
    return matrix


def _refuse_cut(density: DensityMap, side_angstrom: float) -> None:
    position = (torch.arange(density.box) - density.box // 2) * density.voxel_size_angstrom
    inside = position.abs() <= side_angstrom / 2
    power = (density.values - density.values.median()).double().square()
    kept = power[inside][:, inside][:, :, inside].sum()
    cut = 1 - float(kept / power.sum().clamp_min(torch.finfo(torch.float64).tiny))
    if bool(power.any()) and cut > MAX_CUT_POWER:
        raise InputError(
            f"map: expected its density within a box of {side_angstrom:.1f} Å, found "
            f"{100 * cut:.0f} % of its power outside; give a larger --box or --pixel-size "
            f"(the map has {density.box} voxels of {density.voxel_size_angstrom:.3f} Å)"
        )
