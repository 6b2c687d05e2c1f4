"""Fourier shell correlation of two maps."""

import torch

from cryogimbal.data.density import DensityMap
from cryogimbal.data.fsc import FscCurve, PoseOrigin
from cryogimbal.errors import InputError
from cryogimbal.fourier.shells import shell_sum
from cryogimbal.fourier.transforms import density_to_hartley

# Voxel sizes come out of headers as float32 lengths divided by boxes.
VOXEL_SIZE_TOLERANCE = 1e-3


def fourier_shell_correlation(a: DensityMap, b: DensityMap, *, poses: PoseOrigin) -> FscCurve:
    """``FSC = Re sum conj(Fa) Fb / sqrt(sum |Fa|^2 sum |Fb|^2)`` over each whole shell.

    A shell holds k and -k, so the sums are those of products of Hartley coefficients. The shells
    are RELION's; RELION sums over the half space that its transform stores, where the plane
    ``kx = 0`` counts twice, so that its low shells differ in the second decimal. A shell without
    power in either map has correlation 0.

    Raises
    ------
    InputError
        If box or voxel size of the maps differ.
    """
    require_same_grid(a, b)
    spectrum_a = density_to_hartley(a.values.double())
    spectrum_b = density_to_hartley(b.values.double())
    cross = shell_sum(spectrum_a * spectrum_b, 3)
    power = (shell_sum(spectrum_a.square(), 3) * shell_sum(spectrum_b.square(), 3)).sqrt()
    correlation = torch.where(power > 0, cross / power.clamp_min(torch.finfo(power.dtype).tiny), 0)
    return FscCurve(
        box=a.box,
        voxel_size_angstrom=a.voxel_size_angstrom,
        correlation=correlation.cpu(),
        poses=poses,
    )


def require_same_grid(a: DensityMap, b: DensityMap) -> None:
    """Refuse two maps that cannot be compared voxel by voxel.

    Raises
    ------
    InputError
        If box or voxel size of the maps differ.
    """
    ratio = a.voxel_size_angstrom / b.voxel_size_angstrom
    if a.box != b.box or abs(ratio - 1) > VOXEL_SIZE_TOLERANCE:
        raise InputError(
            "the two maps have different grids: "
            f"box {a.box} at {a.voxel_size_angstrom:.5g} Å per voxel and "
            f"box {b.box} at {b.voxel_size_angstrom:.5g} Å per voxel; "
            "resample one of them, or correct the voxel size in its header"
        )
