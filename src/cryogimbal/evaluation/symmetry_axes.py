"""Where the axes of a point group lie in a map that was found without it.

Frames are judged by how well the map agrees with its own copies: first the directions of the main
axis, then turns about it, then least squares of the best while the band grows.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.evaluation.alignment import Alignment
from cryogimbal.evaluation.map_alignment import up_to_shell
from cryogimbal.evaluation.map_comparison import MapComparison, compare_maps, limit_band
from cryogimbal.evaluation.self_comparison import (
    GroupFrames,
    agreement_per_operator,
    best_centres,
    refine_frame,
)
from cryogimbal.rotations import (
    orthonormalise,
    rotation_to_rotvec,
    rotvec_to_rotation,
    sphere_grid,
)
from cryogimbal.symmetry import SymmetryGroup

# Shells of the search, of the first refinement, and the last, beyond which nothing gets sharper.
SEARCH_RADIUS = 5
FIRST_RADIUS = 6
LAST_RADIUS = 12
BAND_GROWTH = 1.5
# Directions of the main axis are about 60 / N_SIDE degrees apart, and so are turns about it.
N_SIDE = 8
FRAMES_KEPT = 8
DISTINCT_ANGLE_RAD = math.radians(12.0)
AT_ONCE = 64
# More copies of the map than this say the same again while a frame is searched for.
COPIES_IN_SEARCH = 4
COPIES_IN_REFINEMENT = 5
# How near the centre of mass of a noisy map is to the axes, in fractions of the box.
CENTRE_STEP = 1 / 24
DENSE_FRACTION = 0.25
# Entries by which two operators differ at least.
DIFFERENT = 1e-6
FIRST_ITERATIONS = 10
LATER_ITERATIONS = 4

Centre = Literal["middle", "searched"]
"""Whether the axes go through the middle of the box, or through a point that is to be found."""


@dataclass(frozen=True, kw_only=True)
class SymmetryAxes:
    """The frame of a group in a map."""

    group: SymmetryGroup
    alignment: Alignment
    """From the frame of the map to that of the group."""
    agreement: float
    """Correlation of the whitened map with its copy under the operator that fits it least; 1 where all
    copies are equal. Means would hide that a map has a part of the group only."""
    resolution_angstrom: float
    """Up to where map and copies were compared."""


def find_symmetry_axes(
    density: DensityMap,
    group: SymmetryGroup,
    *,
    centre: Centre = "searched",
    resolution_limit_angstrom: float | None = None,
) -> SymmetryAxes:
    """The frame in which a map has a group best; whether it has it is what the agreement says.

    Copies of an unrelated map agree to 0.1 to 0.4 over the first eight shells, for everything compact
    is alike to some degree; those of a symmetric one to about its signal over signal and noise.

    No frequency beyond ``resolution_limit_angstrom`` is looked at.

    Raises
    ------
    InputError
        If the limit leaves fewer than two shells.
    """
    limit = _shells_to_compare(density, resolution_limit_angstrom)
    field_angstrom = density.box * density.voxel_size_angstrom
    values = up_to_shell(density.values.float(), limit)
    full = compare_maps(values, values)
    frames = _search(limit_band(full, min(SEARCH_RADIUS, limit)), group, *_centres(values, centre))
    frame = _tournament(limit_band(full, limit), frames, group, centre)
    operators = one_of_each_pair(group.operators).to(values)
    rotation = orthonormalise(frame.rotation[0].double())
    return SymmetryAxes(
        group=group,
        alignment=Alignment(
            rotation=rotation,
            shift_angstrom=-(rotation @ frame.centre[0].double()) * field_angstrom,
            mirrored=False,
            score=1.0,
        ),
        agreement=float(agreement_per_operator(limit_band(full, limit), frame, operators).min()),
        resolution_angstrom=field_angstrom / limit,
    )


def one_of_each_pair(operators: Float[Tensor, "order 3 3"]) -> Float[Tensor, "operator 3 3"]:
    """The operators without the identity, and without the inverses of those that are there.

    A map agrees with its copy under an inverse exactly as it does under the operator.
    """
    chosen: list[Tensor] = []
    for one in operators[1:]:
        if all(float((one.T - other).abs().max()) > DIFFERENT for other in chosen):
            chosen.append(one)
    return torch.stack(chosen) if chosen else operators[:1]


def _shells_to_compare(density: DensityMap, resolution_limit_angstrom: float | None) -> int:
    field_angstrom = density.box * density.voxel_size_angstrom
    limit = min(LAST_RADIUS, (density.box - 1) // 2)
    if resolution_limit_angstrom is not None:
        limit = min(limit, int(field_angstrom / resolution_limit_angstrom))
    if limit < 2:
        raise InputError(
            f"a map of {density.box} voxels, {field_angstrom:.5g} Å wide, has {limit} shells in which "
            f"to look for axes (resolution limit: {resolution_limit_angstrom}); expected at least 2"
        )
    return limit


def _centres(
    values: Float[Tensor, "box box box"], centre: Centre
) -> tuple[Float[Tensor, "3"], Float[Tensor, "offset 3"]]:
    """Where axes may meet, in fractions of the box: a point, and offsets from it.

    The centre of mass of what is dense lies on every axis of a symmetric particle.
    """
    if centre == "middle":
        return values.new_zeros(3), values.new_zeros(1, 3)
    dense = (values - DENSE_FRACTION * values.max()).clamp_min(0)
    axis = (torch.arange(len(values)) - len(values) // 2).to(values) / len(values)
    z, y, x = (dense.sum(others) @ axis for others in ((1, 2), (0, 2), (0, 1)))
    mass = dense.sum().clamp_min(torch.finfo(values.dtype).tiny)
    steps = torch.tensor([-CENTRE_STEP, 0.0, CENTRE_STEP]).to(values)
    return torch.stack([x, y, z]) / mass, torch.cartesian_prod(steps, steps, steps)


def _search(
    comparison: MapComparison,
    group: SymmetryGroup,
    centre: Float[Tensor, "3"],
    offsets: Float[Tensor, "offset 3"],
) -> GroupFrames:
    """The best distinct frames on a grid: directions of the main axis, then turns about it."""
    axis, about, others = _by_main_axis(group)
    directions = sphere_grid(N_SIDE).double()
    directions = directions[directions[:, 2] >= 0]
    rotation = _turns_onto(directions, axis)
    centres = centre.expand(len(rotation), 3)
    score, found = _scored(comparison, rotation, centres, about, offsets)
    alignment = (directions @ directions.T).abs()
    found = found[_distinct(score, alignment > math.cos(DISTINCT_ANGLE_RAD))]
    if len(others) == 0:
        return found
    # Both ends of the main axis, and every turn about it that the group tells apart.
    least = min(_angle_rad(operator) for operator in about)
    n_turns = math.ceil(6 * N_SIDE * least / (2 * math.pi))
    angle = torch.arange(n_turns, dtype=torch.float64) * (least / n_turns)
    turns = rotvec_to_rotation(angle[:, None] * axis)
    turns = torch.cat([turns, turns @ _turns_onto(-axis[None], axis)])
    rotation = (turns[:, None] @ found.rotation.double()).flatten(0, 1)
    centres = found.centre.repeat(len(turns), 1)
    score, found = _scored(comparison, rotation, centres, others, offsets)
    return found[_distinct(score, _same_frame(rotation, group))]


def _by_main_axis(group: SymmetryGroup) -> tuple[Tensor, Tensor, Tensor]:
    """Axis of highest fold (float64), some of the operators about it, and some of the others."""
    operators = one_of_each_pair(group.operators)
    least = min(operators, key=_angle_rad)
    axis = torch.nn.functional.normalize(rotation_to_rotvec(least), dim=0)
    keeps = (operators @ axis - axis).abs().amax(1) < DIFFERENT
    return axis, operators[keeps][:COPIES_IN_SEARCH], operators[~keeps][:COPIES_IN_SEARCH]


def _scored(
    comparison: MapComparison,
    rotation: Float[Tensor, "candidate 3 3"],
    centre: Float[Tensor, "candidate 3"],
    operators: Float[Tensor, "operator 3 3"],
    offsets: Float[Tensor, "offset 3"],
) -> tuple[Float[Tensor, " candidate"], GroupFrames]:
    """Agreement of each frame at its best centre."""
    like = comparison.frequency
    parts = [
        best_centres(
            comparison,
            GroupFrames(rotation=one.to(like), centre=at),
            operators.to(like),
            offsets,
        )
        for one, at in zip(rotation.split(AT_ONCE), centre.split(AT_ONCE), strict=True)
    ]
    score = torch.cat([part[0] for part in parts])
    found = [part[1] for part in parts]
    return score, GroupFrames(
        rotation=torch.cat([one.rotation for one in found]),
        centre=torch.cat([one.centre for one in found]),
    )


def _distinct(
    score: Float[Tensor, " candidate"], near: Bool[Tensor, "candidate candidate"]
) -> Int[Tensor, " chosen"]:
    """The best candidates that are not near to a better one."""
    chosen: list[int] = []
    free = torch.ones_like(score, dtype=torch.bool)
    while len(chosen) < FRAMES_KEPT and bool(free.any()):
        best = int(torch.where(free, score, -torch.inf).argmax())
        chosen.append(best)
        free[best] = False
        free &= ~near[best].to(free.device)
    return torch.tensor(chosen, device=score.device)


def _same_frame(
    rotation: Float[Tensor, "candidate 3 3"], group: SymmetryGroup
) -> Bool[Tensor, "candidate candidate"]:
    """Which frames are near each other once the group has turned them as far as it can."""
    flat = rotation.flatten(1)
    closest = torch.full((len(rotation),) * 2, -torch.inf, dtype=rotation.dtype)
    for operator in group.operators:
        torch.maximum(closest, (operator @ rotation).flatten(1) @ flat.T, out=closest)
    return (closest - 1) / 2 > math.cos(DISTINCT_ANGLE_RAD)


def _turns_onto(
    directions: Float[Tensor, "n 3"], axis: Float[Tensor, "3"]
) -> Float[Tensor, "n 3 3"]:
    """The shortest turn that takes each direction to the axis (any half turn from its other end)."""
    normal = torch.linalg.cross(directions, axis.expand_as(directions))
    sine, cosine = normal.norm(dim=-1), directions @ axis
    # Any vector across the axis will do where the cross product has no direction.
    across = torch.linalg.cross(axis, torch.eye(3).to(axis)[int(axis.abs().argmin())], dim=0)
    lost = sine < DIFFERENT
    normal = torch.where(lost[:, None], across, normal)
    angle = torch.where(lost, math.pi * (cosine < 0), torch.atan2(sine, cosine))
    unit = torch.nn.functional.normalize(normal, dim=-1)
    return rotvec_to_rotation(unit * angle[:, None])


def _tournament(
    full: MapComparison, frames: GroupFrames, group: SymmetryGroup, centre: Centre
) -> GroupFrames:
    """Refine all, keep the better third (at least two), widen the band, and again."""
    like = full.frequency
    operators = _some_of_each_kind(group).to(like)
    moves = 0.0 if centre == "middle" else 1.0
    free = torch.tensor([1.0, 1.0, 1.0, moves, moves, moves]).to(like)
    limit, n_iterations = int(full.shell[-1]), FIRST_ITERATIONS
    radius = min(FIRST_RADIUS, limit)
    while True:
        band = limit_band(full, radius)
        refined = [
            refine_frame(band, frames[i : i + 1], operators, free=free, n_iterations=n_iterations)
            for i in range(len(frames))
        ]
        refined.sort(key=lambda one: -one[0])
        kept = [frame for _, frame in refined[: max(2, len(refined) // 3)]]
        if radius == limit:
            return kept[0]
        frames = GroupFrames(
            rotation=torch.cat([frame.rotation for frame in kept]),
            centre=torch.cat([frame.centre for frame in kept]),
        )
        radius, n_iterations = min(limit, math.ceil(radius * BAND_GROWTH)), LATER_ITERATIONS


def _some_of_each_kind(group: SymmetryGroup) -> Float[Tensor, "operator 3 3"]:
    """The generators, and other operators spread over the group."""
    operators = one_of_each_pair(group.operators)
    place = torch.linspace(0, len(operators) - 1, min(COPIES_IN_REFINEMENT, len(operators)))
    return operators[
        torch.cat([torch.arange(min(2, len(operators))), place.round().long()]).unique()
    ]


def _angle_rad(operator: Float[Tensor, "3 3"]) -> float:
    return float(rotation_to_rotvec(operator).norm())
