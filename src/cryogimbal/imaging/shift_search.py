"""Which in-plane shift fits best at a given rotation: the correlation of slice and image over a disc.

For an image H with CTF C and a slice S, the part of the log-likelihood that a shift t changes is
``sum (C H) shift_t(S)``; the power of a shifted slice is the same at every t, for C is even in k. With
``shift_t(S)(k) = cos(2 pi k.t) S(k) + sin(2 pi k.t) S(-k)`` all shifts are one matrix product.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.fourier.disc import Disc, mirror_row
from cryogimbal.imaging.centres import Centres
from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.shifts import shift_row
from cryogimbal.imaging.volume import Decoder

# Between neighbours, in periods at the band limit: half way between two, the strongest frequencies,
# which lie well below the limit, are off by an eighth of a period at most.
SPACING_PERIODS = 0.3
HYPOTHESES_AT_ONCE = 8192
# A mean slice is told apart from itself by less than the spacing that a search needs.
GRID_OVERSAMPLING = 2
# How far beyond the usual a grid of displacements reaches.
TAIL = 1.5


def shift_grid(range_box: float, radius: float) -> Float[Tensor, "shift 2"]:
    """Shifts (x, y) in fractions of the box within a disc, as dense as a band limit needs.

    Parameters
    ----------
    range_box
        Radius of the disc as a fraction of the box; 0 gives no shift alone.
    radius
        Band limit in cycles per box.
    """
    spacing = SPACING_PERIODS / radius
    n = math.floor(range_box / spacing + 1e-6)
    axis = torch.arange(-n, n + 1)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    steps = torch.stack([x.flatten(), y.flatten()], dim=1)
    steps = steps[steps.square().sum(1) <= (range_box / spacing + 1e-6) ** 2]
    return steps[steps.square().sum(1).argsort(stable=True)] * spacing


def unshifted_data(
    batch: ParticleBatch, shifts: Float[Tensor, "shift 2"]
) -> Float[Tensor, "batch shift coefficient"]:
    """``C H`` of every image as it would be had the particle been displaced by each shift."""
    data = (batch.ctf * batch.observed)[:, None]
    cosine, sine = _waves(shifts, batch.disc).T.chunk(2, dim=1)
    return cosine * data - sine * mirror_row(data)


def best_shifts(
    decoder: Decoder,
    hypotheses: Hypotheses,
    batch: ParticleBatch,
    shifts: Float[Tensor, "shift 2"],
) -> Float[Tensor, "hypothesis 2"]:
    """The shift of the grid of highest likelihood for every hypothesis.

    Shifts that the hypotheses have are the centres around which is searched.
    """
    waves = _waves(shifts, batch.disc)
    found = []
    for first in range(0, len(hypotheses.image), HYPOTHESES_AT_ONCE):
        part = slice(first, first + HYPOTHESES_AT_ONCE)
        image = hypotheses.image[part]
        data = (batch.ctf * batch.observed)[image]
        slices = decoder.slices(hypotheses.rotation[part], batch.disc)
        if hypotheses.shift_box is not None:
            slices = shift_row(slices, hypotheses.shift_box[part], batch.disc)
        products = torch.cat([data * slices, data * mirror_row(slices)], dim=1)
        found.append(shifts[(products @ waves).argmax(dim=1)])
    best = torch.cat(found)
    return best if hypotheses.shift_box is None else best + hypotheses.shift_box


def centres_by_mean_slice(
    batch: ParticleBatch,
    mean_slice: Float[Tensor, " coefficient"],
    power: Float[Tensor, " coefficient"],
    range_box: float,
    deviation_box: float | None = None,
) -> Centres:
    """Displacement of each particle by correlation with the mean over all orientations.

    What an orientation adds to the mean counts as noise of variance ``C^2 power`` beside that of the
    image, which is 1; displacements are normal beforehand.
    Of an image that says little the posterior mean is near 0, so that it cannot do harm.

    Parameters
    ----------
    mean_slice, power
        Mean over orientations of the slices of a map, and what they vary by (mean square).
    range_box
        Largest usual displacement as a fraction of the box.
    deviation_box
        Of displacements beforehand, per axis; none: half the range.
    """
    radius = GRID_OVERSAMPLING * float(batch.disc.radius_per_coefficient[-1])
    shifts = shift_grid(TAIL * range_box, radius).to(batch.observed.device)
    weight = batch.ctf * mean_slice / (1 + batch.ctf.square() * power)
    products = torch.cat([batch.observed * weight, batch.observed * mirror_row(weight)], dim=1)
    deviation = range_box / 2 if deviation_box is None else deviation_box
    log_prior = -shifts.square().sum(1) / (2 * deviation**2)
    posterior = torch.softmax(products @ _waves(shifts, batch.disc) + log_prior, dim=1)
    mean = posterior @ shifts
    spread = posterior @ shifts.square().sum(1) - mean.square().sum(1)
    return Centres(shift_box=mean, variance_box2=spread.clamp_min(0) / 2)


def _waves(shifts: Tensor, disc: Disc) -> Float[Tensor, "twice_coefficient shift"]:
    phase = 2 * math.pi * (disc.frequency_index @ shifts.T)
    return torch.cat([torch.cos(phase), torch.sin(phase)])
