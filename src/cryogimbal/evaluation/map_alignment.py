"""Best rotation, shift and hand between two maps: a search over everything, then least squares."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.evaluation.alignment import Alignment
from cryogimbal.evaluation.fsc import require_same_grid
from cryogimbal.evaluation.map_comparison import (
    Frames,
    MapComparison,
    compare_maps,
    correlation,
    correlation_per_shell,
    limit_band,
    predict,
    refine_frames,
)
from cryogimbal.fourier.resample import resample_density
from cryogimbal.fourier.shells import shell_index
from cryogimbal.fourier.transforms import density_to_hartley, hartley_to_density
from cryogimbal.rotations import geodesic_distance_rad, orthonormalise, rotation_grid

# Shells of the exhaustive search in steps of 15 degrees, and of the first refinement after it.
SEARCH_RADIUS = 5
FIRST_RADIUS = 6
SEARCH_N_SIDE = 4
SEARCH_SHIFT_STEP = 1 / 16
SEARCH_SHIFT_RADIUS = 1 / 4
SEARCH_CHUNK = 256
# Further shells cost much and no longer sharpen the answer.
MAX_RADIUS = 24
BAND_GROWTH = 1.5
# Beyond the shell where the two maps lose each other there is only noise to fit.
MIN_CORRELATION = 0.3
CANDIDATES_PER_HAND = 16
DISTINCT_ANGLE_RAD = math.radians(25.0)
FIRST_ITERATIONS = 10
LATER_ITERATIONS = 5


def align_maps(
    moving: DensityMap,
    fixed: DensityMap,
    *,
    initial: Alignment | None = None,
    resolution_limit_angstrom: float | None = None,
) -> Alignment:
    """Frame in which the moving map looks like the fixed one; see :func:`apply_alignment`.

    Without ``initial``, all rotations in steps of 15 degrees, shifts up to a quarter of the box and
    both hands are compared up to shell 5; the best of each hand are refined by least squares while
    the band grows as far as the maps agree, and fewer stay at each step. With ``initial`` (from
    poses), its hand stands and rotation and shift are refined from there.

    No frequency beyond ``resolution_limit_angstrom`` is looked at.

    Raises
    ------
    InputError
        If box or voxel size of the maps differ, or the limit leaves fewer than two shells.
    """
    require_same_grid(moving, fixed)
    field_angstrom = fixed.box * fixed.voxel_size_angstrom
    limit = min(MAX_RADIUS, (fixed.box - 1) // 2)
    if resolution_limit_angstrom is not None:
        limit = min(limit, int(field_angstrom / resolution_limit_angstrom))
    if limit < 2:
        raise InputError(
            f"maps of {fixed.box} voxels, {field_angstrom:.5g} Å wide, have {limit} shells to "
            f"compare (resolution limit: {resolution_limit_angstrom}); expected at least 2"
        )
    full = compare_maps(*(up_to_shell(m.values.float(), limit) for m in (moving, fixed)))
    first = limit_band(full, min(SEARCH_RADIUS, limit))
    if initial is None:
        frames = _search(first)
    else:
        frames = _with_searched_shift(first, initial, field_angstrom)
    return _tournament(full, frames, limit, field_angstrom)


def _tournament(
    full: MapComparison, frames: Frames, limit: int, field_angstrom: float
) -> Alignment:
    """Refine all, keep the better third (at least two), widen the band, and again."""
    radius, n_iterations = min(FIRST_RADIUS, limit), FIRST_ITERATIONS
    while True:
        band = limit_band(full, radius)
        frames = refine_frames(band, frames, n_iterations=n_iterations)
        score = correlation(band, frames)
        frames = frames[score.argsort(descending=True)[: max(2, len(frames) // 3)]]
        wider = min(limit, math.ceil(radius * BAND_GROWTH))
        wider = min(wider, _last_agreeing_shell(limit_band(full, wider), frames[:1]))
        if wider <= radius:
            break
        radius, n_iterations = wider, LATER_ITERATIONS
    return Alignment(
        rotation=orthonormalise(frames.rotation[0].double()),
        shift_angstrom=frames.shift[0].double() * field_angstrom,
        mirrored=bool(frames.hand[0] < 0),
        score=float(score.max()),
    )


def up_to_shell(
    values: Float[Tensor, "box box box"], limit: int
) -> Float[Tensor, "working working working"]:
    """Density without the shells beyond the limit: between its samples they would be felt."""
    working_box = min(values.shape[-1], 2 * MAX_RADIUS + 4)
    spectrum = density_to_hartley(resample_density(values, working_box))
    inside = shell_index(working_box, 3, device=values.device) <= limit
    return hartley_to_density(torch.where(inside, spectrum, 0.0))


def _last_agreeing_shell(comparison: MapComparison, frame: Frames) -> int:
    curve = correlation_per_shell(comparison, frame)
    apart = (curve < MIN_CORRELATION).nonzero()
    return int(apart[0]) - 1 if len(apart) else len(curve) - 1


def _search(comparison: MapComparison) -> Frames:
    """The best distinct candidates of either hand.

    One pass serves both: the mirror image at ``Q`` is the point-inverted map at ``Q diag(-1,-1,1)``,
    and inversion swaps H(k) and H(-k).
    """
    like = comparison.frequency
    grid = rotation_grid(SEARCH_N_SIDE).to(like)
    shift = _shift_grid().to(like)
    scores: tuple[list[Tensor], list[Tensor]] = ([], [])
    places: tuple[list[Tensor], list[Tensor]] = ([], [])
    for rotation in grid.split(SEARCH_CHUNK):
        predicted = predict(comparison, _unshifted(rotation, like.new_ones(len(rotation))))
        for hand, side in enumerate((predicted, predicted.flip(1))):
            score, place = _best_shift(comparison, side, shift)
            scores[hand].append(score)
            places[hand].append(place)
    rotations = (grid, grid * like.new_tensor([-1.0, -1.0, 1.0]))
    found = []
    for hand, sign in enumerate((1.0, -1.0)):
        chosen = _distinct(rotations[hand], torch.cat(scores[hand]))
        best = torch.cat(places[hand])[chosen]
        signs = torch.full_like(chosen, sign, dtype=like.dtype)
        found.append(Frames(rotation=rotations[hand][chosen], shift=shift[best], hand=signs))
    return _join(*found)


def _with_searched_shift(
    comparison: MapComparison, initial: Alignment, field_angstrom: float
) -> Frames:
    """The given frame twice: with its own shift, and with the best shift of the grid."""
    like = comparison.frequency
    hand = like.new_tensor([-1.0 if initial.mirrored else 1.0])
    rotation = initial.rotation.to(like)[None]
    unshifted = _unshifted(rotation, hand)
    shift = _shift_grid().to(like)
    _, best = _best_shift(comparison, predict(comparison, unshifted), shift)
    own = initial.shift_angstrom.to(like)[None] / field_angstrom
    return _join(replace(unshifted, shift=own), replace(unshifted, shift=shift[best]))


def _best_shift(
    comparison: MapComparison,
    predicted: Float[Tensor, "candidate 2 point"],
    shift: Float[Tensor, "shift 3"],
) -> tuple[Float[Tensor, " candidate"], Int[Tensor, " candidate"]]:
    """Highest correlation over the shifts for each unshifted prediction, and which shift has it.

    ``sum_k H_f(k) H'(k) = cos(phi) . (f+ m+ + f- m-) + sin(phi) . (f+ m- - f- m+)``: a matrix
    product for all rotations and all shifts.
    """
    phase = 2 * math.pi * comparison.frequency @ shift.T
    here, there = comparison.fixed.unbind(0)
    m_here, m_there = predicted.unbind(1)
    even, odd = here * m_here + there * m_there, here * m_there - there * m_here
    norm = predicted.square().sum((1, 2)).sqrt().clamp_min(torch.finfo(predicted.dtype).tiny)
    score, place = (even @ phase.cos() + odd @ phase.sin()).max(dim=1)
    return score / norm, place


def _unshifted(
    rotation: Float[Tensor, "candidate 3 3"], hand: Float[Tensor, " candidate"]
) -> Frames:
    return Frames(rotation=rotation, shift=torch.zeros_like(rotation[:, 0]), hand=hand)


def _join(first: Frames, second: Frames) -> Frames:
    return Frames(
        rotation=torch.cat([first.rotation, second.rotation]),
        shift=torch.cat([first.shift, second.shift]),
        hand=torch.cat([first.hand, second.hand]),
    )


def _distinct(
    rotation: Float[Tensor, "orientation 3 3"], score: Float[Tensor, " orientation"]
) -> Int[Tensor, " chosen"]:
    """Indices of the best orientations that are not neighbours of a better one."""
    chosen: list[int] = []
    free = torch.ones_like(score, dtype=torch.bool)
    while len(chosen) < CANDIDATES_PER_HAND and bool(free.any()):
        best = int(torch.where(free, score, -torch.inf).argmax())
        chosen.append(best)
        free &= geodesic_distance_rad(rotation, rotation[best].expand_as(rotation)) > (
            DISTINCT_ANGLE_RAD
        )
    return torch.tensor(chosen, device=score.device)


def _shift_grid() -> Float[Tensor, "shift 3"]:
    """Shifts within a quarter of the box, in fractions of it."""
    n = round(SEARCH_SHIFT_RADIUS / SEARCH_SHIFT_STEP)
    axis = torch.arange(-n, n + 1) * SEARCH_SHIFT_STEP
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    shift = torch.stack([x, y, z], dim=-1).flatten(0, 2)
    return shift[shift.norm(dim=-1) <= SEARCH_SHIFT_RADIUS + 1e-6]
