"""Triton's kernels do what the naive twins do: on a GPU where there is one, else interpreted."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cryogimbal.fourier.disc import make_disc
from cryogimbal.imaging import slices
from cryogimbal.imaging.kernels import choice, numba_kernels, torch_kernels
from cryogimbal.imaging.kernels.contract import Hypotheses, PoseSweep, SliceKernels
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.pose_fit import pose_fits, pose_sweep
from cryogimbal.imaging.slices import PreparedGrid, add_backprojection, central_slices
from cryogimbal.rotations import euler_zyz_deg_to_rotation, orthonormalise, random_rotations
from tests.imaging.pose_cases import (
    GEOMETRIES,
    a_batch,
    a_grid,
    assert_sweeps_agree,
    centred,
    expected_sweep,
    in_single_precision,
    prepared_with,
    some_hypotheses,
)
from tests.laws import relative_error
from tests.reference.direct_slice import backprojection_by_loop, slices_by_loop

pytest.importorskip("triton", reason="Triton is not installed (pip install 'cryogimbal[gpu]')")
from cryogimbal.imaging.kernels import triton_kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
COMPILE_WITHOUT_A_GPU = Path(__file__).with_name("compile_triton_kernels.py")


@pytest.fixture(autouse=True)
def _slices_by_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "kernels_for", lambda _: triton_kernels)


def poses(n: int, generator: torch.Generator) -> Tensor:
    """Random ones, and some whose slices run through grid points."""
    angles = [[0, 0, 0], [90, 0, 0], [0, 90, 0], [0, 180, 0], [90, 90, 90], [180, 90, 270]]
    special = euler_zyz_deg_to_rotation(torch.tensor(angles, dtype=torch.float64))
    return torch.cat([orthonormalise(random_rotations(n, generator).double()), special])


def on_device(
    grid: Tensor, oversampling: int, hypotheses: Hypotheses, batch: ParticleBatch
) -> tuple[PreparedGrid, Hypotheses, ParticleBatch]:
    shift = hypotheses.shift_box
    return (
        prepared_with(triton_kernels, grid.to(DEVICE), oversampling),
        Hypotheses(
            rotation=hypotheses.rotation.to(DEVICE),
            image=hypotheses.image.to(DEVICE),
            shift_box=None if shift is None else shift.to(DEVICE),
        ),
        ParticleBatch(
            disc=batch.disc.to(DEVICE),
            observed=batch.observed.to(DEVICE),
            ctf=batch.ctf.to(DEVICE),
            index=batch.index.to(DEVICE),
        ),
    )


def on_cpu(sweep: PoseSweep) -> PoseSweep:
    return PoseSweep(
        residual=sweep.residual.cpu(),
        power=sweep.power.cpu(),
        gradient=sweep.gradient.cpu(),
        curvature=sweep.curvature.cpu(),
    )


def test_it_is_a_set_of_kernels() -> None:
    assert isinstance(triton_kernels, SliceKernels)


@pytest.mark.parametrize(("box", "oversampling"), GEOMETRIES)
def test_slices_equal_a_loop(box: int, oversampling: int, generator: torch.Generator) -> None:
    grid, disc, pose = a_grid(box, oversampling, generator), make_disc(box), poses(3, generator)
    expected = slices_by_loop(grid, pose, disc.frequency_index, oversampling)
    found = central_slices(grid.to(DEVICE), pose.to(DEVICE), disc.to(DEVICE), oversampling)
    torch.testing.assert_close(found.cpu(), expected, atol=1e-12, rtol=0)
    single = central_slices(
        grid.float().to(DEVICE), pose.float().to(DEVICE), disc.to(DEVICE), oversampling
    )
    assert single.dtype == torch.float32
    assert relative_error(single.cpu().double(), expected) < 1e-5


@pytest.mark.parametrize(("box", "oversampling"), GEOMETRIES)
def test_backprojection_equals_a_loop(
    box: int, oversampling: int, generator: torch.Generator
) -> None:
    disc, pose = make_disc(box), poses(3, generator)
    rows = torch.randn(len(pose), disc.n_coefficients, generator=generator, dtype=torch.float64)
    before, other = (a_grid(box, oversampling, generator) for _ in range(2))
    grids = (before.clone().to(DEVICE), other.clone().to(DEVICE))
    both = (rows.to(DEVICE), (2 * rows).to(DEVICE))
    add_backprojection(grids, both, pose.to(DEVICE), disc.to(DEVICE), oversampling)
    added = backprojection_by_loop(rows, pose, disc.frequency_index, before.shape[-1], oversampling)
    torch.testing.assert_close(grids[0].cpu(), before + added, atol=1e-12, rtol=0)
    torch.testing.assert_close(grids[1].cpu(), other + 2 * added, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("box", "oversampling"), [(6, 1), (5, 2)])
def test_gradients_are_differences_and_the_backprojection(
    box: int, oversampling: int, generator: torch.Generator
) -> None:
    disc, grid = make_disc(box), a_grid(box, oversampling, generator)
    pose = orthonormalise(random_rotations(3, generator).double())
    rows = torch.randn(3, disc.n_coefficients, generator=generator, dtype=torch.float64)
    leaves = [one.clone().to(DEVICE).requires_grad_() for one in (grid, pose)]
    found = (central_slices(*leaves, disc.to(DEVICE), oversampling) * rows.to(DEVICE)).sum()
    in_grid, in_pose = (one.cpu() for one in torch.autograd.grad(found, leaves))
    spread = backprojection_by_loop(rows, pose, disc.frequency_index, grid.shape[-1], oversampling)
    torch.testing.assert_close(in_grid, spread, atol=1e-12, rtol=0)

    def sums(moved: Tensor) -> Tensor:
        taken = slices_by_loop(grid, moved, disc.frequency_index, oversampling)
        return (taken * rows).sum(1)

    expected = torch.zeros_like(pose)
    for axis in itertools.product(range(3), range(3)):
        step = torch.zeros(3, 3, dtype=torch.float64)
        step[axis] = 1e-6
        expected[:, axis[0], axis[1]] = (sums(pose + step) - sums(pose - step)) / 2e-6
    torch.testing.assert_close(in_pose, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("box", "oversampling"), GEOMETRIES)
@pytest.mark.parametrize("shifted", [False, True])
def test_sweep_equals_differences_of_a_loop(
    box: int, oversampling: int, shifted: bool, generator: torch.Generator
) -> None:
    grid, batch = a_grid(box, oversampling, generator), a_batch(box, 3, generator)
    hypotheses = some_hypotheses(5, 3, generator)
    hypotheses = hypotheses if shifted else centred(hypotheses)
    expected = expected_sweep(grid, oversampling, hypotheses, batch)
    found = pose_sweep(*on_device(grid, oversampling, hypotheses, batch))
    assert_sweeps_agree(on_cpu(found), expected, 1e-6)
    single, *others = in_single_precision(grid, hypotheses, batch)
    found = pose_sweep(*on_device(single, oversampling, *others))
    assert found.curvature.dtype == torch.float32
    assert_sweeps_agree(on_cpu(found), expected, 2e-5)


@pytest.mark.parametrize("shifted", [False, True])
def test_fits_are_the_sums_of_the_sweep(
    shifted: bool, box: int, generator: torch.Generator
) -> None:
    grid, batch = a_grid(box, 2, generator), a_batch(box, 4, generator)
    hypotheses = some_hypotheses(9, 4, generator)
    case = on_device(grid, 2, hypotheses if shifted else centred(hypotheses), batch)
    sweep, (residual, power) = pose_sweep(*case), pose_fits(*case)
    torch.testing.assert_close(residual, sweep.residual, atol=0, rtol=1e-12)
    torch.testing.assert_close(power, sweep.power, atol=0, rtol=1e-12)


@pytest.mark.parametrize(("block", "fewest_programs"), [(16, 1), (32, 40), (64, 1000)])
def test_blocks_parts_and_wide_indices_do_not_show(
    block: int,
    fewest_programs: int,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid, batch = a_grid(17, 2, generator), a_batch(17, 4, generator)
    hypotheses, disc = some_hypotheses(7, 4, generator), batch.disc.to(DEVICE)
    case = on_device(grid, 2, hypotheses, batch)
    rows = torch.randn(7, disc.n_coefficients, generator=generator, dtype=torch.float64).to(DEVICE)
    pose, grid = (
        one.detach().clone().requires_grad_() for one in (case[1].rotation, case[0].values)
    )

    def gradients() -> tuple[Tensor, ...]:
        out = central_slices(grid, pose, disc, 2)
        return (out, *torch.autograd.grad((out * rows).sum(), (grid, pose)))

    sweep, before = on_cpu(pose_sweep(*case)), gradients()
    monkeypatch.setattr(triton_kernels, "BLOCK", block)
    monkeypatch.setattr(triton_kernels, "FEWEST_PROGRAMS", fewest_programs)
    monkeypatch.setattr(triton_kernels, "LARGEST_32_BIT_GRID", 0)
    assert_sweeps_agree(on_cpu(pose_sweep(*case)), sweep, 1e-13)
    for one, other in zip(gradients(), before, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_rows_may_be_prefixes_of_longer_ones(generator: torch.Generator) -> None:
    grid, batch = a_grid(8, 2, generator), a_batch(8, 3, generator)
    prepared, hypotheses, batch = on_device(grid, 2, some_hypotheses(5, 3, generator), batch)
    short = batch.truncate(2.5)
    assert not short.ctf.is_contiguous()
    alone = ParticleBatch(
        disc=short.disc,
        observed=short.observed.contiguous(),
        ctf=short.ctf.contiguous(),
        index=short.index,
    )
    expected = pose_sweep(prepared, hypotheses, alone)
    assert_sweeps_agree(pose_sweep(prepared, hypotheses, short), expected, 1e-14)


@pytest.mark.parametrize(("n", "radius"), [(0, 3.0), (3, 0.5), (0, 0.5)])
def test_no_poses_and_no_points_are_fine(n: int, radius: float, generator: torch.Generator) -> None:
    grid, batch = a_grid(8, 1, generator), a_batch(8, 3, generator).truncate(radius)
    case = on_device(grid, 1, some_hypotheses(n, 3, generator), batch)
    found, fits = pose_sweep(*case), pose_fits(*case)
    assert found.curvature.shape == (n, 5, 5)
    middle = grid[4, 4, 4].to(DEVICE) * case[2].ctf[:, 0]
    residual = (middle - case[2].observed[:, 0]).square()[case[1].image]
    torch.testing.assert_close(fits[0], residual)
    torch.testing.assert_close(found.residual, residual)
    pose, grid = (
        one.detach().clone().requires_grad_() for one in (case[1].rotation, case[0].values)
    )
    out = central_slices(grid, pose, case[2].disc, 1)
    in_grid, in_pose = torch.autograd.grad(out.sum(), (grid, pose))
    assert float(in_grid.sum()) == pytest.approx(out.numel())
    assert not in_pose.any()


def test_the_rim_of_the_grid_can_be_reached(generator: torch.Generator) -> None:
    # Rounding may put a point of the outermost ring just outside; nothing may be read from there.
    disc, grid = make_disc(32, 13.0).to(DEVICE), torch.zeros(27, 27, 27, device=DEVICE)
    grid[13, 13, 26] = 1
    on_axis = euler_zyz_deg_to_rotation(torch.tensor([[0.0, 0.0, p] for p in range(0, 360, 15)]))
    pose = torch.cat([random_rotations(30, generator), on_axis]).to(DEVICE)
    found = central_slices(grid, pose, disc, 1)
    assert bool(found.isfinite().all())
    assert float(found.max()) == pytest.approx(1, abs=1e-5)
    assert float(found.min()) > -1e-5


def test_the_kernels_compile_for_gpus_that_are_not_there(tmp_path: Path) -> None:
    # The interpreter takes more of Python than the compiler does.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(COMPILE_WITHOUT_A_GPU)],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_devices_get_their_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    choice._kernels_of.cache_clear()
    assert choice.kernels_for(torch.device("cpu")) is numba_kernels
    assert choice.kernels_for(torch.device("cuda", 0)) is triton_kernels
    assert choice.kernels_for(torch.device("mps")) is torch_kernels
    choice._kernels_of.cache_clear()
    monkeypatch.setattr("triton.__version__", "3.2.0")
    assert choice.kernels_for(torch.device("cuda")) is torch_kernels
    choice._kernels_of.cache_clear()
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda _: None)
    assert choice.kernels_for(torch.device("cuda")) is torch_kernels
    assert choice.kernels_for(torch.device("cpu")) is torch_kernels
    choice._kernels_of.cache_clear()
