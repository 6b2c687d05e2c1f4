"""Winner takes all: values, choice and gradient."""

import pytest
import torch

from cryogimbal.data.poses import PoseHypotheses
from cryogimbal.fourier.disc import make_disc
from cryogimbal.imaging.model import ImageModel, ParticleBatch
from cryogimbal.imaging.volume import GridGeometry, HartleyVolume
from cryogimbal.inference.loss import (
    Residual,
    best_head,
    compared,
    loss_of,
    modulus_residual,
    squared_residual,
)
from cryogimbal.rotations import random_rotations, six_d_to_rotation


def test_residuals_are_what_their_names_say(generator: torch.Generator) -> None:
    predicted = torch.randn(2, 3, 5, generator=generator)
    observed = torch.randn(2, 5, generator=generator)
    for image in range(2):
        for head in range(3):
            difference = predicted[image, head] - observed[image]
            squared = squared_residual(predicted, observed)[image, head]
            modulus = modulus_residual(predicted, observed)[image, head]
            assert torch.isclose(squared, (difference**2).sum() / 5)
            assert torch.isclose(modulus, difference.abs().sum() / 5)


def test_rendering_the_winner_alone_has_the_gradient_of_the_minimum(
    generator: torch.Generator,
) -> None:
    """The minimum over heads passes its gradient to one head: the cheap way is exact."""
    disc = make_disc(12, 4.0)
    volume = HartleyVolume(GridGeometry(box=12, radius=4.0, oversampling=1))
    volume.randomise(generator, amplitude=1.0)
    model = ImageModel(decoder=volume)
    batch = ParticleBatch(
        disc=disc,
        observed=torch.randn(5, disc.n_coefficients, generator=generator),
        ctf=torch.rand(5, disc.n_coefficients, generator=generator),
        index=torch.arange(5),
    )
    six_d = torch.randn(5, 4, 6, generator=generator, requires_grad=True)

    everything = PoseHypotheses(rotation=six_d_to_rotation(six_d))
    losses = loss_of(model, everything, batch, squared_residual)
    leaves = (six_d, volume.mantissa, volume.exponent)
    expected = torch.autograd.grad(losses.min(dim=1).values.sum(), leaves)

    again = PoseHypotheses(rotation=six_d_to_rotation(six_d))
    head, winner = best_head(losses.detach(), again)
    assert torch.equal(head, losses.argmin(dim=1))
    alone = loss_of(model, winner, batch, squared_residual)
    found = torch.autograd.grad(alone.sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_best_head_picks_rotation_and_shift_of_the_same_head(generator: torch.Generator) -> None:
    losses = torch.tensor([[3.0, 1.0, 2.0], [0.5, 4.0, 4.0]])
    rotation = random_rotations(6, generator).view(2, 3, 3, 3)
    shift = torch.randn(2, 3, 2, generator=generator)
    head, chosen = best_head(losses, PoseHypotheses(rotation=rotation, shift_box=shift))
    assert head.tolist() == [1, 0]
    assert chosen.shift_box is not None
    assert torch.equal(chosen.rotation[:, 0], torch.stack([rotation[0, 1], rotation[1, 0]]))
    assert torch.equal(chosen.shift_box[:, 0], torch.stack([shift[0, 1], shift[1, 0]]))


@pytest.mark.parametrize("residual", [squared_residual, modulus_residual])
@pytest.mark.parametrize("shifted", [False, True])
def test_comparing_hypotheses_gives_their_losses_without_a_gradient(
    residual: Residual, shifted: bool, box: int, generator: torch.Generator
) -> None:
    disc = make_disc(box, 4.0)
    volume = HartleyVolume(GridGeometry(box=box, radius=4.0, oversampling=1))
    volume.randomise(generator, amplitude=1.0)
    model = ImageModel(decoder=volume.frozen())
    batch = ParticleBatch(
        disc=disc,
        observed=torch.randn(5, disc.n_coefficients, generator=generator),
        ctf=torch.rand(5, disc.n_coefficients, generator=generator),
        index=torch.arange(5),
    )
    rotation = random_rotations(5 * 6, generator).unflatten(0, (5, 6)).requires_grad_()
    shift = torch.randn(5, 6, 2, generator=generator) if shifted else None
    hypotheses = PoseHypotheses(rotation=rotation, shift_box=shift)
    found = compared(model, hypotheses, batch, residual)
    assert not found.requires_grad
    assert torch.allclose(found, loss_of(model, hypotheses, batch, residual), rtol=1e-4)
