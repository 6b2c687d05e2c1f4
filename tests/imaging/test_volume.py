import math

import pytest
import torch
from torch import Tensor

from cryogimbal.fourier.disc import make_disc
from cryogimbal.fourier.shells import shell_index
from cryogimbal.fourier.transforms import density_to_hartley, image_to_hartley
from cryogimbal.imaging.slices import PreparedGrid, central_slices
from cryogimbal.imaging.volume import (
    Decoder,
    GridGeometry,
    HartleyVolume,
    Interpolation,
    interpolate_factors,
    interpolate_product,
)
from cryogimbal.rotations import random_rotations
from tests.imaging.gaussian_phantom import random_phantom
from tests.laws import assert_linear, relative_error

OVERSAMPLINGS = [1, 2]
INTERPOLATIONS = [interpolate_product, interpolate_factors]


def full_geometry(box: int, oversampling: int) -> GridGeometry:
    return GridGeometry(box=box, radius=box / 2, oversampling=oversampling)


def random_volume(kind: Interpolation, geometry: GridGeometry) -> HartleyVolume:
    volume = HartleyVolume(geometry, kind)
    spread = 1.0 if kind is interpolate_factors else 0.0
    volume.randomise(torch.Generator().manual_seed(1), amplitude=0.3, exponent_sd=spread)
    return volume


# --- geometry ---


@pytest.mark.parametrize("oversampling", [1, 2, 3])
@pytest.mark.parametrize("radius_in_boxes", [0.2, 0.4, 0.5, 2.0])
def test_the_grid_just_holds_its_radius(
    oversampling: int, radius_in_boxes: float, box: int
) -> None:
    geometry = GridGeometry(box=box, radius=radius_in_boxes * box, oversampling=oversampling)
    reach = min(radius_in_boxes * box, box / 2) * oversampling
    assert geometry.side % 2 == 1
    assert reach <= geometry.side // 2 < reach + 1


