"""Adam per row in the tangent space of SO(3)."""

import pytest
import torch
from torch import Tensor

from cryogimbal.inference.loss import squared_residual
from cryogimbal.inference.pose_steps import AdamSteps
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.rotations import geodesic_distance_rad, random_rotations, rotvec_to_rotation


def table_and_steps(rotation: Tensor) -> tuple[PoseTable, AdamSteps]:
    table = PoseTable.starting_at(rotation)
    return table, AdamSteps(table, 1, squared_residual)


def test_rows_outside_the_batch_stay_bit_by_bit(generator: torch.Generator) -> None:
    table, steps = table_and_steps(random_rotations(6, generator))

    def state() -> dict[str, Tensor]:
        return {"rotation": table.rotation, **steps.state_dict()}

    before = {name: value.clone() for name, value in state().items()}
    chosen, others = torch.tensor([1, 4]), torch.tensor([0, 2, 3, 5])
    steps.step(table, chosen, torch.randn(2, 3, generator=generator), rate=0.1)
    for name, value in state().items():
        assert torch.equal(value[others], before[name][others]), name
        assert not torch.equal(value[chosen], before[name][chosen]), name


def test_steps_are_those_of_torch_adam_on_the_rotation_vector(generator: torch.Generator) -> None:
    """About a fixed axis, re-centring changes nothing: angles add up as torch's Adam has them."""
    table, steps = table_and_steps(torch.eye(3)[None])
    angle = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    adam = torch.optim.Adam([angle], lr=0.02)
    for gradient in torch.randn(20, generator=generator, dtype=torch.float64):
        angle.grad = gradient[None].clone()
        adam.step()
        rotvec_gradient = torch.zeros(1, 3)
        rotvec_gradient[0, 2] = float(gradient)
        steps.step(table, torch.tensor([0]), rotvec_gradient, rate=0.02)
    expected = rotvec_to_rotation(torch.tensor([[0.0, 0.0, float(angle.detach())]]))
    assert float(geodesic_distance_rad(table.best(), expected)) < 1e-5


def test_rotations_stay_orthonormal_over_many_steps(generator: torch.Generator) -> None:
    table, steps = table_and_steps(random_rotations(10, generator))
    for _ in range(300):
        steps.step(table, torch.arange(10), torch.randn(10, 3, generator=generator), rate=0.05)
    identity = table.best().transpose(-1, -2) @ table.best()
    assert torch.allclose(identity, torch.eye(3).expand(10, 3, 3), atol=1e-5)


def test_descent_finds_the_minimum_of_a_distance(generator: torch.Generator) -> None:
    target = random_rotations(8, generator)
    offset = rotvec_to_rotation(0.2 * torch.randn(8, 3, generator=generator))
    table, steps = table_and_steps(offset @ target)
    for step in range(200):
        rotvec = torch.zeros(8, 3, requires_grad=True)
        moved = rotvec_to_rotation(rotvec) @ table.best()
        (gradient,) = torch.autograd.grad((moved - target).square().sum(), rotvec)
        steps.step(table, torch.arange(8), gradient, rate=0.03 * 0.97**step)
    assert float(geodesic_distance_rad(table.best(), target).max()) < 0.01


def test_state_round_trip(generator: torch.Generator) -> None:
    table, steps = table_and_steps(random_rotations(3, generator))
    steps.step(table, torch.arange(3), torch.randn(3, 3, generator=generator), rate=0.1)
    other, other_steps = table_and_steps(torch.eye(3).repeat(3, 1, 1))
    other.load_state_dict(table.state_dict())
    other_steps.load_state_dict(steps.state_dict())
    gradient = torch.randn(3, 3, generator=generator)
    for one, mover in ((table, steps), (other, other_steps)):
        mover.step(one, torch.arange(3), gradient, rate=0.1)
    assert torch.equal(other.rotation, table.rotation)


@pytest.mark.parametrize("n", [1, 5])
def test_the_table_leaves_its_starting_poses_alone(n: int, generator: torch.Generator) -> None:
    start = random_rotations(n, generator)
    kept = start.clone()
    table, steps = table_and_steps(start)
    steps.step(table, torch.arange(n), torch.ones(n, 3), rate=0.1)
    assert torch.equal(start, kept)
