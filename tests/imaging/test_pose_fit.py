from types import ModuleType

import pytest
import torch

from cryogimbal.imaging.kernels import numba_kernels, torch_kernels
from cryogimbal.imaging.pose_fit import hypotheses_of, pose_fits, pose_sweep
from cryogimbal.rotations import random_rotations
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

KERNELS = [torch_kernels, numba_kernels]


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
