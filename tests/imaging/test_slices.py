from types import ModuleType

import pytest
import torch
from torch import Tensor

from cryogimbal.fourier.disc import make_disc, mirror_row
from cryogimbal.imaging import slices
from cryogimbal.imaging.kernels import numba_kernels, torch_kernels
from cryogimbal.imaging.slices import PreparedGrid, add_backprojection, central_slices
from cryogimbal.rotations import euler_zyz_deg_to_rotation, orthonormalise, random_rotations
from tests.laws import assert_adjoint, assert_linear, relative_error
from tests.reference.direct_slice import backprojection_by_loop, slices_by_loop

GEOMETRIES = [(8, 1), (9, 1), (8, 2), (7, 3)]


@pytest.fixture(params=[torch_kernels, numba_kernels], ids=lambda module: module.NAME, autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Every law holds for every set of kernels that runs on a CPU."""
    monkeypatch.setattr(slices, "kernels_for", lambda _: request.param)
    return request.param


def side_of(box: int, oversampling: int) -> int:
    return 2 * -(-oversampling * box // 2) + 1


def random_grid(box: int, oversampling: int, generator: torch.Generator) -> Tensor:
    side = side_of(box, oversampling)
    return torch.randn(side, side, side, generator=generator, dtype=torch.float64)


def rotations(n: int, generator: torch.Generator) -> Tensor:
    return orthonormalise(random_rotations(n, generator).double())


def special_rotations() -> Tensor:
    """Poses whose slices run through grid points: the identity, quarter and half turns."""
    angles = [[0, 0, 0], [90, 0, 0], [0, 90, 0], [0, 180, 0], [90, 90, 90], [180, 90, 270]]
    return euler_zyz_deg_to_rotation(torch.tensor(angles, dtype=torch.float64))


@pytest.mark.parametrize(("box", "oversampling"), GEOMETRIES)
def test_slices_equal_a_loop(box: int, oversampling: int, generator: torch.Generator) -> None:
    grid, disc = random_grid(box, oversampling, generator), make_disc(box)
    pose = torch.cat([rotations(3, generator), special_rotations()])
    expected = slices_by_loop(grid, pose, disc.frequency_index, oversampling)
    found = central_slices(grid, pose, disc, oversampling)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    again = PreparedGrid.of(grid, oversampling).slices(pose, disc)
    assert torch.equal(again, found)
    single = central_slices(grid.float(), pose.float(), disc, oversampling)
    assert relative_error(single.double(), expected) < 1e-5


@pytest.mark.parametrize(("box", "oversampling"), GEOMETRIES)
def test_backprojection_equals_a_loop(
    box: int, oversampling: int, generator: torch.Generator
) -> None:
    disc, side = make_disc(box), side_of(box, oversampling)
    pose = torch.cat([rotations(3, generator), special_rotations()])
    rows = torch.randn(len(pose), disc.n_coefficients, generator=generator, dtype=torch.float64)
    before = random_grid(box, oversampling, generator)
    found = before.clone()
    add_backprojection((found,), (rows,), pose, disc, oversampling)
    expected = before + backprojection_by_loop(rows, pose, disc.frequency_index, side, oversampling)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_backprojection_is_the_adjoint_of_slicing(box: int, generator: torch.Generator) -> None:
    disc, pose, side = make_disc(box), rotations(20, generator), side_of(box, 2)
    rows = torch.randn(20, disc.n_coefficients, generator=generator, dtype=torch.float64)
    grid, other = (random_grid(box, 2, generator) for _ in range(2))

    def slicing(values: Tensor) -> Tensor:
        return central_slices(values, pose, disc, 2)

    def spreading(values: Tensor) -> Tensor:
        out = torch.zeros(side, side, side, dtype=torch.float64)
        add_backprojection((out,), (values,), pose, disc, 2)
        return out

    assert_linear(slicing, grid, other)
    assert_adjoint(slicing, spreading, grid, rows, tolerance=1e-12)


def test_the_gradient_in_the_grid_is_the_backprojection(
    box: int, generator: torch.Generator
) -> None:
    disc, pose, side = make_disc(box), rotations(5, generator), side_of(box, 2)
    rows = torch.randn(5, disc.n_coefficients, generator=generator, dtype=torch.float64)
    grid = random_grid(box, 2, generator).requires_grad_()
    (gradient,) = torch.autograd.grad((central_slices(grid, pose, disc, 2) * rows).sum(), grid)
    expected = torch.zeros(side, side, side, dtype=torch.float64)
    add_backprojection((expected,), (rows,), pose, disc, 2)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("box", "oversampling"), [(4, 1), (5, 1), (4, 2)])
def test_gradients_equal_differences(
    box: int, oversampling: int, generator: torch.Generator
) -> None:
    disc = make_disc(box)
    grid = random_grid(box, oversampling, generator).requires_grad_()
    pose = rotations(2, generator).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda g, r: central_slices(g, r, disc, oversampling), (grid, pose), eps=1e-6
    )


def test_gradients_in_the_pose_alone_and_through_a_frozen_grid(
    box: int, generator: torch.Generator
) -> None:
    disc = make_disc(box, 3.0)
    prepared = PreparedGrid.of(random_grid(box, 2, generator), 2)
    pose = rotations(3, generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: prepared.slices(r, disc), (pose,), eps=1e-7)


def test_chunks_and_threads_do_not_show(
    box: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    disc, grid = make_disc(box), random_grid(box, 2, generator).requires_grad_()
    pose = rotations(7, generator).requires_grad_()
    rows = torch.randn(7, disc.n_coefficients, generator=generator, dtype=torch.float64)

    def everything() -> tuple[Tensor, ...]:
        out = central_slices(grid, pose, disc, 2)
        return (out, *torch.autograd.grad((out * rows).sum(), (grid, pose)))

    at_once = everything()
    monkeypatch.setattr(torch_kernels, "CHUNK_POINTS_CPU", disc.n_coefficients)
    monkeypatch.setattr(numba_kernels, "FEWEST_PER_THREAD", 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for one, other in zip(at_once, everything(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_rotations_may_have_any_leading_axes(box: int, generator: torch.Generator) -> None:
    disc, grid = make_disc(box), random_grid(box, 1, generator)
    pose = rotations(6, generator)
    flat = central_slices(grid, pose, disc, 1)
    assert torch.equal(central_slices(grid, pose.view(2, 3, 3, 3), disc, 1), flat.view(2, 3, -1))
    assert torch.equal(central_slices(grid, pose[0], disc, 1), flat[0])
    assert central_slices(grid, pose[:0], disc, 1).shape == (0, disc.n_coefficients)


def test_a_disc_may_hold_the_zero_frequency_alone(box: int, generator: torch.Generator) -> None:
    disc, grid = make_disc(box, 0.5), random_grid(box, 1, generator).requires_grad_()
    pose = rotations(3, generator).requires_grad_()
    found = central_slices(grid, pose, disc, 1)
    middle = grid.shape[-1] // 2
    assert torch.equal(found, grid[middle, middle, middle].expand(3, 1))
    gradient_in_grid, gradient_in_pose = torch.autograd.grad(found.sum(), (grid, pose))
    assert float(gradient_in_grid.sum()) == 3
    assert not gradient_in_pose.any()


def test_the_identity_cuts_the_plane_z_0(box: int, generator: torch.Generator) -> None:
    disc, grid = make_disc(box), random_grid(box, 1, generator)
    middle = grid.shape[-1] // 2
    kx, ky = (disc.frequency_index.long() + middle).unbind(-1)
    found = central_slices(grid, torch.eye(3, dtype=torch.float64), disc, 1)
    assert torch.equal(found, grid[middle, ky, kx])


def test_a_lower_band_limit_is_a_prefix(box: int, generator: torch.Generator) -> None:
    disc, grid = make_disc(box), random_grid(box, 2, generator)
    pose, small = rotations(3, generator), disc.truncate(3.0)
    full = central_slices(grid, pose, disc, 2)
    torch.testing.assert_close(
        central_slices(grid, pose, small, 2), full[:, : small.n_coefficients]
    )


def test_half_turns_about_the_image_axes(box: int, generator: torch.Generator) -> None:
    # In-plane by 180 degrees: H(-k). The view from behind shows the image mirrored in x.
    disc, grid, pose = make_disc(box), random_grid(box, 2, generator), rotations(4, generator)
    full = central_slices(grid, pose, disc, 2)
    in_plane = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(central_slices(grid, in_plane @ pose, disc, 2), mirror_row(full))
    behind = torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))
    seen = disc.scatter(central_slices(grid, behind @ pose, disc, 2))
    expected = torch.flip(disc.scatter(full), (-1,))
    if box % 2 == 0:
        expected = torch.roll(expected, 1, -1)
    torch.testing.assert_close(seen, expected)


@pytest.mark.parametrize(("side", "radius"), [(8, 3.0), (7, 4.0)])
def test_grids_that_cannot_hold_the_slice_are_refused(side: int, radius: float) -> None:
    disc = make_disc(16, radius)
    with pytest.raises(ValueError, match=f"side {side} cannot hold slices of radius {radius}"):
        central_slices(torch.zeros(side, side, side), torch.eye(3), disc, 1)


def test_the_rim_of_the_grid_can_be_reached(generator: torch.Generator) -> None:
    # Rounding may put a point of the outermost ring just outside; nothing may be read from there.
    disc, grid = make_disc(32, 13.0), torch.zeros(27, 27, 27)
    grid[13, 13, 26] = 1
    pose = random_rotations(500, generator)
    on_axis = euler_zyz_deg_to_rotation(torch.tensor([[0.0, 0.0, p] for p in range(0, 360, 5)]))
    found = central_slices(grid, torch.cat([pose, on_axis]), disc, 1)
    assert bool(found.isfinite().all())
    assert float(found.max()) == pytest.approx(1, abs=1e-5)
    assert float(found.min()) > -1e-5
