"""Noise is measured as it was made, and divided out of rows and CTFs alike."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cryogimbal.fourier.disc import make_disc
from cryogimbal.fourier.shells import radius_grid
from cryogimbal.fourier.transforms import hartley_to_image
from cryogimbal.imaging.backgrounds import background_mask, background_window
from cryogimbal.imaging.noise import (
    BackgroundSpectrum,
    NoiseModel,
    excess_of_power,
    shell_mean,
)
from tests.small_particles import blob_density, simulate_spectra


def coloured_noise(box: int, n: int, generator: torch.Generator) -> Tensor:
    """Images of noise of variance ``4 / (1 + (0.3 k)^2) + 0.5``, k in cycles per box."""
    radius = radius_grid(box, 2).float()
    variance = 4 / (1 + (0.3 * radius).square()) + 0.5
    spectrum = variance.sqrt() * torch.randn(n, box, box, generator=generator)
    return hartley_to_image(spectrum)


@pytest.mark.parametrize("diameter_box", [0.5, None])
def test_the_background_tells_the_spectrum_of_each_group(
    diameter_box: float | None, box: int, generator: torch.Generator
) -> None:
    side = 2 * box
    images = coloured_noise(side, 800, generator)
    group = torch.arange(800) % 2
    images[group == 1] *= 2.0
    diameter = None if diameter_box is None else diameter_box * side
    window = background_window(background_mask(side, 1.0, diameter))
    seen = BackgroundSpectrum(window, 3)
    for index in torch.arange(800).split(300):
        seen.add(images[index], group[index])
    found = seen.variance(side // 2)
    shells = torch.arange(2, side // 2)
    expected = 4 / (1 + (0.3 * shells).square()) + 0.5
    # The window, and the corners most, see every frequency through a blur of some shells.
    tolerance = 0.12 if diameter_box else 0.35
    torch.testing.assert_close(found[0, 2:], expected, rtol=tolerance, atol=0.0)
    torch.testing.assert_close(found[1, 2:], 4 * expected, rtol=tolerance, atol=0.0)
    torch.testing.assert_close(found[2], found[:2].mean(0), rtol=1e-4, atol=0.0)
    assert bool((found[:, 0] == found[:, 1]).all())


def test_batches_come_with_noise_of_variance_one(box: int, generator: torch.Generator) -> None:
    spectra, _ = simulate_spectra(blob_density(box, generator), 30, generator, signal_to_noise=1.0)
    group = torch.arange(30) % 2
    noise = NoiseModel.white(30, box, group)
    noise.enter(0.5 + torch.rand(2, box // 2 + 1, generator=generator))
    noise.scale.copy_(0.5 + torch.rand(30, generator=generator))
    plain, index = spectra.batch(torch.arange(30), 6.0), torch.tensor([4, 7, 1])
    object.__setattr__(spectra, "noise", noise)
    found = spectra.batch(index, 6.0)
    for row, particle in enumerate(index.tolist()):
        deviation = noise.variance[group[particle]][found.disc.shell_per_coefficient].sqrt()
        torch.testing.assert_close(found.observed[row] * deviation, plain.observed[particle])
        expected = plain.ctf[particle] * noise.scale[particle]
        torch.testing.assert_close(found.ctf[row] * deviation, expected)


def test_a_subset_follows_later_changes_of_the_spectrum_and_keeps_its_scales(
    generator: torch.Generator,
) -> None:
    noise = NoiseModel.white(5, 16, torch.tensor([0, 1, 1, 0, 1]))
    noise.scale.copy_(torch.arange(1.0, 6.0))
    few = noise.subset(torch.tensor([4, 0]))
    variance = 1 + torch.rand(2, 9, generator=generator)
    noise.enter(variance)
    assert torch.equal(few.variance, variance)
    assert few.scale.tolist() == [5.0, 1.0]
    assert few.group.tolist() == [1, 0]
    apart = noise.copy()
    apart.enter(2 * variance)
    assert torch.equal(noise.variance, variance)


def test_images_that_stand_out_count_for_less(box: int, generator: torch.Generator) -> None:
    power = 1 + 0.1 * torch.randn(300, generator=generator)
    power[7], power[200] = 5.0, 40.0
    excess = excess_of_power(power)
    usual = power.median()
    assert float(excess[7]) == pytest.approx(float(5 / usual))
    assert float(excess[200]) == pytest.approx(float(40 / usual))
    assert int((excess > 1).sum()) == 2
    group = torch.zeros(300, dtype=torch.long)
    noise = replace(NoiseModel.white(300, box, group), excess=excess)
    weight = noise.weight(torch.tensor([200, 1]), make_disc(box, 4.0))
    torch.testing.assert_close(weight[0], excess[200].rsqrt().expand(weight.shape[1]))
    assert bool((weight[1] == 1).all())
    few = noise.subset(torch.tensor([7]))
    assert few.excess is not None
    assert torch.equal(few.excess, excess[7:8])


def test_shell_means_are_those_of_the_shells(box: int, generator: torch.Generator) -> None:
    disc = make_disc(box, 5.0)
    rows = torch.randn(3, disc.n_coefficients, generator=generator)
    found = shell_mean(rows, disc)
    for shell in range(6):
        inside = disc.shell_per_coefficient == shell
        torch.testing.assert_close(found[:, shell], rows[:, inside].mean(1))
