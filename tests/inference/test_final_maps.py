from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.data.half_sets import HalfSets
from cryogimbal.data.optics import OpticsGroup
from cryogimbal.data.particles import ArrayImages, ParticleStack
from cryogimbal.data.poses import PoseSet
from cryogimbal.errors import InputError
from cryogimbal.evaluation.fsc import fourier_shell_correlation
from cryogimbal.evaluation.masks import soft_sphere_mask
from cryogimbal.fourier.disc import make_disc
from cryogimbal.fourier.shells import radius_grid
from cryogimbal.fourier.transforms import hartley_to_image
from cryogimbal.imaging.backprojection import SufficientStatistics, solve_density
from cryogimbal.imaging.ctf import transfer_function
from cryogimbal.imaging.shifts import shift_row
from cryogimbal.imaging.slices import central_slices
from cryogimbal.imaging.stack_sums import StackReading
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.final_maps import (
    BYTES_PER_CELL,
    FinalMaps,
    FinalMapsSettings,
    bytes_needed,
    largest_box,
    reconstruct_final_maps,
    wiener_density,
)
from cryogimbal.rotations import random_rotations
from tests.small_particles import PIXEL_SIZE_ANGSTROM, blob_density, constant_ctf

N = 400


def noisy_stack(
    density: Tensor, generator: torch.Generator, *, signal_to_noise: float
) -> tuple[ParticleStack, PoseSet]:
    """Images with shifts, CTFs and white noise, and their true poses."""
    box = density.shape[-1]
    geometry = GridGeometry(box=box, radius=box / 2, oversampling=2)
    disc, ctf, rotation = make_disc(box), constant_ctf(N, generator), random_rotations(N, generator)
    shift_px = 4 * (torch.rand(N, 2, generator=generator) - 0.5)
    clean = central_slices(geometry.grid_of_density(density), rotation, disc, 2)
    clean = clean * transfer_function(ctf, disc.frequency_index / (box * PIXEL_SIZE_ANGSTROM))
    images = hartley_to_image(disc.scatter(shift_row(clean, shift_px / box, disc)))
    images = images * (signal_to_noise / images.square().mean()).sqrt()
    optics = OpticsGroup(
        name="one",
        voltage_kilovolt=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
        pixel_size_angstrom=PIXEL_SIZE_ANGSTROM,
        box=box,
    )
    stack = ParticleStack(
        images=ArrayImages(values=images + torch.randn(images.shape, generator=generator)),
        ctf=ctf,
        optics=(optics,),
        optics_index=torch.zeros(N, dtype=torch.long),
    )
    return stack, PoseSet(rotation=rotation, shift_angstrom=shift_px * PIXEL_SIZE_ANGSTROM)


def maps_of(
    stack: ParticleStack, poses: PoseSet, box: int, mask: DensityMap | None = None
) -> FinalMaps:
    half_sets = HalfSets(number=torch.arange(len(stack)) % 2 + 1, poses="shared")
    settings = FinalMapsSettings(reading=StackReading(box=box), mask=mask)
    return reconstruct_final_maps(stack, poses, half_sets, settings)


def correlation(found: DensityMap, truth: Tensor) -> Tensor:
    expected = DensityMap(values=truth, voxel_size_angstrom=found.voxel_size_angstrom)
    return fourier_shell_correlation(found, expected, poses="truth").correlation


@pytest.mark.parametrize("side", [24, 25])
def test_true_poses_and_shifts_give_the_particle(side: int, generator: torch.Generator) -> None:
    truth = blob_density(side, generator)
    stack, poses = noisy_stack(truth, generator, signal_to_noise=1.0)
    found = maps_of(stack, poses, side)
    assert found.half_maps.poses == found.fsc.poses == "shared"
    assert (found.density.box, found.density.voxel_size_angstrom) == (side, PIXEL_SIZE_ANGSTROM)
    strong = slice(0, 6)
    for half in (found.half_maps.first, found.half_maps.second):
        assert correlation(half, truth)[strong].min() > 0.95
    assert correlation(found.density, truth)[strong].min() > 0.97
    # Filtered, the joint map is nearer to the particle than a half-map, and not only in its shape.
    errors = [
        (m.values / m.values.norm() - truth / truth.norm()).norm()
        for m in (found.density, found.half_maps.first)
    ]
    assert errors[0] < errors[1]
    # The mask holds the particle and leaves much of the box.
    assert float((found.mask.values * truth).sum() / truth.sum()) > 0.98
    assert found.fsc.mask_fraction < 0.5
    # Shifts of the opposite sign give nothing of the kind.
    wrong = maps_of(stack, replace(poses, shift_angstrom=-poses.shift_angstrom), side)
    assert correlation(wrong.density, truth)[4:6].max() < 0.8


