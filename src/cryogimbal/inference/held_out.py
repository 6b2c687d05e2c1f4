"""How well the map of one half of the images predicts those of the other half.

The map is new to the images it is tried on; their poses are not, for they were found with the map of
all. So noise that went into a map counts against it, noise that went into poses does not.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.fsc import FscCurve
from cryogimbal.imaging.backprojection import SufficientStatistics
from cryogimbal.imaging.map_likelihood import fit_per_shell
from cryogimbal.imaging.volume import GridGeometry


@dataclass(frozen=True, kw_only=True)
class HeldOutLikelihood:
    """Log-likelihood that half-maps gain over no map, on the images of the other half."""

    nats_per_image: float
    standard_error: float
    """What noise in the images makes of it, poses and maps given; nats per image."""


def held_out_likelihood(
    densities: list[Float[Tensor, "box box box"]],
    halves: list[SufficientStatistics],
    geometry: GridGeometry,
    fsc: FscCurve,
    n_images: float,
    copies: int = 1,
) -> HeldOutLikelihood:
    """Each half-map on the images of the other half, both together.

    Parameters
    ----------
    densities
        Half-maps without a Wiener filter; it is ``FSC`` of each shell, which for one half is signal
        over signal and noise. That one number a shell knows of both halves is worth up to about half a
        nat a shell, of all images together.
    halves
        What the images of each half say, with the same CTFs and poses.
    fsc
        Of the two.
    n_images
        Images (or weight of images) in both.
    copies
        How often each image is in the sums, at poses that a symmetry makes the same.
    """
    gained = variance = 0.0
    for density, others in zip(densities, reversed(halves), strict=True):
        fit = fit_per_shell(density, others, geometry)
        wiener = fsc.correlation[: len(fit.power)].clamp_min(0).to(fit.power)
        fit = fit.filtered(wiener)
        gained += fit.log_likelihood()
        variance += float(fit.power.sum())
    return HeldOutLikelihood(
        nats_per_image=gained / (copies * n_images),
        standard_error=math.sqrt(variance / copies) / n_images,
    )
