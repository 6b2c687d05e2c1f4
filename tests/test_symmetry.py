"""Point groups: laws of a group, RELION's axes, and rotations modulo a group."""

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cryogimbal.errors import InputError
from cryogimbal.rotations import (
    geodesic_distance_rad,
    orthonormalise,
    random_rotations,
    rotation_grid,
    rotvec_to_rotation,
)
from cryogimbal.symmetry import (
    coset_representatives,
    in_asymmetric_unit,
    into_asymmetric_unit,
    nearest_same_image,
    on_grid,
    same_images,
    symmetry_group,
)

ORDERS = (
    {f"C{n}": n for n in range(1, 21)}
    | {f"D{n}": 2 * n for n in range(2, 11)}
    | {"T": 12, "O": 24, "I": 60, "I1": 60, "I2": 60, "I3": 60, "I4": 60}
)
SOME = ("C1", "C3", "D2", "D7", "T", "O", "I1", "I3")


def distance_to_set(one: Tensor, others: Tensor) -> Tensor:
    """Largest entry by which each of some matrices differs from the nearest of others."""
    return (one[:, None] - others).abs().amax((2, 3)).amin(1)


def exact_rotations(n: int, generator: torch.Generator) -> Tensor:
    return orthonormalise(random_rotations(n, generator).double())


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_operators_are_a_group_of_rotations(name: str, order: int) -> None:
    group = symmetry_group(name)
    assert (group.name, group.order) == (name, order)
    operators = group.operators
    assert operators.dtype == torch.float64
    torch.testing.assert_close(operators[0], torch.eye(3).double(), atol=0, rtol=0)
    gram = operators @ operators.mT - torch.eye(3)
    assert gram.abs().max() < 1e-13
    assert (torch.linalg.det(operators) > 0).all()
    products = (operators[:, None] @ operators).flatten(0, 1)
    assert distance_to_set(products, operators).max() < 1e-12
    assert distance_to_set(operators.mT, operators).max() < 1e-12
    apart = (operators[:, None] - operators).abs().amax((2, 3)) + torch.eye(order)
    assert apart.min() > 0.01


def test_the_folds_of_the_axes() -> None:
    # Turns by each angle (degrees, rounded) that a group has, counted by hand.
    turns = {
        "D7": {0: 1, 180: 7, 51: 2, 103: 2, 154: 2},
        "T": {0: 1, 180: 3, 120: 8},
        "O": {0: 1, 180: 9, 120: 8, 90: 6},
        "I": {0: 1, 180: 15, 120: 20, 72: 12, 144: 12},
    }
    for name, expected in turns.items():
        trace = symmetry_group(name).operators.diagonal(dim1=1, dim2=2).sum(1)
        angles = torch.acos(((trace - 1) / 2).clamp(-1, 1)).rad2deg().round().long().tolist()
        assert {angle: angles.count(angle) for angle in set(angles)} == expected
        least = min(angle for angle in expected if angle > 0)
        assert math.degrees(symmetry_group(name).least_angle_rad) == pytest.approx(least, abs=0.5)
    assert symmetry_group("C1").least_angle_rad == 2 * math.pi


@pytest.mark.relion
@pytest.mark.parametrize("name", ["C1", "C5", "C20", "D2", "D7", "T", "O", "I", "I1", "I3", "I4"])
def test_operators_are_relions(name: str, relion: Callable[..., str]) -> None:
    printed = relion("relion_refine", "--sym", name, "--print_symmetry_ops")
    number = r"-?\d+\.?\d*(?:e[-+]?\d+)?"
    blocks = re.findall(rf"R\(\d+\)=\s*((?:{number}\s+){{9}})", printed)
    theirs = torch.tensor([[float(n) for n in block.split()] for block in blocks]).double()
    theirs = theirs.view(-1, 3, 3)
    ours = symmetry_group(name).operators
    assert len(theirs) == len(ours)
    # Printed with five or more digits; the axes themselves are given with six to ten.
    assert distance_to_set(theirs, ours).max() < 2e-5
    assert distance_to_set(ours, theirs).max() < 2e-5


