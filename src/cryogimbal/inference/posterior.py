"""The exact posterior over a grid of orientations, by matrix products over disc rows.

For an image H with CTF C and a slice S, ``-1/2 |C S - H|^2 = (C H).S - 1/2 (C^2).(S^2)`` up to a
constant, so all images against all orientations are one product of twice the row length. The
expectation step's sums over images are another, with the posterior as the left factor. A displaced
particle is a turned phase of ``C H`` (:mod:`cryogimbal.imaging.shift_search`), so every shift of a grid
is one more product; the second term stays as it is.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.imaging.centres import Centres, joined_centres
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.shift_search import unshifted_data

LARGEST_LOG_TEMPERATURE = 8.0
BISECTIONS = 10
BALANCINGS = 20


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Posterior-weighted sums per orientation, and what the posterior says of each image."""

    weighted_data: Float[Tensor, "orientation coefficient"]
    """``sum over images of posterior x C H``."""
    weight: Float[Tensor, "orientation coefficient"]
    """``sum over images of posterior x C^2``."""
    best: Int[Tensor, " batch"]
    """Most probable orientation of each image."""
    loss: Float[Tensor, " batch"]
    """Mean squared residual per coefficient at the most probable orientation."""
    effective_orientations: Float[Tensor, " batch"]
    """How many orientations share an image."""
    centres: Centres | None = None
    """Where the particles are in their images; none: they are centred."""


@dataclass(frozen=True, kw_only=True)
class Displacements:
    """Shifts that are compared for every image of a batch."""

    shift_box: Float[Tensor, "shift 2"]
    """In fractions of the box."""
    log_prior: Float[Tensor, "batch shift"]
    """How probable they are before the image is looked at, up to a constant per image."""

    def rows(self, chosen: slice) -> "Displacements":
        """Those of some images."""
        return Displacements(shift_box=self.shift_box, log_prior=self.log_prior[chosen])

    def centres(self, posterior: Float[Tensor, "batch shift"]) -> Centres:
        """Mean of the displacement under a posterior, and its variance per axis."""
        mean = posterior @ self.shift_box
        square = posterior @ self.shift_box.square().sum(1)
        variance = (square - mean.square().sum(1)).clamp_min(0) / 2
        return Centres(shift_box=mean, variance_box2=variance)


def log_likelihoods(
    batch: ParticleBatch,
    slices: Float[Tensor, "orientation coefficient"],
    *,
    shifts: Float[Tensor, "shift 2"] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "batch orientation"]:
    """``log p(image | orientation)`` up to a constant per image, noise variance 1.

    With ``shifts`` (fractions of the box) that of the best of them for each orientation. In bfloat16 a
    score is good to half a percent, which annealing does not notice; see :func:`fast_dtype`.
    """
    if shifts is None:
        images, orientations = _image_rows(batch), _orientation_rows(slices)
        return (images.to(dtype) @ orientations.to(dtype).T).float()
    turned = slices.to(dtype).T
    best: Tensor | None = None
    for shift in shifts:
        scores = unshifted_data(batch, shift[None])[:, 0].to(dtype) @ turned
        best = scores if best is None else torch.maximum(best, scores, out=best)
    assert best is not None
    return best.float() - _half_power(batch, slices, dtype)


def expectation(
    batch: ParticleBatch,
    slices: Float[Tensor, "orientation coefficient"],
    *,
    temperature: float,
    log_prior: Float[Tensor, " orientation"] | None = None,
    displacements: Displacements | None = None,
    dtype: torch.dtype = torch.float32,
) -> Expectation:
    """Expectation step over the images of a batch.

    Parameters
    ----------
    temperature
        Divides log-likelihoods; above 1 the posterior is broader than the data say.
    log_prior
        Of each orientation, not divided by the temperature; none: flat.
    displacements
        That are compared, and how probable they are beforehand; none: particles are centred.
    dtype
        Of the factors of the matrix products.
    """
    n, n_orientations = len(batch.index), slices.shape[0]
    data = _data_rows(batch, displacements).to(dtype)
    power = batch.ctf.square().to(dtype)
    scores = (data @ slices.to(dtype).T).float().view(n, -1, n_orientations)
    scores -= _half_power(batch, slices, dtype)[:, None]
    top, place = scores.flatten(1).max(dim=1)
    scores.div_(temperature)
    if log_prior is not None:
        scores.add_(log_prior)
    if displacements is not None:
        scores.add_(displacements.log_prior[:, :, None])
    posterior = torch.softmax(scores.flatten(1), dim=1).view_as(scores)
    of_orientation = posterior.sum(1)
    return Expectation(
        weighted_data=(posterior.flatten(0, 1).to(dtype).T @ data).float(),
        weight=(of_orientation.to(dtype).T @ power).float(),
        best=place % n_orientations,
        loss=residual_of(batch, top),
        effective_orientations=effective_orientations(of_orientation),
        centres=None if displacements is None else displacements.centres(posterior.sum(2)),
    )


