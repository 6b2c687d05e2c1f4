"""Particles brought near the centres of their images before anything is known of poses or map.

The average of all images, freed of the CTF and made round, is what a particle looks like from nowhere in
particular; where an image agrees with it is about where its particle is. On images of the 70S (64
pixels, SNR 0.1) this took displacements of 4.2 pixels (rms) to 1.8. Doing it again with the average of
the centred images made it worse: noise that agreed with the average has been taken into it.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.fourier.disc import Disc
from cryogimbal.imaging.centres import Centres, joined_centres
from cryogimbal.imaging.noise import shell_mean
from cryogimbal.imaging.shift_search import centres_by_mean_slice
from cryogimbal.imaging.shifts import shift_row
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.grid_search import OVERSAMPLING
from cryogimbal.inference.memory_budget import MemoryBudget
from cryogimbal.inference.mode_search import ModeSearch, prepared_density
from cryogimbal.inference.posterior import Displacements, fast_dtype, posterior_centres

# Beyond this (cycles per box) a round average has nothing left to tell.
BAND_LIMIT = 8.0
IMAGES_AT_ONCE = 1024
# Images from which the usual displacement is learned, in so many steps: a mean slice explains images a
# little less well than is taken into account, so that many more would end below the truth.
SAMPLE, DEVIATION_STEPS = 2000, 8
# Of the range: particles that seem to be centred may still be off by a fraction of a pixel.
LEAST_DEVIATION = 0.05


@torch.no_grad()
def centred(spectra: ParticleSpectra, range_box: float) -> ParticleSpectra:
    """The images moved back by where their particles are expected to be.

    What they were moved by, which is to be added to what is found later, and how far from there they
    may still be, comes with them (``centres``).

    Parameters
    ----------
    range_box
        Largest usual displacement, as a fraction of the box.
    """
    disc = spectra.disc.truncate(min(BAND_LIMIT, spectra.disc.radius))
    mean_slice, power = _round_average(spectra, disc)
    deviation = _usual_deviation(spectra, mean_slice, power, range_box)
    shift = torch.empty(len(spectra), 2, device=spectra.device)
    variance = torch.empty(len(spectra), device=spectra.device)
    rows = torch.empty_like(spectra.rows)
    for index in torch.arange(len(spectra), device=spectra.device).split(IMAGES_AT_ONCE):
        batch = spectra.batch(index, disc.radius)
        found = centres_by_mean_slice(batch, mean_slice, power, range_box, deviation)
        shift[index], variance[index] = found.shift_box, found.variance_box2
        rows[index] = shift_row(spectra.rows[index], -found.shift_box, spectra.disc)
    return replace(spectra, rows=rows, centres=Centres(shift_box=shift, variance_box2=variance))


@torch.no_grad()
def centres_from_density(
    spectra: ParticleSpectra,
    density: Float[Tensor, "box box box"],
    search: ModeSearch,
    budget: MemoryBudget,
) -> Centres:
    """Where particles are by a density at any orientation of a grid, none being preferred.

    Parameters
    ----------
    search
        Its range of displacements is as far as they usually go; half of it is their deviation per axis.

    Raises
    ------
    InputError
        If the budget does not hold a single image beside all orientations.
    """
    search = replace(search, radius=min(search.radius, spectra.disc.radius))
    disc = spectra.disc.truncate(search.radius)
    prepared = prepared_density(spectra, density, search.radius, OVERSAMPLING)
    slices = prepared.slices(search.orientations(spectra.device), disc)
    shifts = search.shifts(spectra.device)
    log_prior = -0.5 * (2 * shifts / search.shift_range_box).square().sum(1)
    at_once = min(IMAGES_AT_ONCE, budget.images_at_once(len(spectra), *slices.shape))
    parts = []
    for index in torch.arange(len(spectra), device=spectra.device).split(at_once):
        displacements = Displacements(
            shift_box=shifts, log_prior=log_prior.expand(len(index), -1).contiguous()
        )
        batch = spectra.batch(index, search.radius)
        dtype = fast_dtype(spectra.device)
        parts.append(posterior_centres(batch, slices, displacements, dtype=dtype))
    found = joined_centres(parts)
    assert found is not None
    return found


def _usual_deviation(
    spectra: ParticleSpectra,
    mean_slice: Float[Tensor, " coefficient"],
    power: Float[Tensor, " coefficient"],
    range_box: float,
) -> float:
    """Deviation of displacements per axis (fraction of the box) that makes the images most probable.

    Expectation maximisation for the variance of a normal prior, from half the range downwards: a range
    that is wider than it need be must not leave particles less well centred, nor their search slower.
    """
    sample = torch.arange(0, len(spectra), 1 + len(spectra) // SAMPLE, device=spectra.device)
    batch = spectra.batch(sample, min(BAND_LIMIT, spectra.disc.radius))
    deviation = range_box / 2
    for _ in range(DEVIATION_STEPS):
        found = centres_by_mean_slice(batch, mean_slice, power, range_box, deviation)
        variance = float((found.shift_box.square().sum(1) / 2 + found.variance_box2).mean())
        deviation = min(range_box / 2, max(range_box * LEAST_DEVIATION, math.sqrt(variance)))
    return deviation


def _round_average(
    spectra: ParticleSpectra, disc: Disc
) -> tuple[Float[Tensor, " coefficient"], Float[Tensor, " coefficient"]]:
    """Mean of the slices behind all images over each shell, and what slices vary by about it.

    With ``H = C S + N(0, 1)``: ``<S> = <C H> / <C^2>`` and ``<S^2> = <H^2 - 1> / <C^2>``.
    """
    data, squares, weight = torch.zeros(3, disc.n_coefficients, device=spectra.device)
    for index in torch.arange(len(spectra), device=spectra.device).split(IMAGES_AT_ONCE):
        batch = spectra.batch(index, disc.radius)
        data += (batch.ctf * batch.observed).sum(0)
        squares += (batch.observed.square() - 1).sum(0)
        weight += batch.ctf.square().sum(0)
    per_shell = shell_mean(weight, disc)
    mean = shell_mean(data, disc) / per_shell
    varies = (shell_mean(squares, disc) / per_shell - mean.square()).clamp_min(0)
    shell = disc.shell_per_coefficient
    return mean[shell], varies[shell]
