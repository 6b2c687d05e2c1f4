import math

import pytest
import torch
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.evaluation import half_alignment
from cryogimbal.evaluation.half_alignment import align_half_map
from cryogimbal.fourier.shells import shell_index
from cryogimbal.fourier.transforms import density_to_hartley, hartley_to_density
from cryogimbal.rotations import geodesic_distance_rad
from tests.evaluation.gaussians import (
    VOXEL_SIZE_ANGSTROM,
    gaussian_density,
    random_frame,
    random_positions,
)


def noisy(density: DensityMap, generator: torch.Generator, *, from_shell: int) -> DensityMap:
    """The map with nothing but strong noise of its own from a shell on."""
    spectrum = density_to_hartley(density.values)
    beyond = shell_index(density.box, 3) >= from_shell
    deviation = 3 * spectrum[~beyond].square().mean().sqrt()
    noise = deviation * torch.randn(spectrum.shape, generator=generator)
    values = hartley_to_density(torch.where(beyond, noise, spectrum + 0.02 * noise))
    return DensityMap(values=values, voxel_size_angstrom=density.voxel_size_angstrom)


@pytest.mark.parametrize(("box", "sign"), [(32, 1.0), (33, -1.0)], ids=["even", "odd_mirrored"])
def test_frame_and_hand_are_found_without_the_shells_that_disagree(
    box: int, sign: float, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = random_positions(60, box, generator)
    rotation, hand, shift_px = random_frame(box, generator, sign=sign)
    moving = gaussian_density(position, box)
    fixed = gaussian_density(position @ (rotation @ hand).T + shift_px, box)
    common = 11
    halves = [noisy(half, generator, from_shell=common) for half in (moving, fixed)]
    limits: list[float] = []
    align_maps = half_alignment.align_maps

    def watched(*maps: DensityMap, **options: object) -> object:
        limit = options["resolution_limit_angstrom"]
        assert isinstance(limit, float)
        limits.append(limit)
        return align_maps(*maps, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(half_alignment, "align_maps", watched)
    found = align_half_map(*halves)
    assert found.alignment.mirrored == (sign < 0)
    turned = geodesic_distance_rad(found.alignment.rotation, rotation)
    assert math.degrees(turned) < 0.7
    apart = (found.alignment.shift_angstrom / VOXEL_SIZE_ANGSTROM - shift_px).norm()
    assert apart < 0.2
    assert found.is_certain
    # Frequencies grew beyond the first ones, and no shell without common signal took part.
    width = box * VOXEL_SIZE_ANGSTROM
    assert len(limits) > 1
    assert 6 < width / found.limit_angstrom < common
    assert all(width / limit < common for limit in limits)
    assert found.fsc.poses == "independent"
    assert found.fsc.correlation[1:6].min() > 0.9


def test_maps_of_different_particles_are_not_called_alike(generator: torch.Generator) -> None:
    def particle() -> Tensor:
        return random_positions(40, 32, generator)

    found = align_half_map(gaussian_density(particle(), 32), gaussian_density(particle(), 32))
    assert not found.is_certain
    told = found.to_dict()
    assert told["is_certain"] is False
    assert told["resolution_fsc05_angstrom"] > 32 * VOXEL_SIZE_ANGSTROM / 5