@pytest.mark.parametrize("name", ["c7", "d2", "t", "o", "i", "i4"])
def test_small_letters_name_the_same_group(name: str) -> None:
    assert symmetry_group(name).name == name.upper()
    assert torch.equal(symmetry_group(name).operators, symmetry_group(name.upper()).operators)


@pytest.mark.parametrize(
    "name", ["", "C", "C0", "C21", "C03", "D1", "D11", "I5", "TD", "OH", "C3V", "CS", "X", "D7 "]
)
def test_other_names_are_refused(name: str) -> None:
    expected = rf"symmetry '{name}': expected C1 to C20, D2 to D10, T, O, I .* name one"
    with pytest.raises(InputError, match=expected):
        symmetry_group(name)


@pytest.mark.parametrize("name", SOME)
def test_the_nearest_pose_of_the_same_image(name: str, generator: torch.Generator) -> None:
    group = symmetry_group(name)
    rotation, reference = exact_rotations(2 * 40, generator).view(2, 40, 3, 3)
    found = nearest_same_image(rotation, reference, group)
    images = same_images(rotation, group)
    assert images.shape == (40, group.order, 3, 3)
    distance = geodesic_distance_rad(images, reference[:, None].expand_as(images))
    torch.testing.assert_close(geodesic_distance_rad(found, reference), distance.amin(1))
    # Modulo the group a pose is no distance from its equals, whichever is chosen.
    chosen = torch.randint(group.order, (40,), generator=generator)
    equal = rotation @ group.operators[chosen]
    back = nearest_same_image(equal, rotation, group)
    assert geodesic_distance_rad(back, rotation).max() < 1e-6


@pytest.mark.parametrize("name", SOME)
def test_the_asymmetric_unit_holds_each_image_once(name: str, generator: torch.Generator) -> None:
    group = symmetry_group(name)
    rotation = exact_rotations(200, generator)
    reduced = into_asymmetric_unit(rotation, group)
    assert in_asymmetric_unit(reduced, group).all()
    equal = rotation @ group.operators[-1]
    torch.testing.assert_close(into_asymmetric_unit(equal, group), reduced)
    # Of a fine grid the unit holds one part in order, borders counted twice at most.
    grid = rotation_grid(8).double() @ rotation[0]
    share = float(in_asymmetric_unit(grid, group).double().mean()) * group.order
    assert share == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("name", "order"),
    [("C1", 1), ("C4", 4), ("C6", 2), ("D2", 4), ("D7", 2), ("T", 1), ("O", 24), ("I", 12)],
)
def test_cosets_of_the_operators_that_keep_a_grid(name: str, order: int) -> None:
    group = symmetry_group(name)
    kept = on_grid(group)
    assert kept.order == order
    assert distance_to_set(kept.operators, group.operators).max() < 1e-12
    representatives = coset_representatives(group, kept)
    assert len(representatives) == group.order // order
    assert torch.equal(representatives[0], torch.eye(3).double())
    products = (representatives[:, None] @ kept.operators).flatten(0, 1)
    assert distance_to_set(group.operators, products).max() < 1e-12


def test_a_turned_particle_has_the_conjugate_group(generator: torch.Generator) -> None:
    # V'(p) = V(Q' p) has the operators Q' S Q: the law behind finding axes in a map.
    group = symmetry_group("D3")
    points = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    particle = (points @ group.operators.mT).flatten(0, 1)
    turn = rotvec_to_rotation(torch.tensor([0.3, -0.7, 0.2]).double())
    turned = particle @ turn
    for operator in turn.mT @ group.operators @ turn:
        assert torch.cdist(turned @ operator.T, turned).amin(1).max() < 1e-6
