from types import ModuleType

import pytest
import torch
from torch import Tensor

from cryogimbal.fourier.disc import make_disc
from cryogimbal.imaging.kernels import numba_kernels, torch_kernels
from cryogimbal.imaging.kernels.contract import Hypotheses, PoseSweep
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.pose_fit import hypotheses_of, pose_fits, pose_sweep
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.rotations import orthonormalise, random_rotations
from tests.reference.pose_derivatives import sweep_by_differences

KERNELS = [torch_kernels, numba_kernels]
GEOMETRIES = [(8, 1), (9, 1), (8, 2), (7, 3)]


def a_grid(box: int, oversampling: int, generator: torch.Generator) -> Tensor:
    side = 2 * -(-oversampling * box // 2) + 1
    return torch.randn(side, side, side, generator=generator, dtype=torch.float64)


def a_batch(box: int, n: int, generator: torch.Generator) -> ParticleBatch:
    disc = make_disc(box)
    ctf, observed = (
        torch.randn(n, disc.n_coefficients, generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    return ParticleBatch(disc=disc, observed=observed, ctf=ctf, index=torch.arange(n))


def some_hypotheses(n: int, n_images: int, generator: torch.Generator) -> Hypotheses:
    return Hypotheses(
        rotation=orthonormalise(random_rotations(n, generator).double()),
        image=torch.randint(n_images, (n,), generator=generator),
        shift_box=0.1 * torch.randn(n, 2, generator=generator, dtype=torch.float64),
    )


def centred(hypotheses: Hypotheses) -> Hypotheses:
    return Hypotheses(rotation=hypotheses.rotation, image=hypotheses.image)


def prepared_with(kernels: ModuleType, grid: Tensor, oversampling: int) -> PreparedGrid:
    return PreparedGrid(values=kernels.prepare(grid), oversampling=oversampling, kernels=kernels)


def in_single_precision(
    grid: Tensor, hypotheses: Hypotheses, batch: ParticleBatch
) -> tuple[Tensor, Hypotheses, ParticleBatch]:
    shift = hypotheses.shift_box
    return (
        grid.float(),
        Hypotheses(
            rotation=hypotheses.rotation.float(),
            image=hypotheses.image,
            shift_box=None if shift is None else shift.float(),
        ),
        ParticleBatch(
            disc=batch.disc,
            observed=batch.observed.float(),
            ctf=batch.ctf.float(),
            index=batch.index,
        ),
    )


def expected_sweep(
    grid: Tensor, oversampling: int, hypotheses: Hypotheses, batch: ParticleBatch
) -> PoseSweep:
    parts = []
    for n, image in enumerate(hypotheses.image.tolist()):
        shift = hypotheses.shift_box
        moved = torch.zeros(2, dtype=torch.float64) if shift is None else shift[n]
        parts.append(
            sweep_by_differences(
                grid,
                (hypotheses.rotation[n], moved),
                batch.disc.frequency_index,
                oversampling,
                (batch.ctf[image], batch.observed[image]),
            )
        )
    residual, power, gradient, curvature = (torch.stack(p) for p in zip(*parts, strict=True))
    n_parameters = 3 if hypotheses.shift_box is None else 5
    return PoseSweep(
        residual=residual,
        power=power,
        gradient=gradient[:, :n_parameters],
        curvature=curvature[:, :n_parameters, :n_parameters],
    )


def assert_sweeps_agree(found: PoseSweep, expected: PoseSweep, tolerance: float) -> None:
    for name in ("residual", "power", "gradient", "curvature"):
        one, other = getattr(found, name).double(), getattr(expected, name)
        assert one.shape == other.shape
        assert float((one - other).abs().max() / other.abs().max()) < tolerance, name


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda module: module.NAME)
@pytest.mark.parametrize(("box", "oversampling"), GEOMETRIES)
@pytest.mark.parametrize("shifted", [False, True])
def test_sweep_equals_differences_of_a_loop(
    kernels: ModuleType,
    box: int,
    oversampling: int,
    shifted: bool,
    generator: torch.Generator,
) -> None:
    grid, batch = a_grid(box, oversampling, generator), a_batch(box, 3, generator)
    hypotheses = some_hypotheses(5, 3, generator)
    hypotheses = hypotheses if shifted else centred(hypotheses)
    expected = expected_sweep(grid, oversampling, hypotheses, batch)
    found = pose_sweep(prepared_with(kernels, grid, oversampling), hypotheses, batch)
    assert_sweeps_agree(found, expected, 1e-6)
    singles = in_single_precision(grid, hypotheses, batch)
    found = pose_sweep(prepared_with(kernels, singles[0], oversampling), *singles[1:])
    assert found.residual.dtype == torch.float32
    assert_sweeps_agree(found, expected, 2e-5)


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda module: module.NAME)
@pytest.mark.parametrize("shifted", [False, True])
def test_fits_are_the_sums_of_the_sweep(
    kernels: ModuleType, shifted: bool, box: int, generator: torch.Generator
) -> None:
    grid, batch = a_grid(box, 2, generator), a_batch(box, 4, generator)
    hypotheses = some_hypotheses(9, 4, generator)
    hypotheses = hypotheses if shifted else centred(hypotheses)
    prepared = prepared_with(kernels, grid, 2)
    sweep, (residual, power) = (
        function(prepared, hypotheses, batch) for function in (pose_sweep, pose_fits)
    )
    torch.testing.assert_close(residual, sweep.residual, atol=0, rtol=1e-12)
    torch.testing.assert_close(power, sweep.power, atol=0, rtol=1e-12)


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda module: module.NAME)
def test_threads_and_chunks_do_not_show(
    kernels: ModuleType, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, batch = a_grid(8, 2, generator), a_batch(8, 5, generator)
    hypotheses, prepared = some_hypotheses(23, 5, generator), prepared_with(kernels, grid, 2)
    at_once = pose_sweep(prepared, hypotheses, batch)
    if kernels is numba_kernels:
        monkeypatch.setattr(kernels, "FEWEST_PER_THREAD", 1)
        monkeypatch.setattr(kernels, "SHIFTED_AT_ONCE", 2)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    else:
        monkeypatch.setattr(kernels, "CHUNK_POINTS_CPU", 2 * batch.disc.n_coefficients)
    assert_sweeps_agree(pose_sweep(prepared, hypotheses, batch), at_once, 1e-13)


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def fail(part: slice) -> None:
        raise ZeroDivisionError(part)

    with pytest.raises(ZeroDivisionError):
        numba_kernels._share(100, fail)


def test_heads_follow_their_image(generator: torch.Generator) -> None:
    rotation = random_rotations(12, generator).view(4, 3, 3, 3)
    hypotheses = hypotheses_of(rotation)
    assert hypotheses.image.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert torch.equal(hypotheses.rotation[4], rotation[1, 1])
