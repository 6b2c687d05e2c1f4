"""Pose steps: Adam per row in the tangent space of SO(3)."""

import pytest
import torch

from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.rotations import geodesic_distance_rad, random_rotations, rotvec_to_rotation


def test_rows_outside_the_batch_stay_bit_by_bit(generator: torch.Generator) -> None:
    table = PoseTable.starting_at(random_rotations(6, generator))
    before = {name: value.clone() for name, value in table.state_dict().items()}
    chosen, others = torch.tensor([1, 4]), torch.tensor([0, 2, 3, 5])
    table.adam_step(chosen, torch.randn(2, 3, generator=generator), rate=0.1)
    for name, value in table.state_dict().items():
        assert torch.equal(value[others], before[name][others]), name
        assert not torch.equal(value[chosen], before[name][chosen]), name


def test_steps_are_those_of_torch_adam_on_the_rotation_vector(generator: torch.Generator) -> None:
    """About a fixed axis, re-centring changes nothing: angles add up as torch's Adam has them."""
    table = PoseTable.starting_at(torch.eye(3)[None])
    angle = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    adam = torch.optim.Adam([angle], lr=0.02)
    for gradient in torch.randn(20, generator=generator, dtype=torch.float64):
        angle.grad = gradient[None].clone()
        adam.step()
        rotvec_gradient = torch.zeros(1, 3)
        rotvec_gradient[0, 2] = float(gradient)
        table.adam_step(torch.tensor([0]), rotvec_gradient, rate=0.02)
    expected = rotvec_to_rotation(torch.tensor([[0.0, 0.0, float(angle.detach())]]))
    assert float(geodesic_distance_rad(table.rotation, expected)) < 1e-5


def test_rotations_stay_orthonormal_over_many_steps(generator: torch.Generator) -> None:
    table = PoseTable.starting_at(random_rotations(10, generator))
    everything = torch.arange(10)
    for _ in range(300):
        table.adam_step(everything, torch.randn(10, 3, generator=generator), rate=0.05)
    identity = table.rotation.transpose(-1, -2) @ table.rotation
    assert torch.allclose(identity, torch.eye(3).expand(10, 3, 3), atol=1e-5)


def test_descent_finds_the_minimum_of_a_distance(generator: torch.Generator) -> None:
    target = random_rotations(8, generator)
    offset = rotvec_to_rotation(0.2 * torch.randn(8, 3, generator=generator))
    table = PoseTable.starting_at(offset @ target)
    for step in range(200):
        rotvec = torch.zeros(8, 3, requires_grad=True)
        moved = rotvec_to_rotation(rotvec) @ table.rotation
        (gradient,) = torch.autograd.grad((moved - target).square().sum(), rotvec)
        table.adam_step(torch.arange(8), gradient, rate=0.03 * 0.97**step)
    assert float(geodesic_distance_rad(table.rotation, target).max()) < 0.01


def test_state_round_trip(generator: torch.Generator) -> None:
    table = PoseTable.starting_at(random_rotations(3, generator))
    table.adam_step(torch.arange(3), torch.randn(3, 3, generator=generator), rate=0.1)
    other = PoseTable.starting_at(torch.eye(3).repeat(3, 1, 1))
    other.load_state_dict(table.state_dict())
    assert torch.equal(other.rotation, table.rotation)
    assert torch.equal(other.n_steps, table.n_steps)


@pytest.mark.parametrize("n", [1, 5])
def test_the_table_leaves_its_starting_poses_alone(n: int, generator: torch.Generator) -> None:
    start = random_rotations(n, generator)
    kept = start.clone()
    PoseTable.starting_at(start).adam_step(torch.arange(n), torch.ones(n, 3), rate=0.1)
    assert torch.equal(start, kept)
