"""The best few modes of every image's posterior: all orientations of a grid, then finer and finer.

Images are scored against the whole grid by matrix products in tiles, the best orientations that lie
apart from each other are kept, and each is moved to the best of its neighbours at half the spacing,
twice. Where particles are not centred, an orientation counts by its best shift.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryogimbal.fourier.disc import Disc
from cryogimbal.imaging.centres import Centres
from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.pose_fit import hypotheses_of, pose_fits
from cryogimbal.imaging.shift_search import best_shifts, shift_grid
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.gauss_newton import FIRST_DAMPING, gauss_newton
from cryogimbal.inference.memory_budget import MemoryBudget
from cryogimbal.inference.modes import Modes, distinct, joined_modes, modes_of
from cryogimbal.inference.posterior import fast_dtype, log_likelihoods
from cryogimbal.rotations import rotation_grid, rotvec_to_rotation
from cryogimbal.symmetry import (
    NO_SYMMETRY,
    SymmetryGroup,
    in_asymmetric_unit,
    same_image_within_deg,
)

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
# From the best shift of the grid to the best between its points, jointly with the rotation.
SHIFT_STEPS = 3
N_SIDE_OF_MEAN = 2


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
    shift_range_box: float = 0.0
    """Largest displacement, as a fraction of the box; 0: particles are centred."""
    group: SymmetryGroup = NO_SYMMETRY
    """Poses that it makes equal are searched and counted once."""

    @property
    def spacing_rad(self) -> float:
        """Distance of neighbours on the grid."""
        return math.pi / 3 / self.n_side

    def orientations(self, device: torch.device) -> Float[Tensor, "orientation 3 3"]:
        """Grid of the rotations that the group tells apart."""
        grid = rotation_grid(self.n_side)
        return grid[in_asymmetric_unit(grid, self.group)].to(device)

    def shifts(self, device: torch.device) -> Float[Tensor, "shift 2"]:
        """Shifts to be compared, in fractions of the box."""
        return shift_grid(self.shift_range_box, self.radius).to(device)


def find_modes(
    spectra: ParticleSpectra,
    density: Float[Tensor, "box box box"],
    search: ModeSearch,
    budget: MemoryBudget,
    centres: Centres | None = None,
) -> Modes:
    """The best distinct orientations of every image.

    Shifts are searched around the centres, where there are any.

    Raises
    ------
    InputError
        If the budget does not hold a single tile.
    """
    orientations = search.orientations(spectra.device)
    search = replace(search, radius=min(search.radius, spectra.disc.radius))
    radius = search.radius
    coarse = prepared_density(spectra, density, radius, SEARCH_OVERSAMPLING)
    fine = prepared_density(spectra, density, radius, REFINEMENT_OVERSAMPLING)
    images = _Images(spectra=spectra, centres=centres)
    candidates = budget.until_it_fits(
        lambda: _best_orientations(images, coarse, orientations, search, budget)
    )
    parts = []
    for index in torch.arange(len(spectra), device=spectra.device).split(IMAGES_AT_ONCE):
        batch = images.batch(index, radius)
        found = orientations[candidates[index]]
        chosen = distinct(found, search.n_modes, search.separation_deg, search.group)
        ranked = found.take_along_dim(chosen.clamp(min=0)[:, :, None, None], dim=1)
        modes = _refined(fine, batch, ranked, search).without(chosen < 0).best_first()
        modes = modes.without(_met(modes, search)).best_first()
        parts.append(modes.first(search.n_modes))
    modes = joined_modes(parts)
    if centres is None:
        return modes
    assert modes.shift_box is not None
    return replace(modes, shift_box=modes.shift_box + centres.shift_box[:, None])


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


def mean_slice_of(
    spectra: ParticleSpectra, density: Float[Tensor, "box box box"], disc: Disc
) -> tuple[Float[Tensor, " coefficient"], Float[Tensor, " coefficient"]]:
    """Mean over orientations of a density's slices, and what they vary by (mean square)."""
    prepared = prepared_density(spectra, density, disc.radius, SEARCH_OVERSAMPLING)
    slices = prepared.slices(rotation_grid(N_SIDE_OF_MEAN).to(spectra.device), disc)
    mean = slices.mean(0)
    return mean, (slices - mean).square().mean(0)


