"""How two half-maps agree inside a mask, and how much of that is the mask's own doing.

A mask multiplies both maps by the same thing, which correlates them. How much is seen from the same
maps with random phases (Chen et al. 2013), whose correlation the mask alone can make.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.data.fsc import FscCurve
from cryogimbal.data.half_sets import HalfMapFsc, HalfMaps
from cryogimbal.errors import InputError
from cryogimbal.evaluation.fsc import fourier_shell_correlation
from cryogimbal.fourier.shells import radius_grid
from cryogimbal.fourier.transforms import density_to_fourier, fourier_to_density

RANDOMISE_BELOW = 0.8
# The mask smears the border between kept and random phases over a shell or two.
SHELLS_OF_BORDER = 2
# A voxel counts as inside a soft mask above this value.
INSIDE = 0.5


def half_map_fsc(
    maps: HalfMaps, mask: Float[Tensor, "box box box"], generator: torch.Generator
) -> HalfMapFsc:
    """Correlation without a mask, in the mask, with random phases in the mask, and corrected.

    Phases are random from the first shell where the unmasked correlation is below 0.8. From two
    shells on, ``corrected = (masked - randomised) / (1 - randomised)``; below that it is the masked
    one (RELION's rule).

    Parameters
    ----------
    maps
        Unfiltered half-maps on one grid.
    mask
        0 to 1, on the same grid.
    generator
        CPU generator of the random phases.

    Raises
    ------
    InputError
        If mask and maps differ in box, or the mask is empty.
    """
    box = maps.first.box
    if mask.shape[-1] != box:
        raise InputError(f"a mask of {mask.shape[-1]} voxels a side for half-maps of {box}")
    fraction = float((mask > INSIDE).double().mean())
    if fraction <= 0:
        raise InputError("the mask is empty: no voxel of it is above 0.5; give another --mask")
    halves = (maps.first, maps.second)
    unmasked = fourier_shell_correlation(*halves, poses=maps.poses)
    masked = _masked_fsc(halves, mask, unmasked)
    begin = first_shell_below(unmasked, RANDOMISE_BELOW)
    random = tuple(_with_random_phases(half, begin, generator) for half in halves)
    randomised = _masked_fsc(random, mask, unmasked)
    return HalfMapFsc(
        unmasked=unmasked,
        masked=masked,
        randomised=randomised,
        corrected=corrected_fsc(masked, randomised, begin),
        randomised_from=begin,
        mask_fraction=fraction,
    )


def corrected_fsc(masked: FscCurve, randomised: FscCurve, begin: int) -> FscCurve:
    """``(masked - randomised) / (1 - randomised)`` from two shells beyond ``begin``; else masked.

    A shell where the random phases correlate fully says nothing and counts as 0. Shell 0 is 1 where
    it is not positive.
    """
    correlation = masked.correlation.clone()
    chance, beyond = randomised.correlation, slice(begin + SHELLS_OF_BORDER, None)
    room = 1 - chance[beyond]
    true = (correlation[beyond] - chance[beyond]) / room.clamp_min(1e-6)
    correlation[beyond] = torch.where(room > 1e-6, true, 0.0)
    if correlation[0] <= 0:
        correlation[0] = 1.0
    return replace(masked, correlation=correlation)


def first_shell_below(curve: FscCurve, threshold: float) -> int:
    """First shell from 1 on with a correlation below the threshold; the last shell if none is."""
    below = (curve.correlation[1:] < threshold).nonzero()
    return int(below[0]) + 1 if len(below) else len(curve.correlation) - 1


def randomise_phases(
    density: Float[Tensor, "box box box"], begin: int, generator: torch.Generator
) -> Float[Tensor, "box box box"]:
    """The same amplitudes with the phases of white noise where ``|k| >= begin`` cycles per box."""
    noise = torch.randn(density.shape, generator=generator, dtype=density.dtype)
    phase = density_to_fourier(noise.to(density.device))
    phase = phase / phase.abs().clamp_min(torch.finfo(density.dtype).tiny)
    spectrum = density_to_fourier(density)
    beyond = radius_grid(density.shape[-1], 3, device=density.device) >= begin
    return fourier_to_density(torch.where(beyond, spectrum.abs() * phase, spectrum))


def _with_random_phases(half: DensityMap, begin: int, generator: torch.Generator) -> DensityMap:
    return replace(half, values=randomise_phases(half.values, begin, generator))


def _masked_fsc(
    halves: tuple[DensityMap, ...], mask: Float[Tensor, "box box box"], like: FscCurve
) -> FscCurve:
    first, second = (replace(half, values=half.values * mask.to(half.values)) for half in halves)
    return fourier_shell_correlation(first, second, poses=like.poses)
