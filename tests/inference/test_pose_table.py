"""A table of hypotheses: weights are a posterior, losers and doubles go, others stay untouched."""

import math

import pytest
import torch

from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.inference.modes import Modes
from cryogimbal.inference.pose_table import DROP_BELOW, SAME_DEG, PoseTable
from cryogimbal.rotations import random_rotations, rotvec_to_rotation


def a_table(n: int, heads: int, generator: torch.Generator) -> PoseTable:
    modes = Modes(
        rotation=random_rotations(n * heads, generator).view(n, heads, 3, 3),
        residual=4 * torch.rand(n, heads, generator=generator),
        shift_box=0.1 * torch.randn(n, heads, 2, generator=generator),
    )
    return PoseTable.of_modes(modes)


def poses_like(table: PoseTable, image: torch.Tensor, rotation: torch.Tensor) -> Hypotheses:
    assert table.shift_box is not None
    shift = torch.arange(2.0 * len(rotation)).view(-1, 2)
    return Hypotheses(rotation=rotation, image=image, shift_box=shift)


def test_weights_are_the_posterior_of_the_hypotheses(generator: torch.Generator) -> None:
    rotation = random_rotations(6, generator).view(2, 3, 3, 3)
    residual = torch.tensor([[10.0, 12.0, math.inf], [7.0, 7.0, 7.0]])
    table = PoseTable.of_modes(Modes(rotation=rotation, residual=residual))
    odds = table.weight[0, 0] / table.weight[0, 1]
    assert float(odds) == pytest.approx(math.exp(1.0), rel=1e-5)
    assert float(table.weight[0, 2]) == 0
    torch.testing.assert_close(table.weight[1], torch.full((3,), 1 / 3))
    assert torch.equal(table.best()[0], rotation[0, 0])


def test_alive_hypotheses_come_with_their_image_and_share(generator: torch.Generator) -> None:
    table = a_table(4, 3, generator)
    table.weight = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.0, 1.0], [0.5, 0.0, 0.5], [1.0, 0, 0]])
    index = torch.tensor([2, 0, 1])
    rows, share = table.alive(index)
    assert rows.hypotheses.image.tolist() == [0, 0, 1, 1, 2]
    assert rows.slot.tolist() == [0, 2, 0, 1, 2]
    torch.testing.assert_close(share, torch.tensor([0.5, 0.5, 0.9, 0.1, 1.0]))
    assert torch.equal(rows.hypotheses.rotation[1], table.rotation[2, 2])
    rows, share = table.alive(index, least_weight=0.2)
    assert rows.hypotheses.image.tolist() == [0, 0, 1, 2]
    torch.testing.assert_close(share, torch.tensor([0.5, 0.5, 1.0, 1.0]))


def test_update_enters_poses_weighs_them_and_drops_losers(generator: torch.Generator) -> None:
    table = a_table(5, 2, generator)
    before, weight = table.rotation.clone(), table.weight.clone()
    index = torch.tensor([3, 1])
    rows, _ = table.alive(index)
    turned = random_rotations(4, generator)
    residual = torch.tensor([5.0, 6.0, 50.0, 5.0])
    poses = poses_like(table, rows.hypotheses.image, turned)
    moved = table.update(index, rows.slot, poses, residual)
    assert table.shift_box is not None
    assert table.shift_box[3, 1].tolist() == [2.0, 3.0]
    assert torch.equal(table.rotation[3, 1], turned[1])
    assert torch.equal(table.rotation[1, 0], turned[2])
    odds = table.weight[3, 0] / table.weight[3, 1]
    assert float(odds) == pytest.approx(math.exp(0.5), rel=1e-5)
    assert math.exp(-45 / 2) < DROP_BELOW
    assert table.weight[1].tolist() == [0.0, 1.0]
    assert float(moved[1]) == pytest.approx(float(weight[1, 0]), abs=1e-6)
    others = torch.tensor([0, 2, 4])
    assert torch.equal(table.rotation[others], before[others])
    assert torch.equal(table.weight[others], weight[others])


@pytest.mark.parametrize(("angle_deg", "alive"), [(0.5 * SAME_DEG, 1), (2 * SAME_DEG, 2)])
def test_hypotheses_that_meet_become_one(
    angle_deg: float, alive: int, generator: torch.Generator
) -> None:
    table = a_table(1, 2, generator)
    index = torch.tensor([0])
    rows, _ = table.alive(index)
    one = random_rotations(1, generator)
    near = rotvec_to_rotation(torch.tensor([[0.0, math.radians(angle_deg), 0.0]])) @ one
    poses = poses_like(table, rows.hypotheses.image, torch.cat([near, one]))
    table.update(index, rows.slot, poses, torch.tensor([3.0, 2.5]))
    assert int((table.weight > 0).sum()) == alive
    assert torch.equal(table.best()[0], one[0])
    assert float(table.weight.sum()) == pytest.approx(1.0)


def test_equal_hypotheses_leave_one(generator: torch.Generator) -> None:
    table = a_table(1, 2, generator)
    rows, _ = table.alive(torch.tensor([0]))
    same = random_rotations(1, generator).expand(2, 3, 3)
    poses = poses_like(table, rows.hypotheses.image, same)
    table.update(torch.tensor([0]), rows.slot, poses, torch.tensor([2.0, 2.0]))
    assert sorted(table.weight[0].tolist()) == [0.0, 1.0]


def test_state_round_trip(generator: torch.Generator) -> None:
    table, other = a_table(4, 3, generator), a_table(4, 3, generator)
    other.load_state_dict(table.state_dict())
    assert torch.equal(other.rotation, table.rotation)
    assert torch.equal(other.weight, table.weight)
    assert table.shift_box is not None
    assert other.shift_box is not None
    assert torch.equal(other.shift_box, table.shift_box)


def test_challengers_stand_beside_the_best_pose_and_weigh_next_to_nothing(
    generator: torch.Generator,
) -> None:
    table = a_table(3, 3, generator)
    index = torch.tensor([2, 0])
    best, shift = table.best(), table.best_shift_box()
    modes = Modes(
        rotation=random_rotations(2, generator)[:, None],
        residual=torch.tensor([[5.0], [math.inf]]),
        shift_box=torch.ones(2, 1, 2),
    )
    table.challenge(index, modes)
    assert torch.equal(table.best(), best)
    assert shift is not None
    assert table.shift_box is not None
    assert torch.equal(table.best_shift_box(), shift)
    assert torch.equal(table.rotation[2, 1], modes.rotation[0, 0])
    assert table.shift_box[2, 1].tolist() == [1.0, 1.0]
    assert (table.weight[index] > 0).sum(1).tolist() == [2, 1]
    torch.testing.assert_close(table.weight.sum(1), torch.ones(3))
