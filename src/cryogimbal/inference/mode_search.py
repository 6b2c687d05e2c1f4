"""The best few modes of every image's posterior: all orientations of a grid, then finer and finer.

Images are scored against the whole grid by matrix products in tiles, the best orientations that lie
apart from each other are kept, and each is moved to the best of its neighbours at half the spacing,
twice.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.pose_fit import hypotheses_of, pose_fits
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.memory_budget import MemoryBudget
from cryogimbal.inference.posterior import log_likelihoods
from cryogimbal.rotations import nearer_than_deg, rotation_grid, rotvec_to_rotation

# At the few cycles per box of the search an unpadded grid is exact enough, and eight times smaller.
SEARCH_OVERSAMPLING = 1
# Neighbours are told apart by small differences, which wants the exact slices.
REFINEMENT_OVERSAMPLING = 2
# Grid orientations of an image among which its modes are looked for.
CANDIDATES = 96
# Halvings of the grid spacing: 7.5 degrees become 1.9.
HALVINGS = 2
# More are refined than are wanted, for some turn out to be shoulders of one peak.
SPARE_MODES = 2
IMAGES_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class Modes:
    """Distinct poses of each image, best first."""

    rotation: Float[Tensor, "particle mode 3 3"]
    residual: Float[Tensor, "particle mode"]
    """Sum of squared residuals; infinite where an image has fewer modes."""


@dataclass(frozen=True, kw_only=True)
class ModeSearch:
    """How modes are looked for."""

    radius: float
    """Band limit in cycles per box."""
    n_side: int
    """HEALPix resolution of the grid; the spacing is ``60 / n_side`` degrees."""
    n_modes: int
    separation_deg: float = 20.0
    """Least distance between the modes of an image."""

    @property
    def spacing_rad(self) -> float:
        """Distance of neighbours on the grid."""
        return math.pi / 3 / self.n_side


def find_modes(
    spectra: ParticleSpectra,
    density: Float[Tensor, "box box box"],
    search: ModeSearch,
    budget: MemoryBudget,
) -> Modes:
    """The best distinct orientations of every image.

    Raises
    ------
    InputError
        If the budget does not hold a single tile.
    """
    orientations = rotation_grid(search.n_side).to(spectra.device)
    radius = min(search.radius, spectra.disc.radius)
    coarse = prepared_density(spectra, density, radius, SEARCH_OVERSAMPLING)
    fine = prepared_density(spectra, density, radius, REFINEMENT_OVERSAMPLING)
    candidates = budget.until_it_fits(
        lambda: _best_orientations(spectra, coarse, orientations, radius, budget)
    )
    rotation, residual = [], []
    for index in torch.arange(len(spectra), device=spectra.device).split(IMAGES_AT_ONCE):
        batch = spectra.batch(index, radius)
        found = orientations[candidates[index]]
        chosen = distinct(found, search.n_modes, search.separation_deg)
        modes = found.take_along_dim(chosen.clamp(min=0)[:, :, None, None], dim=1)
        refined, left = _refined(fine, batch, modes, search.spacing_rad)
        refined, left = _ordered(refined, left.masked_fill(chosen < 0, torch.inf))
        refined, left = _ordered(refined, left.masked_fill(_met(refined, search), torch.inf))
        rotation.append(refined[:, : search.n_modes])
        residual.append(left[:, : search.n_modes])
    return Modes(rotation=torch.cat(rotation), residual=torch.cat(residual))


def orientation_posterior(
    spectra: ParticleSpectra,
    density: Float[Tensor, "box box box"],
    search: ModeSearch,
    budget: MemoryBudget,
) -> Float[Tensor, "particle orientation"]:
    """Exact posterior of every image over the grid ``rotation_grid(search.n_side)``, flat prior.

    The result alone takes four bytes for each image and orientation: choose the images (``subset``).

    Raises
    ------
    InputError
        If the budget does not hold a single tile.
    """
    orientations = rotation_grid(search.n_side).to(spectra.device)
    radius = min(search.radius, spectra.disc.radius)
    prepared = prepared_density(spectra, density, radius, SEARCH_OVERSAMPLING)
    disc = spectra.disc.truncate(radius)
    images = torch.arange(len(spectra), device=spectra.device)
    scores = torch.empty(len(spectra), len(orientations), device=spectra.device)
    for tile in budget.tiles(len(spectra), len(orientations), disc.n_coefficients):
        slices = prepared.slices(orientations[tile.orientations], disc)
        batch = spectra.batch(images[tile.images], radius)
        scores[tile.images, tile.orientations] = log_likelihoods(batch, slices)
    return torch.softmax(scores, dim=1)


def prepared_density(
    spectra: ParticleSpectra,
    density: Float[Tensor, "box box box"],
    radius: float,
    oversampling: int,
) -> PreparedGrid:
    """A density as a grid that slices up to a band limit."""
    geometry = GridGeometry(box=spectra.disc.box, radius=radius, oversampling=oversampling)
    return PreparedGrid.of(geometry.grid_of_density(density), oversampling)


def _best_orientations(
    spectra: ParticleSpectra,
    prepared: PreparedGrid,
    orientations: Tensor,
    radius: float,
    budget: MemoryBudget,
) -> Int[Tensor, "particle candidate"]:
    """Orientations of highest likelihood of each image, best first."""
    n, n_orientations = len(spectra), orientations.shape[0]
    disc = spectra.disc.truncate(radius)
    kept = min(CANDIDATES, n_orientations)
    best = torch.full((n, 0), -torch.inf, device=spectra.device)
    index = torch.zeros(n, 0, dtype=torch.long, device=spectra.device)
    images = torch.arange(n, device=spectra.device)
    blocks: list[tuple[Tensor, Tensor]] = []
    block, slices = slice(0, 0), torch.empty(0)
    for tile in budget.tiles(n, n_orientations, disc.n_coefficients):
        if tile.orientations != block:
            block = tile.orientations
            slices = prepared.slices(orientations[block], disc)
        scores = log_likelihoods(spectra.batch(images[tile.images], radius), slices)
        value, place = scores.topk(min(kept, scores.shape[1]), dim=1)
        blocks.append((value, place + block.start))
        if tile.images.stop == n:
            values, places = (torch.cat(parts) for parts in zip(*blocks, strict=True))
            joined, indices = torch.cat([best, values], dim=1), torch.cat([index, places], dim=1)
            best, order = joined.topk(min(kept, joined.shape[1]), dim=1)
            index, blocks = indices.gather(1, order), []
    return index


def distinct(
    ranked: Float[Tensor, "batch candidate 3 3"], n: int, separation_deg: float
) -> Int[Tensor, "batch mode"]:
    """Which candidates (best first) are modes: each farther than the separation from all before.

    -1 where no candidate is left.
    """
    near = nearer_than_deg(ranked, separation_deg)
    free = torch.ones(ranked.shape[:2], dtype=torch.bool, device=ranked.device)
    rows = torch.arange(len(ranked), device=ranked.device)
    chosen = []
    for _ in range(n):
        first = free.int().argmax(dim=1)
        chosen.append(torch.where(free.any(dim=1), first, -1))
        # Rounding must not leave a candidate apart from itself.
        free[rows, first] = False
        free &= ~near[rows, first]
    return torch.stack(chosen, dim=1)


def _ordered(rotation: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Best first."""
    residual, order = residual.sort(dim=1)
    return rotation.take_along_dim(order[:, :, None, None], dim=1), residual


