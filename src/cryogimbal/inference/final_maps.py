"""The maps that a run leaves: half-maps as they are, the joint map filtered, and how far it holds.

From poses and shifts as they have been found, over the whole band of the images. Nothing here goes
back into the search.
"""

import math
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.data.half_sets import HalfMapFsc, HalfMaps, HalfSets
from cryogimbal.data.particles import ParticleStack
from cryogimbal.data.poses import PoseSet
from cryogimbal.evaluation.fsc import fourier_shell_correlation
from cryogimbal.evaluation.half_map_fsc import half_map_fsc
from cryogimbal.evaluation.masks import soft_sphere_mask, soft_support_mask
from cryogimbal.imaging.backprojection import (
    SufficientStatistics,
    mean_weight_per_shell,
    solve_density,
)
from cryogimbal.imaging.stack_sums import StackReading, sum_stack
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.config_final import FinalMapsConfig
from cryogimbal.inference.seeding import generator_for
from cryogimbal.symmetry import SymmetryGroup, symmetry_group

OVERSAMPLING = 2
# Keeps cells that hardly any image has reached from being divided by nothing.
LIGHT_PRIOR = 1e-3
# A correlation of exactly 0 or 1 would mean no signal or no noise at all.
CORRELATION_RANGE = (1e-4, 0.9999)
# Fraction of the box that the map is kept in where the particle's diameter is not known.
DEFAULT_SPHERE_FRACTION = 0.9
SPHERE_EDGE_VOXELS = 3.0
# A mask's edge is felt in shells that are this many voxels or fewer apart.
LEAST_MARGIN_VOXELS, LEAST_EDGE_VOXELS = 1.0, 4.0
# Per cell of a padded grid: two grids of each half, and one on its way to a density.
BYTES_PER_CELL = 64


@dataclass(frozen=True, kw_only=True)
class FinalMaps:
    """Half-maps, joint map, mask, and the correlation of the halves in it."""

    half_maps: HalfMaps
    density: DensityMap
    """Of all images: filtered by the correlation of the halves, inside a soft sphere."""
    mask: DensityMap
    fsc: HalfMapFsc


@dataclass(frozen=True, kw_only=True)
class FinalMapsSettings:
    """How the last maps are made, beside what has been found."""

    reading: StackReading
    """How images become rows; its box is that of the maps."""
    mask: DensityMap | None = None
    """What the halves are compared in, on the grid of the maps; none: made from the map."""
    config: FinalMapsConfig = field(default_factory=FinalMapsConfig)
    """How such a mask is made."""
    group: SymmetryGroup = field(default_factory=lambda: symmetry_group("C1"))
    """Imposed on the particle, whose axes are the frame's."""


def reconstruct_final_maps(
    stack: ParticleStack, poses: PoseSet, half_sets: HalfSets, settings: FinalMapsSettings
) -> FinalMaps:
    """Both half-maps and the joint map of a stack at given poses.

    Parameters
    ----------
    stack
        The images, read once here.
    poses
        One pose for each, in one frame; shifts are displacements from the box centre.
    half_sets
        Which half each belongs to.
    settings
        Box, mask and symmetry of the maps.

    Raises
    ------
    InputError
        If an image cannot be read, or the mask has another box.
    """
    reading, mask = settings.reading, settings.mask
    geometry = GridGeometry(box=reading.box, radius=reading.box / 2, oversampling=OVERSAMPLING)
    halves = [
        sum_stack(stack, poses, half_sets.index(number), reading, geometry, settings.group)
        for number in (1, 2)
    ]
    voxel_size = stack.pixel_size_angstrom * stack.box / reading.box
    sphere = _sphere(reading, voxel_size)
    maps = [_unfiltered(half, geometry, voxel_size) for half in halves]
    half_maps = HalfMaps(first=maps[0], second=maps[1], poses=half_sets.poses)
    # In place: two more grids would be half as much memory again.
    joint = halves[0]
    joint.data.add_(halves[1].data)
    joint.weight.add_(halves[1].weight)
    halves.clear()
    if mask is None:
        mask = mask_of_maps(half_maps, sphere, settings.config)
    fsc = half_map_fsc(half_maps, mask.values, generator_for(0, "random phases"))
    correlation = fsc.corrected.correlation.to(joint.weight)
    density = wiener_density(joint, geometry, correlation) * sphere.to(joint.weight)
    return FinalMaps(
        half_maps=half_maps,
        density=DensityMap(values=density.cpu(), voxel_size_angstrom=voxel_size),
        mask=mask,
        fsc=fsc,
    )