def posterior_centres(
    batch: ParticleBatch,
    slices: Float[Tensor, "orientation coefficient"],
    displacements: Displacements,
    *,
    dtype: torch.dtype = torch.float32,
) -> Centres:
    """Where the particles of a batch are, whatever their orientations: summed over all slices."""
    turned, half_power = slices.to(dtype).T, _half_power(batch, slices, dtype)
    evidence = torch.empty_like(displacements.log_prior)
    for number, shift in enumerate(displacements.shift_box):
        scores = unshifted_data(batch, shift[None])[:, 0].to(dtype) @ turned
        evidence[:, number] = torch.logsumexp(scores.float().sub_(half_power), dim=1)
    return displacements.centres(torch.softmax(evidence + displacements.log_prior, dim=1))


def mean_squared_residual(
    batch: ParticleBatch, slices: Float[Tensor, "orientation coefficient"], found: Expectation
) -> Float[Tensor, " coefficient"]:
    """Expected square of what is left of an image, mean over a batch: ``<(C S - H)^2>``."""
    explained = (2 * found.weighted_data * slices - found.weight * slices.square()).sum(0)
    return (batch.observed.square().sum(0) - explained) / len(batch.index)


def joined(parts: Iterable[Expectation]) -> Expectation:
    """The expectation over the images of all parts together; sums are taken as the parts come."""
    remaining = iter(parts)
    first = next(remaining)
    weighted_data, weight, kept = first.weighted_data, first.weight, [first]
    for part in remaining:
        weighted_data += part.weighted_data
        weight += part.weight
        kept.append(replace(part, weighted_data=weighted_data, weight=weight))
    return Expectation(
        weighted_data=weighted_data,
        weight=weight,
        best=torch.cat([part.best for part in kept]),
        loss=torch.cat([part.loss for part in kept]),
        effective_orientations=torch.cat([part.effective_orientations for part in kept]),
        centres=joined_centres([part.centres for part in kept if part.centres is not None]),
    )


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it faster than float32, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def temperature_for(
    scores: Float[Tensor, "batch orientation"], target_orientations: float
) -> float:
    """Temperature at which a median image is shared by about so many orientations, at least 1.

    Annealing by what the posterior looks like, rather than by a fixed temperature, follows each data
    set's own signal: where the data alone leave more orientations open, nothing is added.
    """
    low, high = 0.0, LARGEST_LOG_TEMPERATURE
    if _median_sharing(scores, low) >= target_orientations:
        return 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _median_sharing(scores, middle) < target_orientations:
            low = middle
        else:
            high = middle
    return math.exp(high)


def effective_orientations(
    posterior: Float[Tensor, "batch orientation"],
) -> Float[Tensor, " batch"]:
    """``1 / sum of squared posterior``: how many orientations share an image."""
    return 1 / posterior.square().sum(1)


def direction_marginal(
    posterior: Float[Tensor, "batch orientation"], n_in_plane: int
) -> Float[Tensor, "batch direction"]:
    """Posterior of the viewing direction: the sum over in-plane angles.

    For a grid of :func:`cryogimbal.rotations.rotation_grid`, whose in-plane angles are ``6 n_side``
    and run fastest; directions are those of ``sphere_grid(n_side)``.
    """
    return posterior.unflatten(1, (-1, n_in_plane)).sum(-1)


def residual_of(batch: ParticleBatch, scores: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Mean squared residual per coefficient of log-likelihoods from :func:`log_likelihoods`."""
    return (batch.observed.square().sum(1) - 2 * scores) / batch.disc.n_coefficients


def _image_rows(batch: ParticleBatch) -> Tensor:
    return torch.cat([batch.ctf * batch.observed, batch.ctf.square()], dim=1)


def _data_rows(
    batch: ParticleBatch, displacements: Displacements | None
) -> Float[Tensor, "batch_shift coefficient"]:
    """``C H`` at every displacement, those of one image after each other."""
    if displacements is None:
        return batch.ctf * batch.observed
    return unshifted_data(batch, displacements.shift_box).flatten(0, 1)


def _orientation_rows(slices: Tensor) -> Tensor:
    return torch.cat([slices, slices.square().mul_(-0.5)], dim=1)


def _half_power(
    batch: ParticleBatch, slices: Tensor, dtype: torch.dtype
) -> Float[Tensor, "batch orientation"]:
    """Half of what every slice would add to the power of every image."""
    power = batch.ctf.square().to(dtype) @ slices.square().to(dtype).T
    return power.float().mul_(0.5)


def _median_sharing(scores: Tensor, log_temperature: float) -> float:
    posterior = torch.softmax(scores / math.exp(log_temperature), dim=1)
    return float(effective_orientations(posterior).median())


def balancing_log_prior(
    scores: Float[Tensor, "batch class_orientation"], n_classes: int, temperature: float
) -> Float[Tensor, " class_orientation"]:
    """Log-prior of each class, for each of its orientations, with which all hold as many images.

    Alternating: the class's share of all images is divided out, again and again.
    """
    n_orientations = scores.shape[1] // n_classes
    evidence = (scores / temperature).unflatten(1, (n_classes, n_orientations)).logsumexp(2)
    log_prior = torch.zeros(n_classes, device=scores.device)
    for _ in range(BALANCINGS):
        share = torch.softmax(evidence + log_prior, dim=1).mean(0)
        log_prior = log_prior - (share * n_classes).clamp_min(1e-6).log()
    return log_prior.repeat_interleave(n_orientations)
