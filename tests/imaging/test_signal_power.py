"""How much signal there is behind images, and which of them hold most of it."""

from dataclasses import replace

import pytest
import torch

from cryogimbal.imaging.signal_power import expected_signal, power_above_noise
from cryogimbal.imaging.slices import central_slices
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.config_posterior import PosteriorConfig
from cryogimbal.inference.grid_search import scaled_to_images
from cryogimbal.rotations import random_rotations
from tests.small_particles import blob_density, simulate_spectra


def test_the_power_of_slices_is_read_off_their_images(generator: torch.Generator) -> None:
    density = blob_density(16, generator)
    spectra, _ = simulate_spectra(density, 4000, generator, signal_to_noise=2.0)
    disc = spectra.disc.truncate(5.0)
    found = power_above_noise(spectra, disc)
    # Other views of the same density, without CTF and noise, in the scale of the images.
    geometry = GridGeometry(box=16, radius=5.0, oversampling=2)
    grid = geometry.grid_of_density(scaled_to_images(spectra, density, PosteriorConfig()))
    slices = central_slices(grid, random_rotations(2000, generator), disc, 2)
    # Within a shell, coefficients count by how much of them the CTF lets through.
    weight = spectra.batch(torch.arange(4000), 5.0).ctf.square().mean(0)
    for shell in range(1, 5):
        inside = disc.shell_per_coefficient == shell
        power = slices[:, inside].square().mean(0)
        expected = (weight[inside] * power).sum() / weight[inside].sum()
        assert float(found[inside].std(correction=0)) < 1e-3 * float(found[inside][0])
        assert torch.isclose(found[inside][0], expected, rtol=0.1)


@pytest.mark.parametrize("box", [16, 17])
def test_the_signal_expected_of_images_is_on_average_what_stands_out_of_their_noise(
    box: int, generator: torch.Generator
) -> None:
    spectra, _ = simulate_spectra(
        blob_density(box, generator), 4000, generator, signal_to_noise=2.0
    )
    batch = spectra.batch(torch.arange(4000), 5.0)
    above = (batch.observed[:, 1:].square() - 1).sum(1) / 2
    found = expected_signal(spectra, 5.0)
    assert torch.isclose(found.mean(), above.mean(), rtol=0.05)


def test_the_signal_expected_of_an_image_grows_with_the_square_of_its_scale(
    generator: torch.Generator,
) -> None:
    spectra, _ = simulate_spectra(blob_density(16, generator), 500, generator, signal_to_noise=2.0)
    alike = replace(spectra, ctf=spectra.ctf[torch.zeros(500, dtype=torch.long)])
    scale = torch.linspace(0.5, 2.0, 500)
    scaled = replace(alike, noise=replace(spectra.noise, scale=scale))
    found = expected_signal(scaled, 5.0)
    assert torch.allclose(found / found[0], (scale / scale[0]).square(), rtol=1e-4)
