"""Poses that an image might have instead of the one it was given: found coarsely, followed finely.

An image centred by its own shift is compared with all orientations of a coarse grid at a low band
limit; the best that lie apart are moved by Gauss-Newton steps as the band limit doubles, and given up
as soon as they fit far worse than another.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.pose_fit import pose_fits
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.gauss_newton import FIRST_DAMPING, gauss_newton
from cryogimbal.inference.mode_search import prepared_density
from cryogimbal.inference.modes import distinct
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.inference.posterior import log_likelihoods
from cryogimbal.rotations import rotation_grid

# Cycles per box at which orientations 15 degrees apart still see each other.
COARSE_RADIUS = 4.0
N_SIDE = 4
N_RIVALS = 4
CANDIDATES = 64
SEPARATION_DEG = 25.0
STEPS_PER_BAND = 3


@dataclass(frozen=True, kw_only=True)
class RivalGrid:
    """All orientations, and a map's slices at them."""

    orientations: Float[Tensor, "orientation 3 3"]
    slices: Float[Tensor, "orientation coefficient"]
    radius: float
    """Band limit in cycles per box."""

    @classmethod
    def of(cls, spectra: ParticleSpectra, density: Float[Tensor, "box box box"]) -> "RivalGrid":
        """Slices of a density."""
        radius = min(COARSE_RADIUS, spectra.disc.radius)
        orientations = rotation_grid(N_SIDE).to(density)
        prepared = prepared_density(spectra, density, radius, 2)
        slices = prepared.slices(orientations, spectra.disc.truncate(radius))
        return cls(orientations=orientations, slices=slices, radius=radius)


def poses_with_rivals(
    batch: ParticleBatch, written: Hypotheses, decoder: PreparedGrid, grid: RivalGrid
) -> PoseTable:
    """A table of the batch's own: the pose written, polished, and what rivals are left beside it.

    ``written`` holds one pose for each image of the batch, whose ``index`` counts from 0.
    """
    table = _with_coarse_rivals(batch, written, grid)
    everything, full = batch.index, float(batch.disc.radius)
    radius = grid.radius
    while radius < full:
        radius = min(2 * radius, full)
        at = batch.truncate(radius)
        rows, _ = table.alive(everything)
        damping = torch.full_like(rows.hypotheses.rotation[:, 0, 0], FIRST_DAMPING)
        moved = gauss_newton(decoder, rows.hypotheses, at, damping=damping, n_steps=STEPS_PER_BAND)
        poses, residual = moved.hypotheses, moved.residual
        if radius < full:
            poses, residual = _written_stays(rows.slot, poses, residual, written, decoder, at)
        table.update(everything, rows.slot, poses, residual)
        _keep_written(table, written, last=radius >= full)
    return table


def _with_coarse_rivals(batch: ParticleBatch, written: Hypotheses, grid: RivalGrid) -> PoseTable:
    coarse = batch.truncate(grid.radius)
    shift = written.shift_box
    if shift is not None:
        coarse = coarse.centred(shift)
    scores = log_likelihoods(coarse, grid.slices)
    kept = scores.topk(min(CANDIDATES, scores.shape[1]), dim=1).indices
    # The pose written comes first, so that no rival is one of its neighbours.
    ranked = torch.cat([written.rotation[:, None], grid.orientations[kept]], dim=1)
    chosen = distinct(ranked, 1 + N_RIVALS, SEPARATION_DEG)
    rotation = ranked.take_along_dim(chosen.clamp(min=0)[:, :, None, None], dim=1)
    weight = (chosen >= 0).to(rotation)
    return PoseTable(
        rotation=rotation,
        weight=weight / weight.sum(1, keepdim=True),
        shift_box=None if shift is None else shift[:, None].repeat(1, 1 + N_RIVALS, 1),
    )


def _written_stays(
    slot: Tensor,
    poses: Hypotheses,
    residual: Tensor,
    written: Hypotheses,
    decoder: PreparedGrid,
    batch: ParticleBatch,
) -> tuple[Hypotheses, Tensor]:
    """Below the full band the pose written is compared as it is: it knows better."""
    first = slot == 0
    rotation = poses.rotation.clone()
    rotation[first] = written.rotation[poses.image[first]]
    shift = poses.shift_box
    if shift is not None and written.shift_box is not None:
        shift = shift.clone()
        shift[first] = written.shift_box[poses.image[first]]
    stays = replace(poses, rotation=rotation, shift_box=shift)
    own = Hypotheses(
        rotation=rotation[first],
        image=poses.image[first],
        shift_box=None if shift is None else shift[first],
    )
    residual = residual.clone()
    residual[first] = pose_fits(decoder, own, batch)[0]
    return stays, residual


def _keep_written(table: PoseTable, written: Hypotheses, *, last: bool) -> None:
    """However a coarse comparison ends, the pose written is there in the next."""
    if last:
        return
    table.rotation[:, 0] = written.rotation
    if table.shift_box is not None and written.shift_box is not None:
        table.shift_box[:, 0] = written.shift_box
    table.weight[:, 0] = table.weight[:, 0].clamp_min(1e-3)
