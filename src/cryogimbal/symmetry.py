"""Point groups of particles: their operators in RELION's axes, and rotations modulo a group.

An operator S turns the volume frame and leaves the particle as it is, ``V(S p) = V(p)``. The poses A
and A S therefore give the same image, and every rotation stands for ``order`` of them.
"""

import functools
import math
import re
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryogimbal.errors import InputError
from cryogimbal.rotations import nearer_than_deg, rotvec_to_rotation

CYCLIC_ORDERS = range(1, 21)
DIHEDRAL_ORDERS = range(2, 11)
NAME_PATTERN = re.compile(r"([CD])([1-9]\d*)|(T|O|I[1-4]?)")

GOLDEN = (1 + math.sqrt(5)) / 2
# Two axes with their folds generate each group (RELION 3.1, symmetries.cpp: fill_symmetry_class).
# "I" is I2.
POLYHEDRAL_AXES: dict[str, tuple[tuple[tuple[float, float, float], int], ...]] = {
    "T": (((0.0, 0.0, 1.0), 3), ((0.0, math.sqrt(2.0), 1.0), 2)),
    "O": (((1.0, 1.0, 1.0), 3), ((0.0, 0.0, 1.0), 4)),
    "I": (((0.0, 0.0, 1.0), 2), ((1.0, 0.0, GOLDEN), 5)),
    "I1": (((1.0, 0.0, 0.0), 2), ((GOLDEN, 0.0, -1.0), 5)),
    "I2": (((0.0, 0.0, 1.0), 2), ((1.0, 0.0, GOLDEN), 5)),
    "I3": (((-1.0, 0.0, GOLDEN), 2), ((0.0, 0.0, 1.0), 5)),
    "I4": (((1.0, 0.0, GOLDEN), 2), ((0.0, 0.0, 1.0), 5)),
}
EXPECTED = "C1 to C20, D2 to D10, T, O, I (the same as I2), I1, I2, I3 or I4"
# Elements of these groups are at least 18 degrees apart; products err by 1e-15.
SAME_ELEMENT = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class SymmetryGroup:
    """A point group of rotations."""

    name: str
    """As RELION calls it."""
    operators: Float[Tensor, "order 3 3"]
    """S for column vectors (x, y, z) of the volume frame, in float64; the identity is the first."""

    @property
    def order(self) -> int:
        """Number of operators."""
        return len(self.operators)

    @property
    def is_cubic(self) -> bool:
        """Whether it has several axes of more than two turns: tetrahedral, octahedral, icosahedral."""
        return self.name[0] in "TOI"

    @property
    def least_angle_rad(self) -> float:
        """Smallest turn that leaves the particle as it is; 2 pi for C1."""
        if self.order == 1:
            return 2 * math.pi
        trace = self.operators[1:].diagonal(dim1=-2, dim2=-1).sum(-1)
        return math.acos(min(1.0, (float(trace.max()) - 1) / 2))


@functools.cache
def symmetry_group(name: str) -> SymmetryGroup:
    """The group of that name, in capital or small letters.

    Raises
    ------
    InputError
        If there is no such group here.
    """
    upper = name.upper()
    generators = _generators(upper)
    if generators is None:
        raise InputError(
            f"symmetry {name!r}: expected {EXPECTED}, found none of them; name one (groups with "
            "mirror planes are not for molecules, and helices are no point groups)"
        )
    return SymmetryGroup(name=upper, operators=_closure(generators))


def turned_group(group: SymmetryGroup, rotation: Float[Tensor, "3 3"]) -> SymmetryGroup:
    """The group of a particle that the rotation (``p' = Q p``) takes to the group's own axes."""
    turn = rotation.to(group.operators)
    return SymmetryGroup(name=group.name, operators=turn.T @ group.operators @ turn)


def same_images(
    rotation: Float[Tensor, "*n 3 3"], group: SymmetryGroup
) -> Float[Tensor, "*n order 3 3"]:
    """All rotations ``A S`` that give the image that A gives."""
    return rotation[..., None, :, :] @ group.operators.to(rotation)