def test_noise_alone_has_no_resolution(generator: torch.Generator) -> None:
    side = 24
    stack, poses = noisy_stack(torch.zeros(side, side, side) + 1e-9, generator, signal_to_noise=0.0)
    found = maps_of(stack, poses, side)
    assert found.fsc.corrected.correlation[3:].mean().abs() < 0.15
    assert found.fsc.corrected.resolution_angstrom(0.5) > 6 * PIXEL_SIZE_ANGSTROM
    # Of the joint map hardly anything is left beside a half-map.
    assert found.density.values.norm() < 0.3 * found.half_maps.first.values.norm()


def test_a_given_mask_is_the_one_used(generator: torch.Generator) -> None:
    side = 24
    stack, poses = noisy_stack(blob_density(side, generator), generator, signal_to_noise=1.0)
    values = soft_sphere_mask(side, 1.0, diameter_angstrom=9.0, edge_angstrom=3.0)
    mask = DensityMap(values=values, voxel_size_angstrom=PIXEL_SIZE_ANGSTROM)
    found = maps_of(stack, poses, side, mask)
    assert found.mask is mask
    assert found.fsc.mask_fraction == float((values > 0.5).double().mean())
    with pytest.raises(InputError, match="24 voxels a side for half-maps of 20"):
        maps_of(stack, poses, 20, mask)


def test_smaller_maps_show_the_same_width(generator: torch.Generator) -> None:
    side, working = 24, 18
    truth = blob_density(side, generator)
    stack, poses = noisy_stack(truth, generator, signal_to_noise=1.0)
    found = maps_of(stack, poses, working)
    assert found.density.box == working
    width = working * found.density.voxel_size_angstrom
    assert width == pytest.approx(side * PIXEL_SIZE_ANGSTROM)


def test_the_filter_is_that_of_the_common_signal(generator: torch.Generator) -> None:
    # With one weight everywhere a shell is multiplied by 2 FSC / (1 + FSC).
    geometry = GridGeometry(box=16, radius=8.0, oversampling=1)
    data = torch.randn(17, 17, 17, generator=generator)
    even = SufficientStatistics(data=data, weight=torch.full((17, 17, 17), 2.0))
    shell = radius_grid(17, 3).round().long()

    def damped_by(factor: list[float]) -> Tensor:
        factors = torch.tensor([1.0, *factor])[shell.clamp(max=8)]
        return solve_density(replace(even, data=data * factors), geometry, torch.zeros(9))

    found = wiener_density(even, geometry, torch.tensor([0.3] + [0.2] * 8))
    torch.testing.assert_close(found, damped_by([1 / 3] * 8), atol=1e-3, rtol=0)
    # Correlation that comes back after a shell without any is chance: nothing is left there.
    gone = wiener_density(even, geometry, torch.tensor([1.0, 0.9, 0.6, -0.1] + [0.9] * 5))
    expected = damped_by([1.8 / 1.9, 1.2 / 1.6] + [0.0] * 6)
    torch.testing.assert_close(gone, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("full", [64, 65])
def test_all_pixels_are_used_where_memory_allows(full: int) -> None:
    assert bytes_needed(full) == BYTES_PER_CELL * (2 * full) ** 3
    assert largest_box(full, 32, bytes_needed(full)) == full
    smaller = largest_box(full, 32, bytes_needed(50) + 1)
    assert smaller == 50
    assert bytes_needed(largest_box(full, 16, bytes_needed(full) - 1)) < bytes_needed(full)
    # The search had room for its own box.
    assert largest_box(full, 32, 1000) == 32
