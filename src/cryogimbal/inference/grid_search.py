"""Maps from poses, for all images at once, and maps brought to the scale of the images."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.errors import InputError
from cryogimbal.fourier.disc import Disc
from cryogimbal.imaging.backprojection import (
    SufficientStatistics,
    mean_weight_per_shell,
    solve_density,
)
from cryogimbal.imaging.slices import central_slices
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.symmetrisation import rotations_off_grid, sum_on_grid
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.config_posterior import PosteriorConfig
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.inference.posterior import Expectation
from cryogimbal.rotations import rotation_grid
from cryogimbal.symmetry import SymmetryGroup

# Interpolation on an unpadded grid favours some orientations; where images say little of theirs, a
# search then needs higher frequencies until it finds a structure.
OVERSAMPLING = 2
# Prior weight as a fraction of the mean weight: damps directions that no image has covered.
PRIOR_FRACTION = 0.05


def solve_lightly(
    statistics: SufficientStatistics,
    geometry: GridGeometry,
    prior_fraction: float = PRIOR_FRACTION,
) -> Float[Tensor, "box box box"]:
    """Division with the same small prior in every shell, a fraction of the mean weight."""
    mean = mean_weight_per_shell(statistics, geometry).mean()
    return solve_density(statistics, geometry, (prior_fraction * mean)[None])


def densities_of_expectation(
    found: Expectation,
    orientations: Float[Tensor, "orientation 3 3"],
    disc: Disc,
    geometry: GridGeometry,
    group: SymmetryGroup,
    prior_fraction: float,
) -> Float[Tensor, "class box box box"]:
    """Maximisation step: the density of every class, whose slices follow one another."""
    parts = zip(
        found.weighted_data.split(len(orientations)),
        found.weight.split(len(orientations)),
        strict=True,
    )
    densities = []
    for data, weight in parts:
        statistics = SufficientStatistics.zeros(geometry, data.device)
        for rotation in rotations_off_grid(orientations, group):
            statistics.add_slices(data, weight, rotation, disc, OVERSAMPLING)
        statistics = sum_on_grid(statistics, group)
        densities.append(solve_lightly(statistics, geometry, prior_fraction))
    return torch.stack(densities)


def density_of_poses(
    spectra: ParticleSpectra,
    table: PoseTable,
    geometry: GridGeometry,
    tile: int,
    *,
    index: Int[Tensor, " chosen"] | None = None,
) -> Float[Tensor, "box box box"]:
    """Back-projection of images at their best poses, up to the geometry's radius.

    Parameters
    ----------
    tile
        Images at a time.
    index
        Images of the stack, and of the table, that count; none: all.
    """
    if index is None:
        index = torch.arange(len(spectra), device=spectra.device)
    statistics = SufficientStatistics.zeros(geometry, spectra.device)
    for part in index.split(tile):
        batch = spectra.batch(part, geometry.radius)
        share = torch.ones(len(part), device=spectra.device)
        statistics.add_hypotheses(batch, table.best_of(part), share, geometry.oversampling)
    return solve_lightly(statistics, geometry)


def scaled_to_images(
    spectra: ParticleSpectra, density: Float[Tensor, "box box box"], config: PosteriorConfig
) -> Float[Tensor, "box box box"]:
    """A density of unknown scale, made as strong as the images' power above the noise.

    Up to the search's band limit, ``scale^2 sum <C^2> <S^2> = sum (<H^2> - 1)`` with means over images
    and over all orientations.

    Raises
    ------
    InputError
        If the images have no power above the noise there, or the density is empty.
    """
    radius = min(config.end_radius, spectra.disc.radius)
    geometry = GridGeometry(box=spectra.disc.box, radius=radius, oversampling=OVERSAMPLING)
    step = max(1, len(spectra) // config.minibatch)
    batch = spectra.batch(torch.arange(0, len(spectra), step, device=spectra.device), radius)
    orientations = rotation_grid(config.n_side).to(spectra.device)
    grid = geometry.grid_of_density(density)
    slices = central_slices(grid, orientations, batch.disc, OVERSAMPLING)
    noise = (batch.ctf != 0).float().mean(0) if spectra.optics else 1.0
    signal = float((batch.observed.square().mean(0) - noise).sum())
    model = float((batch.ctf.square().mean(0) * slices.square().mean(0)).sum())
    if signal <= 0 or model <= 0:
        raise InputError(
            "the strength of the initial map cannot be matched to the images: expected power above "
            f"the noise in both, found {signal:.3g} in the images and {model:.3g} in the map; "
            "check --particle-diameter (it decides what counts as noise) and the map"
        )
    return density * (signal / model) ** 0.5