def nearest_same_image(
    rotation: Float[Tensor, "*n 3 3"], reference: Float[Tensor, "*n 3 3"], group: SymmetryGroup
) -> Float[Tensor, "*n 3 3"]:
    """Of the rotations that give the same image the one nearest to a reference."""
    if group.order == 1:
        return rotation
    operators = group.operators.to(rotation)
    # trace((A S)' B) = sum of S * (A' B) over elements: the largest is the nearest.
    closeness = (rotation.mT @ reference).flatten(-2) @ operators.flatten(1).T
    return rotation @ operators[closeness.argmax(dim=-1)]


def same_image_within_deg(
    rotation: Float[Tensor, "*n m 3 3"], angle_deg: float, group: SymmetryGroup
) -> Bool[Tensor, "*n m m"]:
    """Which of some rotations lie within an angle of each other once the group has done its best."""
    near = nearer_than_deg(rotation, angle_deg)
    for operator in group.operators[1:].to(rotation):
        near = near | nearer_than_deg(rotation @ operator, angle_deg, rotation)
    return near


def into_asymmetric_unit(
    rotation: Float[Tensor, "*n 3 3"], group: SymmetryGroup
) -> Float[Tensor, "*n 3 3"]:
    """The one of ``A S`` with the smallest angle: each image keeps one rotation."""
    eye = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    return nearest_same_image(rotation, eye.expand_as(rotation), group)


def in_asymmetric_unit(
    rotation: Float[Tensor, "*n 3 3"], group: SymmetryGroup, *, margin: float = 1e-4
) -> Bool[Tensor, "*n"]:
    """Whether no ``A S`` has a smaller angle: those that hold are one of each set of equals.

    ``margin`` (of the trace) keeps rotations on the border, of which a grid may have many, on both
    sides of it.
    """
    closeness = rotation.mT.flatten(-2) @ group.operators.to(rotation).flatten(1).T
    return closeness[..., 0] >= closeness.amax(dim=-1) - margin


def on_grid(group: SymmetryGroup) -> SymmetryGroup:
    """The subgroup that takes a cubic grid to itself: permutations of the axes with signs."""
    rounded = group.operators.round()
    exact = (group.operators - rounded).abs().amax((1, 2)) < SAME_ELEMENT
    # -0 would be a sign to whoever looks for one.
    return SymmetryGroup(name=f"{group.name} on a grid", operators=rounded[exact] + 0.0)


def coset_representatives(
    group: SymmetryGroup, subgroup: SymmetryGroup
) -> Float[Tensor, "coset 3 3"]:
    """Operators T, the identity first, with which every S is ``T E`` for one E of the subgroup."""
    left = list(group.operators)
    chosen = []
    while left:
        chosen.append(left[0])
        covered = left[0] @ subgroup.operators
        left = [one for one in left if not _is_among(one, covered)]
    return torch.stack(chosen)


def _generators(name: str) -> list[Tensor] | None:
    """Generating rotations of a group; None where there is no such group."""
    found = NAME_PATTERN.fullmatch(name)
    if found is None:
        return None
    if found[3] is not None:
        return [_turn(axis, fold) for axis, fold in POLYHEDRAL_AXES[name]]
    fold = int(found[2])
    if fold not in (CYCLIC_ORDERS if found[1] == "C" else DIHEDRAL_ORDERS):
        return None
    about_z = _turn((0.0, 0.0, 1.0), fold)
    return [about_z] if found[1] == "C" else [about_z, _turn((1.0, 0.0, 0.0), 2)]


def _turn(axis: tuple[float, float, float], fold: int) -> Float[Tensor, "3 3"]:
    vector = torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float64), dim=0)
    return rotvec_to_rotation(vector * (2 * math.pi / fold))


def _closure(generators: list[Tensor]) -> Float[Tensor, "order 3 3"]:
    """All products of the generators."""
    elements = [torch.eye(3, dtype=torch.float64)]
    for element in elements:
        for generator in generators:
            product = element @ generator
            if not _is_among(product, torch.stack(elements)):
                elements.append(product)
    return torch.stack(elements)


def _is_among(one: Float[Tensor, "3 3"], others: Float[Tensor, "n 3 3"]) -> bool:
    return bool(((others - one).abs().amax((1, 2)) < SAME_ELEMENT).any())


NO_SYMMETRY = symmetry_group("C1")
