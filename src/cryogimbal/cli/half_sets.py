"""The halves of a stack and the mask that they are compared in, checked before any long work."""

from pathlib import Path

from cryogimbal.data.density import DensityMap
from cryogimbal.data.half_sets import HalfSets
from cryogimbal.data.particles import ParticleStack
from cryogimbal.errors import InputError
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.half_sets import LEAST_IMAGES, drawn_half_sets
from cryogimbal.io.mrc import read_density
from cryogimbal.io.star_half_sets import table_half_sets
from cryogimbal.io.star_table import StarTable

VOXEL_SIZE_TOLERANCE = 0.01
# Masks that were resampled go a little beyond 0 and 1.
MASK_TOLERANCE = 0.05


def half_sets_of(
    table: StarTable, config: ReconstructionConfig
) -> tuple[HalfSets, tuple[str, ...]]:
    """The halves of the table, or new ones; and what a person should know of them.

    Raises
    ------
    InputError
        If the table's halves are not 1 and 2, or a half has fewer than 100 images. Halves that are
        drawn for one search of all images may be smaller: the map is the same, and a warning says
        what its resolution is worth.
    """
    number = table_half_sets(table)
    if number is None:
        half_sets = drawn_half_sets(table.n_particles, config.seed, config.half_sets)
    else:
        half_sets = HalfSets(number=number, poses=config.half_sets)
    first, second = half_sets.sizes
    if min(first, second) >= LEAST_IMAGES:
        return half_sets, _common_start(config)
    found = f"found {first} and {second}"
    if number is not None:
        raise InputError(
            f"{table.path}: expected half-sets of at least {LEAST_IMAGES} images, {found} in its "
            "column of half-sets; add particles, or remove the column and let the halves be drawn"
        )
    if config.half_sets == "independent":
        raise InputError(
            f"{table.path}: --half-sets independent: expected half-sets of at least {LEAST_IMAGES} "
            f"images, {found}; add particles, or use --half-sets shared"
        )
    told = (
        f"half-sets of {first} and {second} images are too small for a resolution to mean much "
        f"(at least {LEAST_IMAGES} each)"
    )
    return half_sets, (told,)


def _common_start(config: ReconstructionConfig) -> tuple[str, ...]:
    """What two halves have in common although they are to share nothing."""
    if config.half_sets == "shared":
        return ()
    given = {"--initial-map": config.initial_map, "--initial-poses": config.initial_poses}
    return tuple(
        f"both halves begin with {option}: they are independent only of what it does not show"
        for option, path in given.items()
        if path is not None
    )


def given_mask(path: Path | None, stack: ParticleStack) -> DensityMap | None:
    """The mask of ``--mask``, if there is one.

    Raises
    ------
    InputError
        If it has another box or voxel size than the images, or values that are no mask's.
    """
    if path is None:
        return None
    mask = read_density(path)
    if mask.box != stack.box:
        raise InputError(
            f"{path}: --mask expects the box of the images, {stack.box} voxels a side, found "
            f"{mask.box}; crop, pad or resample the mask"
        )
    if abs(mask.voxel_size_angstrom / stack.pixel_size_angstrom - 1) > VOXEL_SIZE_TOLERANCE:
        raise InputError(
            f"{path}: --mask expects voxels of {stack.pixel_size_angstrom:.5g} Å as the images' "
            f"pixels, found {mask.voxel_size_angstrom:.5g} Å; resample it or correct its header"
        )
    lowest, highest = float(mask.values.min()), float(mask.values.max())
    if lowest < -MASK_TOLERANCE or highest > 1 + MASK_TOLERANCE or highest <= 0.5:
        raise InputError(
            f"{path}: --mask expects values from 0 (outside) to 1 (inside), found {lowest:.3g} to "
            f"{highest:.3g}; is this a map and not a mask?"
        )
    return DensityMap(values=mask.values.clamp(0, 1), voxel_size_angstrom=stack.pixel_size_angstrom)