@pytest.mark.parametrize("oversampling", OVERSAMPLINGS)
def test_kernel_is_the_transform_of_the_trilinear_hat(oversampling: int, box: int) -> None:
    # The hat's transform by numerical integration of (1 - |u|) cos(2 pi u x / padded).
    kernel = full_geometry(box, oversampling).kernel()
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    for place in [(0, 0, 0), (1, 2, 3), (box // 2,) * 3, (box - 1, 0, 5)]:
        expected = 1.0
        for index in place:
            x = (index - box // 2) / (oversampling * box)
            expected *= float((2 * (1 - u) * torch.cos(2 * math.pi * u * x)).mean())
        assert float(kernel[place]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("oversampling", [1, 2, 3])
def test_grid_and_density_are_inverse(
    oversampling: int, box: int, generator: torch.Generator
) -> None:
    geometry = full_geometry(box, oversampling)
    density = torch.randn(box, box, box, generator=generator)
    grid = geometry.grid_of_density(density)
    assert grid.shape == (geometry.side,) * 3
    back = geometry.density_of_grid(grid)
    assert relative_error(back, density) < 1e-5
    assert relative_error(geometry.grid_of_density(back), grid) < 1e-5


def test_the_way_in_and_out_is_linear(box: int, generator: torch.Generator) -> None:
    geometry = full_geometry(box, 2)
    a, b = torch.randn(2, box, box, box, generator=generator)
    assert_linear(geometry.grid_of_density, a, b, tolerance=1e-5)
    g, h = torch.randn(2, *(geometry.side,) * 3, generator=generator)
    assert_linear(geometry.density_of_grid, g, h, tolerance=1e-5)


def test_a_lower_radius_is_a_crop_of_the_grid(box: int, generator: torch.Generator) -> None:
    density = torch.randn(box, box, box, generator=generator)
    geometry = GridGeometry(box=box, radius=4.2, oversampling=2)
    full = full_geometry(box, 2).grid_of_density(density)
    margin = (full.shape[-1] - geometry.side) // 2
    inner = full[margin:-margin, margin:-margin, margin:-margin]
    torch.testing.assert_close(geometry.grid_of_density(density), inner)


def test_without_padding_the_grid_is_the_spectrum(box: int, generator: torch.Generator) -> None:
    density = torch.randn(box, box, box, generator=generator)
    geometry = full_geometry(box, 1)
    grid = geometry.grid_of_density(density * geometry.kernel())
    # An orthonormal volume has box^-1.5, an image box^-1.
    spectrum = math.sqrt(box) * density_to_hartley(density)
    start = geometry.side // 2 - box // 2
    inner = slice(start, start + box)
    torch.testing.assert_close(grid[inner, inner, inner], spectrum, atol=1e-4, rtol=1e-4)


# --- the slice theorem ---


@pytest.mark.parametrize("side", [32, 33, 48, 49])
@pytest.mark.parametrize(("oversampling", "tolerance"), [(1, 0.06), (2, 0.015)])
def test_a_slice_is_the_spectrum_of_the_projection(
    side: int, oversampling: int, tolerance: float, generator: torch.Generator
) -> None:
    # A particle within half of the half-box: centres plus two standard deviations.
    phantom = random_phantom(generator, n=60, reach=side / 4 - 2, sigma=1.0)
    rotation = random_rotations(20, generator)
    geometry = full_geometry(side, oversampling)
    disc = make_disc(side).truncate(0.8 * side / 2)
    found = central_slices(
        geometry.grid_of_density(phantom.density(side).float()), rotation, disc, oversampling
    )
    projections = torch.stack([phantom.turned(r).projection(side) for r in rotation])
    expected = disc.gather(image_to_hartley(projections))
    assert relative_error(found.double(), expected) < tolerance
    for one, other in zip(found.double(), expected, strict=True):
        assert relative_error(one, other) < 1.5 * tolerance


@pytest.mark.parametrize(("oversampling", "tolerance"), [(1, 0.12), (2, 0.03)])
def test_the_slice_theorem_holds_where_the_signal_is_weak(
    oversampling: int, tolerance: float, box: int, generator: torch.Generator
) -> None:
    # Weights of both signs take the strong low frequencies away.
    side = 2 * box
    phantom = random_phantom(generator, n=60, reach=side / 4 - 2, sigma=1.0)
    phantom.weight[30:] *= -phantom.weight[:30].sum() / phantom.weight[30:].sum()
    rotation = random_rotations(20, generator)
    grid = full_geometry(side, oversampling).grid_of_density(phantom.density(side).float())
    disc = make_disc(side).truncate(0.8 * side / 2)
    found = central_slices(grid, rotation, disc, oversampling)
    expected = torch.stack(
        [phantom.turned(r).hartley_slice(disc.frequency_index, side) for r in rotation]
    )
    assert relative_error(found.double(), expected) < tolerance


def test_turning_the_pose_equals_turning_the_density(box: int, generator: torch.Generator) -> None:
    side = 2 * box
    geometry, disc = full_geometry(side, 2), make_disc(side).truncate(0.8 * box)
    phantom = random_phantom(generator, reach=side / 4 - 2)
    turn, *poses = random_rotations(11, generator)
    pose = torch.stack(poses)
    # The particle turned by Q is seen at A as the particle itself at A Q.
    turned = geometry.grid_of_density(phantom.turned(turn).density(side).float())
    itself = geometry.grid_of_density(phantom.density(side).float())
    one = central_slices(turned, pose, disc, 2)
    other = central_slices(itself, pose @ turn, disc, 2)
    assert relative_error(one, other) < 0.015
    assert relative_error(one, central_slices(itself, turn @ pose, disc, 2)) > 0.3


def test_a_slice_through_grid_points_is_the_projection_along_z(
    box: int, generator: torch.Generator
) -> None:
    # Any density, not only a compact one: at the identity and without padding nothing is
    # interpolated, but the kernel is still divided out of the density on its way in.
    geometry, disc = full_geometry(box, 1), make_disc(box)
    density = torch.randn(box, box, box, generator=generator)
    grid = geometry.grid_of_density(density)
    expected = disc.gather(image_to_hartley((density / geometry.kernel()).sum(0)))
    found = central_slices(grid, torch.eye(3), disc, 1)
    assert relative_error(found, expected) < 1e-5


# --- volumes ---


@pytest.mark.parametrize("kind", INTERPOLATIONS)
def test_a_spectrum_that_is_set_is_kept(
    kind: Interpolation, box: int, generator: torch.Generator
) -> None:
    geometry = full_geometry(box, 2)
    phantom = random_phantom(generator, reach=box / 5, sigma=1.0)
    grid = geometry.grid_of_density(phantom.density(box).float())
    volume = HartleyVolume(geometry, kind)
    volume.set_spectrum(grid)
    torch.testing.assert_close(volume.spectrum(), grid)
    assert relative_error(volume.density().detach(), phantom.density(box).float()) < 1e-5
    # exponent = log of the shell's rms, so the mantissa has an rms of 1 in each shell.
    shell = shell_index(geometry.side, 3)
    for radius in (0, 1, 5, geometry.side // 2):
        inside = shell == radius
        mantissa, exponent = volume.mantissa.detach()[inside], volume.exponent.detach()[inside]
        assert float(mantissa.square().mean()) == pytest.approx(1, rel=1e-3)
        rms = float(grid[inside].square().mean().sqrt())
        assert float(exponent.max()) == pytest.approx(math.log(rms), abs=1e-3)
        assert float(exponent.min()) == pytest.approx(math.log(rms), abs=1e-3)


def test_empty_shells_and_an_empty_spectrum_stay_finite() -> None:
    volume = HartleyVolume(full_geometry(8, 1))
    grid = torch.zeros(volume.geometry.side, volume.geometry.side, volume.geometry.side)
    for value in (0.0, 5.0):
        grid[4, 4, 4] = value
        volume.set_spectrum(grid)
        assert bool(volume.exponent.isfinite().all())
        torch.testing.assert_close(volume.spectrum(), grid)


@pytest.mark.parametrize("kind", INTERPOLATIONS)
def test_a_random_start_follows_its_generator_and_amplitude(kind: Interpolation) -> None:
    geometry = full_geometry(16, 2)
    volume, again = random_volume(kind, geometry), random_volume(kind, geometry)
    assert torch.equal(volume.spectrum(), again.spectrum())
    assert float(volume.mantissa.detach().mean()) == pytest.approx(0, abs=0.03)
    assert float(volume.mantissa.detach().std()) == pytest.approx(1, abs=0.03)
    assert float(volume.exponent.detach().mean()) == pytest.approx(math.log(0.3), abs=0.03)
    spread = 1 if kind is interpolate_factors else 0
    assert float(volume.exponent.detach().std()) == pytest.approx(spread, abs=0.03)


@pytest.mark.parametrize("kind", INTERPOLATIONS)
def test_a_frozen_volume_shows_the_same_and_does_not_follow(
    kind: Interpolation, box: int, generator: torch.Generator
) -> None:
    volume = random_volume(kind, full_geometry(box, 2))
    disc, pose = make_disc(box), random_rotations(4, generator).requires_grad_()
    frozen = volume.frozen()
    assert isinstance(frozen, Decoder) and isinstance(volume, Decoder)
    before = volume.slices(pose, disc).detach()
    torch.testing.assert_close(frozen.slices(pose, disc), before)
    with torch.no_grad():
        volume.mantissa.mul_(2)
    torch.testing.assert_close(frozen.slices(pose, disc), before)
    assert relative_error(volume.slices(pose, disc).detach(), 2 * before) < 1e-6
    # Poses can be learned against a frozen volume, the volume cannot.
    (gradient,) = torch.autograd.grad(frozen.slices(pose, disc).square().sum(), pose)
    assert float(gradient.norm()) > 0


@pytest.mark.parametrize("kind", INTERPOLATIONS)
def test_gradients_of_both_factors_equal_differences(
    kind: Interpolation, generator: torch.Generator
) -> None:
    volume = random_volume(kind, full_geometry(4, 1)).double()
    disc, pose = make_disc(4), random_rotations(2, generator).double()
    for factor in (volume.mantissa, volume.exponent):
        loss = volume.slices(pose, disc).square().sum()
        (gradient,) = torch.autograd.grad(loss, factor)
        direction = torch.randn(factor.shape, generator=generator, dtype=torch.float64)
        start, values = factor.detach().clone(), []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                factor.copy_(start + step * direction)
                values.append(volume.slices(pose, disc).square().sum().item())
        expected = (values[0] - values[1]) / 2e-5
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-6)
        with torch.no_grad():
            factor.copy_(start)


def smooth_field(side: int, phase: float) -> Tensor:
    axis = torch.arange(side) / side
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.sin(3 * x + phase) + torch.cos(2 * y - z + phase)


def test_product_and_factors_agree_for_a_smooth_field(box: int, generator: torch.Generator) -> None:
    geometry, disc = full_geometry(box, 2), make_disc(box)
    pose = random_rotations(8, generator)
    views = []
    for kind in INTERPOLATIONS:
        volume = HartleyVolume(geometry, kind)
        with torch.no_grad():
            volume.mantissa.copy_(smooth_field(geometry.side, 0.3))
            volume.exponent.copy_(smooth_field(geometry.side, 1.1))
        views.append(volume.slices(pose, disc).detach())
    assert 0 < relative_error(views[0], views[1]) < 2e-3


def test_product_and_factors_agree_at_grid_points_and_for_a_flat_exponent(
    box: int, generator: torch.Generator
) -> None:
    geometry, disc = full_geometry(box, 1), make_disc(box)
    product, factors = (HartleyVolume(geometry, kind) for kind in INTERPOLATIONS)
    rough = random_volume(interpolate_factors, geometry)
    for volume in (product, factors):
        volume.load_state_dict(rough.state_dict())
    eye = torch.eye(3)[None]
    torch.testing.assert_close(product.slices(eye, disc), factors.slices(eye, disc))
    pose = random_rotations(4, generator)
    with torch.no_grad():
        apart = relative_error(product.slices(pose, disc), factors.slices(pose, disc))
    assert apart > 0.1
    for volume in (product, factors):
        torch.nn.init.constant_(volume.exponent, -0.7)
    torch.testing.assert_close(product.slices(pose, disc), factors.slices(pose, disc))


def test_a_fixed_spectrum_slices_its_grid(box: int, generator: torch.Generator) -> None:
    geometry, disc = full_geometry(box, 2), make_disc(box)
    grid = torch.randn((geometry.side,) * 3, generator=generator)
    pose = random_rotations(4, generator)
    found = PreparedGrid.of(grid, geometry.oversampling).slices(pose, disc)
    assert torch.equal(found, central_slices(grid, pose, disc, 2))
