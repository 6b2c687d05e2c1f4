"""Poses of new images of a known map: the encoder proposes, the best are moved directly.

Nothing is trained and no grid is searched: a few heads are compared at low resolution, where poses
some degrees off still fit, and the best of them follow the growing band limit until it tells them
apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.pose_fit import hypotheses_of, pose_fits
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.config_heads import PoseInferenceConfig
from cryogimbal.inference.gauss_newton import FIRST_DAMPING, gauss_newton
from cryogimbal.inference.mode_search import distinct, prepared_density
from cryogimbal.inference.row_encoder import RowEncoder, propose_poses

OVERSAMPLING = 2
# What the heads of an image are compared at, beyond what the network saw: its error still fits there.
SCORING_OVER_NETWORK_RADIUS = 1.2
# Hypotheses nearer than this would be moved to the same pose.
SEPARATION_DEG = 15.0


@dataclass(frozen=True, kw_only=True)
class InferredPoses:
    """Some images are done."""

    index: Int[Tensor, " batch"]
    rotation: Float[Tensor, "batch 3 3"]
    residual: Float[Tensor, " batch"]
    """Mean square per coefficient, at the full band limit; pure noise gives 1."""
    head_rotation: Float[Tensor, "batch 3 3"]
    """The best head alone, before any step."""


def infer_poses(
    encoder: RowEncoder,
    density: Float[Tensor, "box box box"],
    spectra: ParticleSpectra,
    config: PoseInferenceConfig,
) -> Iterator[InferredPoses]:
    """Poses of all images against a density in their scale (noise 1), batch by batch."""
    radii = _band_limits(encoder.disc.radius, spectra.disc.radius)
    grids = [prepared_density(spectra, density, radius, OVERSAMPLING) for radius in radii]
    steps = _steps_per_band(config.direct_steps, len(radii))
    kept = (config.hypotheses, max(1, config.hypotheses // 2), 1)
    for index in torch.arange(len(spectra), device=spectra.device).split(config.batch_size):
        batch = spectra.batch(index, spectra.disc.radius)
        rotation = _best_heads(encoder, grids[0], batch.truncate(radii[0]), config.hypotheses)
        head_rotation = rotation[:, 0]
        for radius, grid, n_steps, n_kept in zip(radii, grids, steps, kept, strict=True):
            rotation = _moved(grid, batch.truncate(radius), rotation, n_steps)[:, :n_kept]
        residual, _ = pose_fits(grids[-1], hypotheses_of(rotation), batch)
        yield InferredPoses(
            index=index,
            rotation=rotation[:, 0],
            residual=residual / batch.disc.n_coefficients,
            head_rotation=head_rotation,
        )


def _band_limits(network_radius: float, full: float) -> tuple[float, float, float]:
    """From where heads are compared to everything there is, in equal ratios."""
    first = min(SCORING_OVER_NETWORK_RADIUS * network_radius, full)
    return first, (first * full) ** 0.5, full


def _steps_per_band(n_steps: int, n_bands: int) -> list[int]:
    """As equal as can be; the lowest bands, where poses have the longest way to go, come first."""
    return [(n_steps + n_bands - 1 - band) // n_bands for band in range(n_bands)]


def _best_heads(
    encoder: RowEncoder, grid: PreparedGrid, batch: ParticleBatch, n_kept: int
) -> Float[Tensor, "batch head 3 3"]:
    """The best proposals of each image that lie apart, best first; the best again where none is left."""
    rotation = propose_poses(encoder, batch).rotation
    residual, _ = pose_fits(grid, hypotheses_of(rotation), batch)
    order = residual.view(rotation.shape[:2]).argsort(dim=1)
    ranked = rotation.take_along_dim(order[:, :, None, None], dim=1)
    chosen = distinct(ranked, n_kept, SEPARATION_DEG).clamp(min=0)
    return ranked.take_along_dim(chosen[:, :, None, None], dim=1)


def _moved(
    grid: PreparedGrid, batch: ParticleBatch, rotation: Tensor, n_steps: int
) -> Float[Tensor, "batch head 3 3"]:
    """All hypotheses after some direct steps, best first."""
    hypotheses: Hypotheses = hypotheses_of(rotation)
    damping = torch.full_like(hypotheses.rotation[:, 0, 0], FIRST_DAMPING)
    found = gauss_newton(grid, hypotheses, batch, damping=damping, n_steps=n_steps)
    order = found.residual.view(rotation.shape[:2]).argsort(dim=1)
    moved = found.rotation.view(rotation.shape)
    return moved.take_along_dim(order[:, :, None, None], dim=1)
