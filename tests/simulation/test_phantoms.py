"""The package's own phantoms: symmetry, size, determinism."""

import functools
import math

import pytest
import torch
from scipy.spatial import KDTree
from torch import Tensor

from cryogimbal.errors import InputError
from cryogimbal.fourier.transforms import density_to_hartley
from cryogimbal.rotations import rotvec_to_rotation
from cryogimbal.simulation.phantoms import SYMMETRIC, is_phantom
from cryogimbal.simulation.phantoms import phantom as make_phantom
from cryogimbal.simulation.points import default_envelope_b_factor, points_to_density
from cryogimbal.symmetry import symmetry_group

SIDE_ANGSTROM = 160.0
phantom = functools.cache(make_phantom)
NAMES = ("asymmetric", "c2", "c3", "c7", "c20", "d2", "d7", "t", "o", "i")


def distance_to_nearest(points: Tensor, others: Tensor) -> Tensor:
    distance, _ = KDTree(others.numpy()).query(points.numpy())
    return torch.from_numpy(distance)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "asymmetric"])
def test_a_symmetric_phantom_turned_by_an_operator_is_itself(name: str) -> None:
    position = phantom(name, SIDE_ANGSTROM).position_angstrom
    operators = symmetry_group(name).operators
    # The two generators come first.
    for operator in operators[1:3]:
        turned = position @ operator.T
        assert distance_to_nearest(turned, position).max() < 1e-9
        assert distance_to_nearest(position, turned).max() < 1e-9


@pytest.mark.parametrize(("name", "larger"), [("d2", "o"), ("t", "o"), ("c3", "t"), ("d5", "d10")])
def test_a_phantom_has_no_more_than_its_symmetry(name: str, larger: str) -> None:
    position = phantom(name, SIDE_ANGSTROM).position_angstrom
    own = symmetry_group(name).operators
    for operator in symmetry_group(larger).operators:
        if (own - operator).abs().amax((1, 2)).min() > 0.01:
            turned = position @ operator.T
            assert distance_to_nearest(turned, position).median() > 0.8


def test_cyclic_phantom_has_no_higher_symmetry() -> None:
    model = phantom("c3", SIDE_ANGSTROM)
    for vector in ([0.0, 0.0, math.pi / 3], [math.pi, 0.0, 0.0], [0.0, math.pi, 0.0]):
        turn = rotvec_to_rotation(torch.tensor(vector, dtype=torch.float64))
        turned = model.position_angstrom @ turn.T
        assert distance_to_nearest(turned, model.position_angstrom).median() > 1.0


def test_a_two_fold_density_is_its_own_half_turn() -> None:
    density = points_to_density(phantom("c2", SIDE_ANGSTROM), 33, SIDE_ANGSTROM / 33, 200.0).values
    assert (density - density.flip(1, 2)).abs().max() < 1e-3 * density.max()


def test_the_asymmetric_phantom_differs_from_its_turns_and_its_mirror_image() -> None:
    box, voxel = 33, SIDE_ANGSTROM / 33
    density = points_to_density(phantom("asymmetric", SIDE_ANGSTROM), box, voxel, 1000.0).values
    copies = [density.flip(axes) for axes in ([1, 2], [0, 2], [0, 1], [0, 1, 2], [0])]
    copies += [density.transpose(0, 1).flip(2), density.transpose(1, 2).flip(0)]
    for copy in copies:
        # 1.0 for a copy that coincides; at about 15 Å all compact things are alike to some degree.
        assert torch.corrcoef(torch.stack([density.flatten(), copy.flatten()]))[0, 1] < 0.9


@pytest.mark.parametrize("name", NAMES)
def test_a_phantom_fills_its_part_of_the_box_around_its_centre(name: str) -> None:
    model = phantom(name, SIDE_ANGSTROM)
    assert model.radius_angstrom == pytest.approx(0.58 * SIDE_ANGSTROM / 2)
    assert model.position_angstrom.mean(0).norm() < 1e-9 * SIDE_ANGSTROM
    # Compact, not a shell or a line: spread along every axis.
    assert bool((model.position_angstrom.std(0) > 0.1 * SIDE_ANGSTROM / 2).all())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_residues_keep_their_distance(seed: int) -> None:
    points = phantom("asymmetric", SIDE_ANGSTROM, seed).position_angstrom
    distance = torch.cdist(points, points).fill_diagonal_(torch.inf)
    assert distance.amin(-1).median() > 0.01 * SIDE_ANGSTROM / 2
    assert len(points) > 800


@pytest.mark.parametrize("name", ["asymmetric", "c5"])
def test_every_seed_is_one_structure_that_scales_with_the_box(name: str) -> None:
    first, again = (make_phantom(name, SIDE_ANGSTROM, 3) for _ in range(2))
    assert torch.equal(first.position_angstrom, again.position_angstrom)
    double = phantom(name, 2 * SIDE_ANGSTROM, 3)
    torch.testing.assert_close(double.position_angstrom, 2 * first.position_angstrom)
    torch.testing.assert_close(double.width_angstrom2, 4 * first.width_angstrom2)
    other = phantom(name, SIDE_ANGSTROM, 4)
    assert other.position_angstrom.shape != first.position_angstrom.shape or not torch.equal(
        other.position_angstrom, first.position_angstrom
    )


def test_a_phantom_has_detail_up_to_nyquist() -> None:
    box, voxel = 64, SIDE_ANGSTROM / 64
    model = phantom("asymmetric", SIDE_ANGSTROM)
    density = points_to_density(model, box, voxel, default_envelope_b_factor(voxel)).values
    power = density_to_hartley(density).square()
    axis = (torch.arange(box) - box // 2).double()
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    inner, outer = power[(radius > 15) & (radius < 17)], power[(radius > 27) & (radius < 29)]
    assert outer.mean() > 0.02 * inner.mean()


def test_names() -> None:
    assert all(is_phantom(f"c{n}") for n in range(2, 21))
    assert all(is_phantom(f"d{n}") for n in range(2, 11))
    assert all(is_phantom(name) for name in SYMMETRIC)
    assert not any(is_phantom(name) for name in ("c1", "c21", "c03", "d1", "i3", "", "Asymmetric"))
    with pytest.raises(InputError, match=r"'c21': expected asymmetric, c2 to c20, d2 to d10"):
        phantom("c21", SIDE_ANGSTROM)