@dataclass(frozen=True, kw_only=True)
class _Images:
    """A stack as it is searched: each image moved back by where its particle is expected."""

    spectra: ParticleSpectra
    centres: Centres | None

    def batch(self, index: Int[Tensor, " batch"], radius: float) -> ParticleBatch:
        batch = self.spectra.batch(index, radius)
        return batch if self.centres is None else batch.centred(self.centres.shift_box[index])


def _best_orientations(
    images: _Images,
    prepared: PreparedGrid,
    orientations: Tensor,
    search: ModeSearch,
    budget: MemoryBudget,
) -> Int[Tensor, "particle candidate"]:
    """Orientations of highest likelihood of each image, at the best of all shifts, best first."""
    spectra = images.spectra
    n, n_orientations = len(spectra), orientations.shape[0]
    shifts = search.shifts(spectra.device) if search.shift_range_box > 0 else None
    # Many shifts take long, and among the candidates kept half a percent of a score does not matter.
    dtype = torch.float32 if shifts is None else fast_dtype(spectra.device)
    disc = spectra.disc.truncate(search.radius)
    kept = min(CANDIDATES, n_orientations)
    best = torch.full((n, 0), -torch.inf, device=spectra.device)
    index = torch.zeros(n, 0, dtype=torch.long, device=spectra.device)
    numbers = torch.arange(n, device=spectra.device)
    blocks: list[tuple[Tensor, Tensor]] = []
    block, slices = slice(0, 0), torch.empty(0)
    for tile in budget.tiles(n, n_orientations, disc.n_coefficients):
        if tile.orientations != block:
            block = tile.orientations
            slices = prepared.slices(orientations[block], disc)
        batch = images.batch(numbers[tile.images], search.radius)
        scores = log_likelihoods(batch, slices, shifts=shifts, dtype=dtype)
        value, place = scores.topk(min(kept, scores.shape[1]), dim=1)
        blocks.append((value, place + block.start))
        if tile.images.stop == n:
            values, places = (torch.cat(parts) for parts in zip(*blocks, strict=True))
            joined, indices = torch.cat([best, values], dim=1), torch.cat([index, places], dim=1)
            best, order = joined.topk(min(kept, joined.shape[1]), dim=1)
            index, blocks = indices.gather(1, order), []
    return index


def _met(refined: Modes, search: ModeSearch) -> Bool[Tensor, "batch mode"]:
    """Modes (best first) that refinement has brought to a better one: it was the same peak."""
    near = same_image_within_deg(refined.rotation, search.separation_deg / 2, search.group)
    return near.tril(diagonal=-1).any(dim=2)


def _refined(
    prepared: PreparedGrid,
    batch: ParticleBatch,
    modes: Float[Tensor, "batch mode 3 3"],
    search: ModeSearch,
) -> Modes:
    """Each pose with its best shift, moved to the best of its 27 neighbours, twice, then by steps."""
    axis = torch.tensor([0.0, -1.0, 1.0], device=modes.device)
    steps = torch.cartesian_prod(axis, axis, axis)
    hypotheses = hypotheses_of(modes)
    if search.shift_range_box > 0:
        shifts = search.shifts(modes.device)
        found = best_shifts(prepared, hypotheses, batch, shifts)
        hypotheses = replace(hypotheses, shift_box=found)
    residual = pose_fits(prepared, hypotheses, batch)[0]
    for halving in range(1, HALVINGS + 1):
        rotvec = steps * (search.spacing_rad / 2**halving)
        neighbours = rotvec_to_rotation(rotvec) @ hypotheses.rotation[:, None]
        fits, _ = pose_fits(prepared, _around(hypotheses, neighbours), batch)
        residual, best = fits.view(-1, len(steps)).min(dim=1)
        rotation = neighbours.take_along_dim(best[:, None, None, None], dim=1)[:, 0]
        hypotheses = replace(hypotheses, rotation=rotation)
    if hypotheses.shift_box is not None:
        damping = torch.full_like(residual, FIRST_DAMPING)
        moved = gauss_newton(prepared, hypotheses, batch, damping=damping, n_steps=SHIFT_STEPS)
        hypotheses, residual = moved.hypotheses, moved.residual
    return modes_of(hypotheses, residual, len(modes))


def _around(hypotheses: Hypotheses, neighbours: Float[Tensor, "n step 3 3"]) -> Hypotheses:
    n_steps, shift = neighbours.shape[1], hypotheses.shift_box
    return Hypotheses(
        rotation=neighbours.flatten(0, 1),
        image=hypotheses.image.repeat_interleave(n_steps),
        shift_box=None if shift is None else shift.repeat_interleave(n_steps, dim=0),
    )
