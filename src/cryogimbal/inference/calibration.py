"""Noise spectrum and particle scales made better by what the poses found so far leave of the images.

The variance of a shell is the mean square of what is left; a particle's scale is what its image says
of it, drawn towards 1 by how much the scales of all particles differ (empirical Bayes): an image alone
knows its scale to no better than 10 or 20 %.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.imaging.model import ImageModel
from cryogimbal.imaging.noise import shell_mean
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import Decoder
from cryogimbal.inference.pose_table import PoseTable

IMAGES_AT_ONCE = 1024
# A particle outside of this is no particle or has the wrong pose; neither may rule its own weight.
SCALE_RANGE = (0.5, 2.0)
# Standard deviation of a normal distribution over its median absolute deviation.
NORMAL_OVER_MAD = 1.4826
# Images of an optics group from which its own usual scale is known to a few percent.
LEAST_OF_A_GROUP = 100
# Share of coefficients below which a shell counts as silent.
LEAST_KNOWN = 1e-3


@torch.no_grad()
def recalibrate(
    spectra: ParticleSpectra, table: PoseTable, decoder: Decoder, radius: float
) -> None:
    """Enter better noise variances up to a band limit (cycles per box) and better scales, in place."""
    noise, model = spectra.noise, ImageModel(decoder=decoder)
    disc = spectra.disc.truncate(radius)
    n_shells = int(disc.shell_per_coefficient[-1]) + 1
    n_groups = len(noise.variance)
    left = torch.zeros(n_groups, n_shells, device=spectra.device)
    strength = torch.empty(len(spectra), device=spectra.device)
    power = torch.empty(len(spectra), device=spectra.device)
    for index in torch.arange(len(spectra), device=spectra.device).split(IMAGES_AT_ONCE):
        batch = spectra.batch(index, radius)
        predicted = model.predict(table.propose(index), batch)[:, 0]
        power[index] = predicted.square().sum(1)
        strength[index] = (predicted * batch.observed).sum(1)
        squares = shell_mean((batch.observed - predicted).square(), disc)
        if spectra.optics:
            # What an image does not say has left nothing.
            squares /= shell_mean((batch.ctf != 0).float(), disc).clamp_min(LEAST_KNOWN)
        left.index_add_(0, noise.group[index], squares)
    n_images = torch.bincount(noise.group, minlength=n_groups)[:, None]
    ratio = torch.where(n_images > 0, left / n_images.clamp_min(1), 1.0)
    variance = noise.variance.clone()
    variance[:, :n_shells] *= ratio
    noise.enter(variance)
    noise.scale.copy_(shrunken_scales(noise.scale, strength, power, group=noise.group))


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
