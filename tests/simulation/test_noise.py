"""The noise has the spectrum that was asked for, and a standard deviation of 1."""

import math

import numpy as np
import pytest
import torch

from cryogimbal.simulation.noise import colour, noise_power, white_noise

PIXEL_ANGSTROM = 5.36
LENGTH_ANGSTROM = 40.0


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_the_periodogram_follows_the_formula(box: int, floor: float) -> None:
    n = 600
    power = noise_power(box, PIXEL_ANGSTROM, LENGTH_ANGSTROM, floor)
    images = colour(white_noise(list(range(n)), box), power).double().numpy()
    # Another transform, whose zero frequency comes first, and frequencies in 1/Å of its own.
    found = np.square(np.abs(np.fft.fft2(images, norm="ortho"))).mean(axis=0)
    axis = np.fft.fftfreq(box, PIXEL_ANGSTROM)
    squared = axis[:, None] ** 2 + axis**2
    expected = 1 / (1 + squared * LENGTH_ANGSTROM**2) + floor
    expected /= expected.mean()
    # |F|^2 of n images is known to 1/sqrt(n), sqrt(2/n) where F is real.
    deviation = (found / expected - 1) * math.sqrt(n / 2)
    assert np.abs(deviation).max() < 5
    assert found.mean() == pytest.approx(1.0, rel=5 * math.sqrt(2 / images.size) * 3)


def test_power_has_mean_1_and_falls_to_half_at_its_length(box: int) -> None:
    power = noise_power(box, LENGTH_ANGSTROM / box, LENGTH_ANGSTROM, 0.0).double()
    assert float(power.mean()) == pytest.approx(1.0, rel=1e-6)
    # One cycle per box is a period of the length here.
    centre = box // 2
    assert float(power[centre, centre + 1] / power[centre, centre]) == pytest.approx(0.5, rel=1e-6)
    # Without a length (or with a floor that drowns it) the spectrum is flat.
    flat = torch.ones(box, box)
    torch.testing.assert_close(noise_power(box, 2.0, 0.0, 0.0), flat)


def test_an_image_depends_on_its_own_seed_alone(box: int) -> None:
    together = white_noise([5, 6, 7], box)
    assert torch.equal(white_noise([7], box)[0], together[2])
    assert not torch.equal(together[0], together[1])
