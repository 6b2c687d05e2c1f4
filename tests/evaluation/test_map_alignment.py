import math

import pytest
import torch

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.evaluation.alignment import Alignment, apply_alignment
from cryogimbal.evaluation.fsc import fourier_shell_correlation
from cryogimbal.evaluation.map_alignment import align_maps
from cryogimbal.evaluation.map_comparison import (
    Frames,
    compare_maps,
    correlation,
    correlation_per_shell,
    limit_band,
)
from cryogimbal.fourier.shells import shell_index
from cryogimbal.fourier.transforms import density_to_hartley, hartley_to_density
from cryogimbal.rotations import geodesic_distance_rad, rotvec_to_rotation
from tests.evaluation.gaussians import (
    VOXEL_SIZE_ANGSTROM,
    gaussian_density,
    random_frame,
    random_positions,
)


def two_views_of_one_particle(
    box: int, generator: torch.Generator, *, sign: float
) -> tuple[DensityMap, DensityMap, Alignment]:
    """A map, the same in another frame by formula, and that frame."""
    position = random_positions(60, box, generator)
    rotation, hand, shift_px = random_frame(box, generator, sign=sign)
    moving = gaussian_density(position, box)
    fixed = gaussian_density(position @ (rotation @ hand).T + shift_px, box)
    frame = Alignment(
        rotation=rotation,
        shift_angstrom=shift_px * VOXEL_SIZE_ANGSTROM,
        mirrored=sign < 0,
        score=1.0,
    )
    return moving, fixed, frame


def assert_same_frame(
    found: Alignment, expected: Alignment, *, angle_deg: float, shift_px: float
) -> None:
    assert found.mirrored == expected.mirrored
    assert math.degrees(geodesic_distance_rad(found.rotation, expected.rotation)) < angle_deg
    apart = (found.shift_angstrom - expected.shift_angstrom).norm() / VOXEL_SIZE_ANGSTROM
    assert apart < shift_px


def with_noise(density: DensityMap, *, shell: int, generator: torch.Generator) -> DensityMap:
    """White noise of the power that the map has in a shell."""
    spectrum = density_to_hartley(density.values)
    chosen = shell_index(density.box, 3) == shell
    deviation = spectrum[chosen].square().mean().sqrt()
    noise = deviation * torch.randn(density.values.shape, generator=generator)
    return DensityMap(
        values=density.values + noise, voxel_size_angstrom=density.voxel_size_angstrom
    )


@pytest.mark.parametrize(
    ("box", "sign"),
    [(24, 1.0), (25, -1.0), (56, -1.0)],
    ids=["even", "odd_mirrored", "larger_than_the_search_mirrored"],
)
def test_a_map_in_another_frame_is_brought_back(box, sign, generator):
    moving, fixed, expected = two_views_of_one_particle(box, generator, sign=sign)
    found = align_maps(moving, fixed)
    assert_same_frame(found, expected, angle_deg=0.05, shift_px=0.01)
    aligned = apply_alignment(moving, found)
    curve = fourier_shell_correlation(aligned, fixed, poses="truth").correlation
    assert curve[: int(0.45 * box) + 1].min() > 0.99
    assert curve.min() > 0.9


def test_noise_beyond_a_third_of_nyquist_does_little_harm(generator):
    moving, fixed, expected = two_views_of_one_particle(32, generator, sign=-1.0)
    found = align_maps(with_noise(moving, shell=6, generator=generator), fixed)
    # Shell 6 resolves 32 / 6 voxels; a tenth of it, seen from a third of the box away, is 3 degrees.
    assert_same_frame(found, expected, angle_deg=3.0, shift_px=0.5)


def test_a_frame_from_poses_is_refined_and_its_hand_stands(generator):
    moving, fixed, expected = two_views_of_one_particle(32, generator, sign=-1.0)
    turn = rotvec_to_rotation(torch.tensor([0.08, -0.06, 0.05]).double())
    near = Alignment(
        rotation=turn @ expected.rotation,
        shift_angstrom=torch.zeros(3),
        mirrored=True,
        score=1.0,
    )
    found = align_maps(moving, fixed, initial=near)
    assert_same_frame(found, expected, angle_deg=0.05, shift_px=0.01)
    wrong_hand = Alignment(
        rotation=near.rotation, shift_angstrom=torch.zeros(3), mirrored=False, score=1.0
    )
    assert not align_maps(moving, fixed, initial=wrong_hand).mirrored


def test_frequencies_beyond_the_limit_are_not_looked_at(generator):
    box = 32
    moving, fixed, _ = two_views_of_one_particle(box, generator, sign=1.0)
    limit_angstrom = box * VOXEL_SIZE_ANGSTROM / 7
    beyond = shell_index(box, 3) > 8
    noise = torch.where(beyond, 5 * torch.randn(box, box, box, generator=generator), 0.0)
    disturbed = DensityMap(
        values=moving.values + hartley_to_density(noise),
        voxel_size_angstrom=moving.voxel_size_angstrom,
    )
    found = align_maps(disturbed, fixed, resolution_limit_angstrom=limit_angstrom)
    quiet = align_maps(moving, fixed, initial=found, resolution_limit_angstrom=limit_angstrom)
    # Not to the bit: splines reach over two samples, and float32 rounds.
    assert_same_frame(found, quiet, angle_deg=0.2, shift_px=0.02)
    assert found.score > 0.99


def test_the_same_call_gives_the_same_bits(generator):
    moving, fixed, frame = two_views_of_one_particle(16, generator, sign=1.0)
    first, second = (align_maps(moving, fixed, initial=frame) for _ in range(2))
    assert torch.equal(first.rotation, second.rotation)
    assert torch.equal(first.shift_angstrom, second.shift_angstrom)


def test_the_comparison_in_the_right_frame_is_the_shell_correlation(box, generator):
    a, b = torch.randn(2, box, box, box, generator=generator)
    maps = [DensityMap(values=v, voxel_size_angstrom=1.0) for v in (a, a + b)]
    comparison = limit_band(compare_maps(maps[0].values, maps[1].values), box // 4)
    same = Frames(rotation=torch.eye(3)[None], shift=torch.zeros(1, 3), hand=torch.ones(1))
    found = correlation_per_shell(comparison, same)
    expected = fourier_shell_correlation(*maps, poses="truth").correlation.float()
    torch.testing.assert_close(found[1:], expected[1 : box // 4 + 1], atol=0.01, rtol=0)
    # Whitened, every coefficient weighs the same.
    n = torch.bincount(comparison.shell).float()
    mean = (n * found)[1:].sum() / n[1:].sum()
    torch.testing.assert_close(correlation(comparison, same)[0], mean, atol=0.01, rtol=0)


def test_maps_that_cannot_be_compared_are_refused():
    small = DensityMap(values=torch.ones(8, 8, 8), voxel_size_angstrom=2.0)
    large = DensityMap(values=torch.ones(10, 10, 10), voxel_size_angstrom=2.0)
    with pytest.raises(InputError, match=r"box 8 at 2 .* box 10 at 2 "):
        align_maps(small, large)
    with pytest.raises(InputError, match=r"8 voxels, 16 Å wide, have 1 shells .* at least 2"):
        align_maps(small, small, resolution_limit_angstrom=12.0)


def test_empty_maps_give_a_finite_frame():
    empty = DensityMap(values=torch.zeros(16, 16, 16), voxel_size_angstrom=2.0)
    found = align_maps(empty, empty)
    assert found.rotation.isfinite().all()
    assert found.shift_angstrom.isfinite().all()
    assert found.score == 0.0