def _met(refined: Tensor, search: ModeSearch) -> Bool[Tensor, "batch mode"]:
    """Modes (best first) that refinement has brought to a better one: it was the same peak."""
    near = nearer_than_deg(refined, search.separation_deg / 2)
    return near.tril(diagonal=-1).any(dim=2)


def _refined(
    prepared: PreparedGrid, batch: ParticleBatch, modes: Tensor, spacing_rad: float
) -> tuple[Float[Tensor, "batch mode 3 3"], Float[Tensor, "batch mode"]]:
    """Each pose moved to the best of its 27 neighbours, at half the spacing and half of that."""
    axis = torch.tensor([0.0, -1.0, 1.0], device=modes.device)
    steps = torch.cartesian_prod(axis, axis, axis)
    hypotheses = hypotheses_of(modes)
    rotation = hypotheses.rotation
    residual = pose_fits(prepared, hypotheses, batch)[0]
    for halving in range(1, HALVINGS + 1):
        neighbours = rotvec_to_rotation(steps * (spacing_rad / 2**halving)) @ rotation[:, None]
        image = hypotheses.image.repeat_interleave(len(steps))
        around = Hypotheses(rotation=neighbours.flatten(0, 1), image=image)
        fits, _ = pose_fits(prepared, around, batch)
        residual, best = fits.view(-1, len(steps)).min(dim=1)
        rotation = neighbours.take_along_dim(best[:, None, None, None], dim=1)[:, 0]
    return rotation.view(modes.shape), residual.view(modes.shape[:2])
