"""Poses of new images of a known map: the encoder proposes, the best are moved directly.

Nothing is trained and no grid is searched: a few heads are compared at low resolution, where poses
some degrees off still fit, and the best of them follow the growing band limit until it tells them
apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.pose_fit import hypotheses_of, pose_fits
from cryogimbal.imaging.shift_search import best_shifts, centres_by_mean_slice, shift_grid
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.config_heads import PoseInferenceConfig
from cryogimbal.inference.gauss_newton import FIRST_DAMPING, gauss_newton
from cryogimbal.inference.mode_search import mean_slice_of, prepared_density
from cryogimbal.inference.modes import Modes, distinct, modes_of
from cryogimbal.inference.row_encoder import RowEncoder, propose_poses

OVERSAMPLING = 2
# What the heads of an image are compared at, beyond what the network saw: its error still fits there.
SCORING_OVER_NETWORK_RADIUS = 1.2
# Hypotheses nearer than this would be moved to the same pose.
SEPARATION_DEG = 15.0
IMAGES_AT_ONCE = 1024
# How far a particle may be from where the mean slice has found it, in periods at the network's limit.
NEAR_PERIODS = 0.7


@dataclass(frozen=True, kw_only=True)
class InferredPoses:
    """Some images are done."""

    index: Int[Tensor, " batch"]
    rotation: Float[Tensor, "batch 3 3"]
    shift_box: Float[Tensor, "batch 2"] | None
    """Displacement in fractions of the box; none where particles are taken as centred."""
    residual: Float[Tensor, " batch"]
    """Mean square per coefficient, at the full band limit; pure noise gives 1."""
    head_rotation: Float[Tensor, "batch 3 3"]
    """The best head alone, before any step."""


@dataclass(frozen=True, kw_only=True)
class Centring:
    """Where the particles of images are looked for."""

    start_box: Float[Tensor, "particle 2"]
    """First estimate of each displacement, in fractions of the box."""
    range_box: float
    """How far from there, at most."""


def infer_poses(
    encoder: RowEncoder,
    density: Float[Tensor, "box box box"],
    spectra: ParticleSpectra,
    config: PoseInferenceConfig,
    centring: Centring | None = None,
) -> Iterator[InferredPoses]:
    """Poses of all images against a density in their scale (noise 1), batch by batch.

    Particles are taken as centred unless a ``centring`` is given (:func:`centring_by_mean_slice`).
    """
    radii = _band_limits(encoder.disc.radius, spectra.disc.radius)
    grids = [prepared_density(spectra, density, radius, OVERSAMPLING) for radius in radii]
    steps = _steps_per_band(config.direct_steps, len(radii))
    kept = (config.hypotheses, max(1, config.hypotheses // 2), 1)
    for index in torch.arange(len(spectra), device=spectra.device).split(config.batch_size):
        batch = spectra.batch(index, spectra.disc.radius)
        start = None
        if centring is not None:
            start = centring.start_box[index]
            batch = batch.centred(start)
        range_box = 0.0 if centring is None else centring.range_box
        first = batch.truncate(radii[0])
        modes = _best_heads(encoder, grids[0], first, config.hypotheses, range_box)
        head_rotation = modes.rotation[:, 0]
        for radius, grid, n_steps, n_kept in zip(radii, grids, steps, kept, strict=True):
            modes = _moved(grid, batch.truncate(radius), modes, n_steps).first(n_kept)
        residual, _ = pose_fits(grids[-1], modes.hypotheses, batch)
        shift = modes.shift_box
        yield InferredPoses(
            index=index,
            rotation=modes.rotation[:, 0],
            shift_box=None if shift is None or start is None else start + shift[:, 0],
            residual=residual / batch.disc.n_coefficients,
            head_rotation=head_rotation,
        )


def centring_by_mean_slice(
    encoder: RowEncoder,
    density: Float[Tensor, "box box box"],
    spectra: ParticleSpectra,
    range_box: float,
) -> Centring:
    """First estimates of where the particles are, from the map and no pose."""
    disc = encoder.disc
    mean_slice, power = mean_slice_of(spectra, density, disc)
    found = [
        centres_by_mean_slice(spectra.batch(index, disc.radius), mean_slice, power, range_box)
        for index in torch.arange(len(spectra), device=spectra.device).split(IMAGES_AT_ONCE)
    ]
    start = torch.cat([part.shift_box for part in found])
    return Centring(start_box=start, range_box=min(range_box, NEAR_PERIODS / disc.radius))


def _band_limits(network_radius: float, full: float) -> tuple[float, float, float]:
    """From where heads are compared to everything there is, in equal ratios."""
    first = min(SCORING_OVER_NETWORK_RADIUS * network_radius, full)
    return first, (first * full) ** 0.5, full


def _steps_per_band(n_steps: int, n_bands: int) -> list[int]:
    """As equal as can be; the lowest bands, where poses have the longest way to go, come first."""
    return [(n_steps + n_bands - 1 - band) // n_bands for band in range(n_bands)]


def _best_heads(
    encoder: RowEncoder, grid: PreparedGrid, batch: ParticleBatch, n_kept: int, range_box: float
) -> Modes:
    """The best proposals of each image that lie apart, best first; the best again where none is left."""
    proposed = propose_poses(encoder, batch).rotation
    hypotheses = hypotheses_of(proposed)
    if range_box > 0:
        shifts = shift_grid(range_box, batch.disc.radius).to(proposed.device)
        found = best_shifts(grid, hypotheses, batch, shifts)
        hypotheses = replace(hypotheses, shift_box=found)
    residual, _ = pose_fits(grid, hypotheses, batch)
    ranked = modes_of(hypotheses, residual, len(proposed)).best_first()
    chosen = distinct(ranked.rotation, n_kept, SEPARATION_DEG)
    return ranked.taken(chosen.clamp(min=0))


def _moved(grid: PreparedGrid, batch: ParticleBatch, modes: Modes, n_steps: int) -> Modes:
    """All hypotheses after some direct steps, best first."""
    damping = torch.full_like(modes.residual.flatten(), FIRST_DAMPING)
    found = gauss_newton(grid, modes.hypotheses, batch, damping=damping, n_steps=n_steps)
    return modes_of(found.hypotheses, found.residual, len(modes.rotation)).best_first()
