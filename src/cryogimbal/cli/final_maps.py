"""The last maps of a run: made from the images as they are stored, and written."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.cli.prepare import PreparedInput
from cryogimbal.data.density import DensityMap
from cryogimbal.data.particles import ImageSource, ParticleStack
from cryogimbal.data.poses import PoseSet
from cryogimbal.evaluation.half_alignment import HalfAlignment
from cryogimbal.fourier.resample import resample_density
from cryogimbal.imaging.noise import NoiseModel
from cryogimbal.imaging.stack_sums import StackReading
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.final_maps import (
    FinalMaps,
    FinalMapsSettings,
    bytes_needed,
    largest_box,
    reconstruct_final_maps,
)
from cryogimbal.io.class_files import ClassFiles
from cryogimbal.io.memory import available_bytes
from cryogimbal.io.mrc import write_density
from cryogimbal.io.resolution_files import write_fsc_star, write_fsc_xml
from cryogimbal.symmetry import SymmetryGroup

# Other programs want some memory too.
SHARE_OF_MEMORY = 0.75
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class WatchedImages:
    """Images of another source; something is looked after each time that some are read."""

    source: ImageSource
    watch: Callable[[], None]

    @property
    def n_images(self) -> int:
        """Number of images."""
        return self.source.n_images

    @property
    def box(self) -> int:
        """Pixels a side."""
        return self.source.box

    def read(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch box box"]:
        """The chosen images."""
        self.watch()
        return self.source.read(index)


def box_of_final_maps(prepared: PreparedInput, config: ReconstructionConfig) -> tuple[int, str]:
    """Box of the final maps, and what there is to tell of it (nothing if it is as asked for)."""
    if config.final.box is not None:
        return config.final.box, ""
    full, working = prepared.stack.box, prepared.spectra.disc.box
    room = int(SHARE_OF_MEMORY * available_bytes(prepared.spectra.device))
    box = largest_box(full, working, room)
    if box == full:
        return full, ""
    return box, (
        f"final maps of {full}³ voxels would take {bytes_needed(full) / GIB:.1f} GiB of memory and "
        f"there are {room / GIB:.1f}: they are made with {box}³ voxels of the same width "
        "(--final.box sets another)"
    )


def make_final_maps(
    prepared: PreparedInput,
    found: tuple[PoseSet, NoiseModel, SymmetryGroup],
    box: int,
    config: ReconstructionConfig,
    watch: Callable[[], None],
) -> FinalMaps:
    """Half-maps, joint map and their correlation, of the poses, noise and symmetry that have been found.

    ``watch`` is called whenever images are read.
    """
    poses, noise, group = found
    mask = prepared.mask
    if mask is not None and mask.box != box:
        width = mask.box * mask.voxel_size_angstrom
        values = resample_density(mask.values, box).clamp(0, 1)
        mask = DensityMap(values=values, voxel_size_angstrom=width / box)
    settings = FinalMapsSettings(
        reading=StackReading(
            box=box,
            particle_diameter_angstrom=config.particle_diameter,
            contrast_sign=prepared.contrast.sign,
            noise=noise,
            device=prepared.spectra.device,
        ),
        mask=mask,
        config=config.final,
        group=group,
    )
    stack: ParticleStack = replace(
        prepared.stack, images=WatchedImages(source=prepared.stack.images, watch=watch)
    )
    with torch.no_grad():
        return reconstruct_final_maps(stack, poses, prepared.half_sets, settings)


def write_final_maps(files: ClassFiles, maps: FinalMaps) -> None:
    """Write joint map, half-maps, mask and how the halves agree."""
    write_density(files.density, maps.density)
    write_density(files.half_map(1), maps.half_maps.first)
    write_density(files.half_map(2), maps.half_maps.second)
    write_density(files.mask, maps.mask)
    write_fsc_star(files.fsc_star, maps.fsc, (files.half_map(1), files.half_map(2)), files.mask)
    write_fsc_xml(files.fsc_xml, maps.fsc.corrected)


def summary_of_maps(maps: FinalMaps, sizes: tuple[int, int]) -> dict[str, Any]:
    """What the summary says of them."""
    corrected = maps.fsc.corrected
    return {
        "map_box": maps.density.box,
        "map_voxel_size_angstrom": maps.density.voxel_size_angstrom,
        "half_map_poses": maps.fsc.poses,
        "half_set_sizes": list(sizes),
        "half_map_resolution_fsc0143_angstrom": corrected.resolution_angstrom(0.143),
        "half_map_resolution_fsc05_angstrom": corrected.resolution_angstrom(0.5),
        "half_map_fsc0143_crossed": corrected.crosses(0.143),
        "half_map_fsc": maps.fsc.to_dict(),
    }


def told_of_maps(maps: FinalMaps) -> str:
    """One sentence on how far the maps hold."""
    corrected, poses = maps.fsc.corrected, maps.fsc.poses
    better = "" if corrected.crosses(0.143) else " or better, which their sampling cannot show"
    told = (
        f"half-maps with {poses} poses agree to {corrected.resolution_angstrom(0.143):.1f} Å"
        f"{better} (corrected FSC 0.143; 0.5 at {corrected.resolution_angstrom(0.5):.1f} Å)"
    )
    if poses == "shared":
        told += "; they share their poses, so this is optimistic"
    return told


def told_of_halves(halves: HalfAlignment) -> str:
    """How half 2 was brought to half 1, and whether that is to be believed."""
    found = halves.alignment
    trace = float(found.rotation.trace())
    turned = math.degrees(math.acos(min(1.0, max(-1.0, (trace - 1) / 2))))
    hand = "its hand mirrored" if found.mirrored else "its hand as it was"
    told = (
        f"half 2 is brought to half 1: turned by {turned:.1f}°, moved by "
        f"{float(found.shift_angstrom.norm()):.1f} Å, {hand}; by periods above "
        f"{halves.limit_angstrom:.1f} Å alone, where they correlate by {found.score:.2f} (FSC 0.5 of "
        f"the maps with independent poses at {halves.fsc.resolution_angstrom(0.5):.1f} Å)"
    )
    if not halves.is_certain:
        told += (
            "\nwarning: the halves do not look alike, so that at least one of them has not found the "
            "structure: run again with another --seed, or with --half-sets shared"
        )
    return told