def wiener_density(
    joint: SufficientStatistics,
    geometry: GridGeometry,
    correlation: Float[Tensor, " shell"],
) -> Float[Tensor, "box box box"]:
    """Density of all images, damped in each shell by what the halves have in common there.

    With ``SSNR = 2 FSC / (1 - FSC)`` of both halves together, the prior's weight is the shell's mean
    weight over SSNR, so that a shell of mean weight is multiplied by ``2 FSC / (1 + FSC)``
    (Rosenthal and Henderson 2003; Scheres 2012). Beyond the first shell that has nothing in common,
    chance alone makes correlations, and nothing is left of the map.
    """
    weight = mean_weight_per_shell(joint, geometry)
    n_shells = min(len(weight), len(correlation))
    kept = correlation[:n_shells].clone()
    kept[0] = CORRELATION_RANGE[1]
    nothing = (kept <= 0).nonzero()
    if len(nothing):
        kept[int(nothing[0]) :] = 0
    kept = kept.clamp(*CORRELATION_RANGE)
    prior = weight[:n_shells] * (1 - kept) / (2 * kept)
    return solve_density(joint, geometry, prior)


def mask_of_maps(
    maps: HalfMaps, sphere: Float[Tensor, "box box box"], config: FinalMapsConfig
) -> DensityMap:
    """Soft mask around what the mean of the half-maps shows at low resolution.

    The mean is blurred to ``mask_lowpass`` Å, or to where the halves part (FSC 0.5) if that is
    coarser, kept where it exceeds ``mask_level`` of its strong values, widened, and given an edge.
    """
    first, second, voxel_size = (
        maps.first.values,
        maps.second.values,
        maps.first.voxel_size_angstrom,
    )
    width = maps.first.box * voxel_size
    agreed = fourier_shell_correlation(maps.first, maps.second, poses=maps.poses)
    blur = max(config.mask_lowpass, min(agreed.resolution_angstrom(0.5), width / 4))
    values = soft_support_mask(
        (first + second) / 2,
        sphere,
        blur_radius=width / blur,
        margin_voxels=max(config.mask_margin / voxel_size, LEAST_MARGIN_VOXELS),
        edge_voxels=max(config.mask_edge / voxel_size, LEAST_EDGE_VOXELS),
        level=config.mask_level,
    )
    return DensityMap(values=values, voxel_size_angstrom=voxel_size)


def largest_box(stack_box: int, working_box: int, available_bytes: int) -> int:
    """Largest box of the final maps whose making fits in memory: all pixels if that can be.

    Never below the working box, which the search has had room for; below the full box it is even.
    """
    if bytes_needed(stack_box) <= available_bytes:
        return stack_box
    edge = math.floor((available_bytes / BYTES_PER_CELL) ** (1 / 3) / OVERSAMPLING)
    return min(stack_box, max(working_box, edge - edge % 2))


def bytes_needed(box: int) -> int:
    """Memory that final maps of a box take, by the cells of their padded grid."""
    return BYTES_PER_CELL * (OVERSAMPLING * box) ** 3


def _unfiltered(
    half: SufficientStatistics, geometry: GridGeometry, voxel_size: float
) -> DensityMap:
    prior = LIGHT_PRIOR * mean_weight_per_shell(half, geometry)
    values = solve_density(half, geometry, prior).cpu()
    return DensityMap(values=values, voxel_size_angstrom=voxel_size)


def _sphere(reading: StackReading, voxel_size: float) -> Float[Tensor, "box box box"]:
    diameter = reading.particle_diameter_angstrom
    return soft_sphere_mask(
        reading.box,
        voxel_size,
        diameter_angstrom=diameter or DEFAULT_SPHERE_FRACTION * reading.box * voxel_size,
        edge_angstrom=SPHERE_EDGE_VOXELS * voxel_size,
    )
