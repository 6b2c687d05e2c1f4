"""Slicing by loops that numba compiles on first use: the fast path on a CPU.

Images are shared out among as many threads as torch uses; the loops let go of Python's lock. A thread
that spreads has a grid of its own, and the grids are added in order, so the result depends on the
number of threads but not on chance.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.imaging.kernels import numba_loops, numba_spread, numba_sweeps
from cryogimbal.imaging.kernels.contract import Hypotheses, PoseSweep, SlicePoints, sweep_of_sums

NAME = "numba"

# Each spreading thread holds two grids of its own.
MOST_SPREADING_THREADS = 8
# Images for which waking another thread is not worth it.
FEWEST_PER_THREAD = 16
# Hypotheses whose shift waves are held at a time.
SHIFTED_AT_ONCE = 4096


def prepare(grid: Float[Tensor, "side side side"]) -> Float[Tensor, "side side side"]:
    """The grid itself."""
    return grid.contiguous()


def slice_rows(prepared: Tensor, rotation: Tensor, points: SlicePoints) -> Tensor:
    """Values at ``k @ rotation`` and ``-k @ rotation``."""
    grid, side = _flat(prepared), prepared.shape[-1]
    turn, frequency = _array(rotation), _frequency(points, rotation)
    out = rotation.new_empty(rotation.shape[0], 2 * frequency.shape[1])
    values = out.numpy()

    def work(part: slice) -> None:
        numba_loops.slice_rows(grid, side, turn[part], frequency, values[part])

    _share(rotation.shape[0], work)
    return out


def grid_gradient(rows: Tensor, prepared: Tensor, rotation: Tensor, points: SlicePoints) -> Tensor:
    """Gradient in the grid of the sum of ``rows`` times the slices."""
    out = torch.zeros_like(prepared)
    spread_rows([out], [rows], rotation, points)
    return out


def rotation_gradient(
    rows: Tensor, prepared: Tensor, rotation: Tensor, points: SlicePoints
) -> Float[Tensor, "n 3 3"]:
    """Gradient in the rotations of the same sum; the third rows are zero."""
    grid, side = _flat(prepared), prepared.shape[-1]
    values, turn, frequency = _array(rows), _array(rotation), _frequency(points, rotation)
    out = torch.zeros_like(rotation, memory_format=torch.contiguous_format)
    gradient = out.numpy()

    def work(part: slice) -> None:
        numba_loops.rotation_gradient(
            values[part], grid, side, turn[part], frequency, gradient[part]
        )

    _share(rotation.shape[0], work)
    return out


def spread_rows(
    grids: Sequence[Tensor], rows: Sequence[Tensor], rotation: Tensor, points: SlicePoints
) -> None:
    """Add the adjoint of slicing to real grids, in place, one set of rows for each."""
    turn, frequency = _array(rotation), _frequency(points, rotation)
    for grid, values_of_grid in zip(grids, rows, strict=True):
        side, values = grid.shape[-1], _array(values_of_grid)
        flat = grid.view(-1).numpy()

        def spread(part: slice, side: int = side, values: np.ndarray = values) -> np.ndarray:
            buffer = np.zeros((side**3, 2), values.dtype)
            numba_spread.spread_rows(values[part], turn[part], frequency, side, buffer)
            return buffer

        parts = _parts(rotation.shape[0], MOST_SPREADING_THREADS)
        for buffer in _pool().map(spread, parts):
            numba_spread.fold(buffer, flat)


def fits(
    prepared: Tensor, hypotheses: Hypotheses, points: SlicePoints, ctf: Tensor, observed: Tensor
) -> tuple[Float[Tensor, " hypothesis"], Float[Tensor, " hypothesis"]]:
    """Residual and power of each hypothesis, the zero frequency left out."""
    if hypotheses.shift_box is not None:
        found = sweep(prepared, hypotheses, points, ctf, observed)
        return found.residual, found.power
    rotation = hypotheses.rotation
    grid, side, frequency = _flat(prepared), prepared.shape[-1], _frequency(points, rotation)
    turn, image = _array(rotation), _array(hypotheses.image)
    transfer, images = _array(ctf), _array(observed)
    out = rotation.new_empty(rotation.shape[0], 2)
    sums = out.numpy()

    def work(part: slice) -> None:
        numba_loops.fits(
            grid, side, turn[part], image[part], frequency, transfer, images, sums[part]
        )

    _share(rotation.shape[0], work)
    return out[:, 0], out[:, 1]


def sweep(
    prepared: Tensor, hypotheses: Hypotheses, points: SlicePoints, ctf: Tensor, observed: Tensor
) -> PoseSweep:
    """Residual, power, gradient and Gauss-Newton matrix, the zero frequency left out."""
    rotation = hypotheses.rotation
    grid, side, frequency = _flat(prepared), prepared.shape[-1], _frequency(points, rotation)
    turn, image = _array(rotation), _array(hypotheses.image)
    transfer, images = _array(ctf), _array(observed)
    shift = hypotheses.shift_box
    n_parameters = 3 if shift is None else 5
    n_sums = 2 + n_parameters + n_parameters * (n_parameters + 1) // 2
    out = rotation.new_empty(rotation.shape[0], n_sums)
    sums = out.numpy()

    def turn_only(part: slice) -> None:
        numba_sweeps.rotation_sweep(
            grid, side, turn[part], image[part], frequency, transfer, images, sums[part]
        )

    def turn_and_shift(part: slice) -> None:
        assert shift is not None
        wave = points.wave.to(rotation.dtype)
        for rows in range(part.start, part.stop, SHIFTED_AT_ONCE):
            some = slice(rows, min(rows + SHIFTED_AT_ONCE, part.stop))
            phase = shift[some] @ wave.T
            waves = (_array(wave.T), phase.cos().numpy(), phase.sin().numpy())
            numba_sweeps.pose_sweep(
                grid, side, turn[some], image[some], frequency, *waves, transfer, images, sums[some]
            )

    _share(rotation.shape[0], turn_only if shift is None else turn_and_shift)
    return sweep_of_sums(out, n_parameters)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _flat(grid: Tensor) -> np.ndarray:
    return _array(grid).reshape(-1)


def _frequency(points: SlicePoints, like: Tensor) -> np.ndarray:
    """Grid steps (axis, point) in the precision of the rotations."""
    return _array(points.grid_steps.to(like.dtype).T)


def _share(n: int, work: Callable[[slice], None]) -> None:
    """Let threads do consecutive parts of n images; errors of any reach the caller."""
    parts = _parts(n, torch.get_num_threads())
    if len(parts) == 1:
        work(parts[0])
    else:
        list(_pool().map(work, parts))


def _parts(n: int, most: int) -> list[slice]:
    n_parts = max(1, min(most, torch.get_num_threads(), n // FEWEST_PER_THREAD))
    edges = [n * part // n_parts for part in range(n_parts + 1)]
    return [slice(first, after) for first, after in pairwise(edges)]


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="slicing")
