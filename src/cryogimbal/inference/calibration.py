"""Noise spectrum and particle scales made better by what the poses found so far leave of the images.

The variance of a shell is the mean square of what is left; a particle's scale is what its image says
of it, drawn towards 1 by how much the scales of all particles differ (empirical Bayes): an image alone
knows its scale to no better than 10 or 20 %. What looks like no particle (:mod:`.particle_scores`)
counts less: the score is the share with which an image takes part in the noise and in the map.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import Decoder
from cryogimbal.inference.image_fits import image_fits
from cryogimbal.inference.particle_scores import particle_scores
from cryogimbal.inference.pose_table import PoseTable

# A particle outside of this is no particle or has the wrong pose; neither may rule its own weight.
SCALE_RANGE = (0.5, 2.0)
# Standard deviation of a normal distribution over its median absolute deviation.
NORMAL_OVER_MAD = 1.4826
# Images of an optics group from which its own usual scale is known to a few percent.
LEAST_OF_A_GROUP = 100


@torch.no_grad()
def recalibrate(
    spectra: ParticleSpectra, table: PoseTable, decoder: Decoder, radius: float
) -> None:
    """Enter better noise variances up to a band limit (cycles per box), scales and trust, in place."""
    noise = spectra.noise
    everything = torch.arange(len(spectra), device=spectra.device)
    fits = image_fits(spectra, everything, table, decoder, radius)
    noise.trust.copy_(particle_scores(fits, noise.scale))
    n_groups, n_shells = len(noise.variance), fits.left.shape[1]
    left = torch.zeros(n_groups, n_shells, device=spectra.device)
    left.index_add_(0, noise.group, fits.left * noise.trust[:, None])
    n_images = torch.zeros(n_groups, device=spectra.device).index_add_(0, noise.group, noise.trust)
    ratio = torch.where(n_images[:, None] >= 1, left / n_images.clamp_min(1)[:, None], 1.0)
    variance = noise.variance.clone()
    variance[:, :n_shells] *= ratio
    noise.enter(variance)
    noise.scale.copy_(shrunken_scales(noise.scale, fits.strength, fits.power, group=noise.group))


def shrunken_scales(
    scale: Float[Tensor, " particle"],
    strength: Float[Tensor, " particle"],
    power: Float[Tensor, " particle"],
    *,
    group: Int[Tensor, " particle"] | None = None,
) -> Float[Tensor, " particle"]:
    """Scales of least squared error given what each image says and how far all of them spread.

    Parameters
    ----------
    scale
        In force when the images were predicted.
    strength, power
        Sums of prediction times image and of prediction squared: ``scale strength / power`` is what an
        image says of its scale, with variance ``scale^2 / power``.
    group
        Optics group of each: large ones have a usual scale of their own, around which theirs spread.
    """
    power = power.clamp_min(torch.finfo(power.dtype).tiny)
    said, variance = scale * strength / power, scale.square() / power
    drawn, centre = _drawn(said, variance)
    if centre <= 0:
        return torch.ones_like(scale)
    found = (drawn / centre).clamp(*SCALE_RANGE)
    numbers = [] if group is None else group.unique().tolist()
    if group is None or len(numbers) < 2:
        return found
    for number in numbers:
        chosen = (group == number).nonzero()[:, 0]
        if len(chosen) >= LEAST_OF_A_GROUP:
            own, middle = _drawn(said[chosen], variance[chosen])
            if middle > 0:
                found[chosen] = (own / middle).clamp(*SCALE_RANGE) * (middle / centre)
    return found


def _drawn(said: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """What images say, drawn towards their median, and that median."""
    centre = said.median()
    spread = (NORMAL_OVER_MAD * (said - centre).abs().median()).square()
    true_spread = (spread - variance.median()).clamp_min(0)
    return centre + (said - centre) * true_spread / (true_spread + variance), centre
