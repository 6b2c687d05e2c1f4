"""Scores: bands, invariances, and junk made from formulas against the particles among it."""

import pytest
import torch
from torch import Tensor

from cryogimbal.evaluation.detection import roc_area
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.image_fits import ImageFits, image_fits, in_stack_order, joined_fits
from cryogimbal.inference.particle_scores import (
    junk_features,
    particle_scores,
    residual_bands,
    robust_deviations,
)
from cryogimbal.inference.pose_table import PoseTable
from tests.small_particles import blob_density, simulate_spectra

N = 400
N_JUNK = 40


@pytest.mark.parametrize("n_shells", [3, 5, 8, 9, 16, 17, 33, 65])
def test_bands_are_every_shell_once(n_shells: int) -> None:
    shells = list(range(n_shells))
    assert [shell for band in residual_bands(n_shells) for shell in shells[band]] == shells


def fits_of_noise(n: int, generator: torch.Generator) -> ImageFits:
    """Of images that their predictions explain: what is left is noise."""
    per_shell = torch.tensor([1, 8, 12, 16, 32, 28, 40, 40, 48])
    power = 100 + 50 * torch.rand(n, generator=generator)
    chi = [torch.randn(n, int(m), generator=generator).square().mean(1) for m in per_shell]
    return ImageFits(
        index=torch.arange(n),
        strength=power + power.sqrt() * torch.randn(n, generator=generator),
        power=power,
        left=torch.stack(chi, dim=1),
        transfer=torch.ones(n, len(per_shell)),
        per_shell=per_shell,
    )


def test_particles_have_features_of_deviation_one_and_high_scores(
    generator: torch.Generator,
) -> None:
    fits = fits_of_noise(4000, generator)
    features = junk_features(fits, torch.ones(4000))
    torch.testing.assert_close(features[:, 1:].std(0), torch.ones(2), rtol=0.1, atol=0.0)
    assert float(features[:, 0].max()) == 0.0
    scores = particle_scores(fits, torch.ones(4000))
    assert float(scores.median()) > 0.99
    assert float((scores < 0.5).float().mean()) < 0.01


def test_scores_do_not_depend_on_the_scales_in_force(generator: torch.Generator) -> None:
    fits = fits_of_noise(300, generator)
    scale = 0.5 + torch.rand(300, generator=generator)
    scaled = ImageFits(
        index=fits.index,
        strength=fits.strength * scale,
        power=fits.power * scale.square(),
        left=fits.left,
        transfer=fits.transfer,
        per_shell=fits.per_shell,
    )
    torch.testing.assert_close(
        particle_scores(scaled, scale), particle_scores(fits, torch.ones(300))
    )


def test_deviations_are_those_of_the_usual_image(generator: torch.Generator) -> None:
    values = 3 + 2 * torch.randn(5000, generator=generator)
    values[:300] = 1000.0
    found = robust_deviations(values, 0.0)[300:]
    assert abs(float(found.mean())) < 0.2
    assert abs(float(found.std()) - 1) < 0.2
    assert float(robust_deviations(torch.ones(5), 0.5).abs().max()) == 0.0


def with_junk(
    kind: str, box: int, generator: torch.Generator
) -> tuple[ParticleSpectra, PreparedGrid, PoseTable]:
    """A stack whose first images are junk, in rows, with the poses a search would be happy with."""
    density = blob_density(box, generator)
    spectra, rotation = simulate_spectra(density, N, generator, signal_to_noise=0.5)
    clean, _ = simulate_spectra(density, N, torch.Generator().manual_seed(7), signal_to_noise=0.5)
    noise = torch.randn(N_JUNK, spectra.rows.shape[1], generator=generator)
    junk: dict[str, Tensor] = {
        "noise": noise,
        # Beyond an edge there is no noise: half of the power is gone, and a step is there instead.
        "edge": noise * 0.5**0.5 + _low(spectra, 2.0, 4.0, generator),
        "contaminant": spectra.rows[:N_JUNK] + _low(spectra, 5.0, 6.0, generator),
        "pair": spectra.rows[:N_JUNK] * 0.5 + clean.rows[:N_JUNK],
    }
    spectra.rows[:N_JUNK] = junk[kind]
    grid = GridGeometry(box=box, radius=box / 2, oversampling=2).grid_of_density(density)
    prepared = PreparedGrid.of(grid, 2)
    everything = torch.arange(N)
    table = PoseTable.starting_at(rotation)
    fits = image_fits(spectra, everything[N_JUNK:], table, prepared, box / 2)
    # The density in the units of the noise, as a run would have it.
    scale = float(fits.strength.sum() / fits.power.sum())
    return spectra, PreparedGrid.of(grid * scale, 2), table


def _low(
    spectra: ParticleSpectra, amplitude: float, radius: float, generator: torch.Generator
) -> Tensor:
    rows = torch.randn(N_JUNK, spectra.rows.shape[1], generator=generator) * amplitude
    return rows * (spectra.disc.radius_per_coefficient < radius)


@pytest.mark.parametrize(
    ("kind", "least"), [("noise", 0.95), ("edge", 0.9), ("contaminant", 0.9), ("pair", 0.9)]
)
def test_junk_is_told_from_particles(
    kind: str, least: float, box: int, generator: torch.Generator
) -> None:
    spectra, prepared, table = with_junk(kind, box, generator)
    fits = image_fits(spectra, torch.arange(N), table, prepared, box / 2)
    scores = particle_scores(fits, spectra.noise.scale)
    is_junk = torch.arange(N) < N_JUNK
    assert roc_area(-scores, is_junk) > least


def test_fits_are_put_in_the_order_of_the_stack(generator: torch.Generator) -> None:
    whole = fits_of_noise(6, generator)

    def part(index: Tensor) -> ImageFits:
        return ImageFits(
            index=index,
            strength=whole.strength[index],
            power=whole.power[index],
            left=whole.left[index],
            transfer=whole.transfer[index],
            per_shell=whole.per_shell,
        )

    found = in_stack_order(
        joined_fits([part(torch.tensor([1, 4])), part(torch.tensor([5, 0, 3, 2]))])
    )
    assert torch.equal(found.strength, whole.strength)
    assert torch.equal(found.left, whole.left)
