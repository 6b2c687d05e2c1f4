"""How likely each image holds one particle of the kind that the map shows: a score from 0 to 1.

Junk gives itself away in two ways. It shows less of the map than a particle does: the strength that
the image says, by least squares, is below that of the others (noise alone, two particles in a box).
And what is left of it is not noise: too much at low frequencies (contaminants, a second particle), or
too little at high ones (beyond the edge of a frame there is no noise). No labels are needed: every
feature is measured in robust deviations from the stack's own median, since most images are particles.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.inference.image_fits import ImageFits

# First shells past the bands of frequency in which the residual is summed; then by octaves.
FIRST_BAND_END = 4
# Standard deviation of a normal distribution over its median absolute deviation.
NORMAL_OVER_MAD = 1.4826
# What is taken of junk beforehand: its share, and how far it scatters beside particles.
JUNK_SHARE = 0.05
JUNK_SPREAD = 5.0
MOST_LOG_ODDS = 30.0


def particle_scores(
    fits: ImageFits, scale: Float[Tensor, " particle"]
) -> Float[Tensor, " particle"]:
    """Probability that an image is a particle, by :func:`junk_features`.

    Particles have features of standard deviation 1, junk of ``JUNK_SPREAD``; with d features and D^2
    the sum of their squares the odds of junk are ``p / (1 - p) s^-d exp(D^2 (1 - 1 / s^2) / 2)``.

    Parameters
    ----------
    scale
        Strength of each particle that the CTFs of the fits contain.
    """
    features = junk_features(fits, scale)
    square = features.square().sum(1)
    prior = math.log(JUNK_SHARE / (1 - JUNK_SHARE)) - features.shape[1] * math.log(JUNK_SPREAD)
    log_odds = prior + square * (1 - JUNK_SPREAD**-2) / 2
    return torch.sigmoid(-log_odds.clamp(max=MOST_LOG_ODDS))


def junk_features(
    fits: ImageFits, scale: Float[Tensor, " particle"]
) -> Float[Tensor, "particle feature"]:
    """Deviations of each image from the stack's median, in robust standard deviations.

    The first is the strength said, ``(strength - power) / sqrt(power)`` at scale 1, of which only a
    lack counts. The others are the residual in octaves of frequency as the cube root of its mean
    square, which is nearly normal (Wilson and Hilferty 1931), of which excess and lack count.
    """
    strength, power = fits.strength / scale, fits.power / scale.square()
    tiny = torch.finfo(power.dtype).tiny
    shown = (strength - power) / power.clamp_min(tiny).sqrt()
    features = [robust_deviations(shown, 1.0).clamp(max=0)]
    for band in residual_bands(len(fits.per_shell)):
        weight = fits.per_shell[band].to(fits.left)
        mean_square = (fits.left[:, band] * weight).sum(1) / weight.sum()
        least = math.sqrt(2 / (9 * float(weight.sum())))
        features.append(robust_deviations(mean_square.pow(1 / 3), least))
    return torch.stack(features, dim=1)


def residual_bands(n_shells: int) -> list[slice]:
    """Shells 0 to 4, then octaves; the last takes what is left."""
    bands, first, end = [], 0, FIRST_BAND_END + 1
    while end < n_shells:
        # What is left over is no band of its own unless it is half an octave at least.
        past = n_shells if n_shells < end * 3 // 2 else end
        bands.append(slice(first, past))
        first, end = past, 2 * end - 1
    if first < n_shells:
        bands.append(slice(first, n_shells))
    return bands


def robust_deviations(
    values: Float[Tensor, " particle"], least: float
) -> Float[Tensor, " particle"]:
    """Distance from the median over the robust standard deviation, which is ``least`` or more."""
    centred = values - values.median()
    spread = NORMAL_OVER_MAD * float(centred.abs().median())
    return centred / max(spread, least)
