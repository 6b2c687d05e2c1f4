"""What true poses leave of the images is the noise; scales come out as they went in."""

import torch
from torch import Tensor

from cryogimbal.imaging.model import ImageModel
from cryogimbal.imaging.noise import NoiseModel
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.calibration import SCALE_RANGE, recalibrate, shrunken_scales
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.rotations import random_rotations
from tests.small_particles import blob_density, simulate_spectra

N = 600


def stack(
    box: int, true_noise: NoiseModel, generator: torch.Generator
) -> tuple[ParticleSpectra, PreparedGrid, PoseTable]:
    """Images with the given noise and scales, whose spectra are taken as white; density; truth."""
    density = 0.6 * blob_density(box, generator)
    spectra, rotation = simulate_spectra(density, N, generator, signal_to_noise=1.0)
    geometry = GridGeometry(box=box, radius=box / 2, oversampling=2)
    prepared = PreparedGrid.of(geometry.grid_of_density(density), 2)
    table = PoseTable.starting_at(rotation)
    everything = torch.arange(N)
    batch = spectra.batch(everything, box / 2)
    clean = ImageModel(decoder=prepared).predict(table.propose(everything), batch)[:, 0]
    noise = torch.randn(clean.shape, generator=generator)
    deviation = true_noise.weight(everything, batch.disc).reciprocal()
    spectra.rows.copy_(true_noise.scale[:, None] * clean + deviation * noise)
    group = true_noise.group
    object.__setattr__(spectra, "noise", NoiseModel.white(N, box, group))
    return spectra, prepared, table


def test_noise_and_scales_come_out_as_they_went_in(box: int, generator: torch.Generator) -> None:
    truth = NoiseModel.white(N, box, torch.arange(N) % 2)
    truth.enter(0.5 + 2 * torch.rand(2, box // 2 + 1, generator=generator))
    truth.scale.copy_((1 + 0.2 * torch.randn(N, generator=generator)).clamp(0.6, 1.6))
    truth.scale.div_(truth.scale.median())
    spectra, prepared, table = stack(box, truth, generator)
    for _ in range(4):
        recalibrate(spectra, table, prepared, box / 2)
    noise = spectra.noise
    n_shells = box // 2
    # A few hundred images tell the variance of a shell of four coefficients to 5 %.
    torch.testing.assert_close(
        noise.variance[:, 1:n_shells], truth.variance[:, 1:n_shells], rtol=0.15, atol=0.0
    )
    error = (noise.scale - truth.scale).square().mean().sqrt()
    assert error < 0.8 * (truth.scale - 1).square().mean().sqrt()


def test_shells_past_the_band_limit_are_left_alone(box: int, generator: torch.Generator) -> None:
    truth = NoiseModel.white(N, box, torch.zeros(N, dtype=torch.long))
    truth.enter(torch.full((1, box // 2 + 1), 2.0))
    spectra, prepared, table = stack(box, truth, generator)
    recalibrate(spectra, table, prepared, 4.0)
    assert bool((spectra.noise.variance[:, 5:] == 1).all())
    assert bool((spectra.noise.variance[:, 2:5] > 1.5).all())


def test_equal_particles_keep_equal_scales_though_their_images_differ(
    generator: torch.Generator,
) -> None:
    power = 50 + 50 * torch.rand(2000, generator=generator)
    said = 1 + torch.randn(2000, generator=generator) / power.sqrt()
    found = shrunken_scales(torch.ones(2000), said * power, power)
    assert float((found - 1).abs().mean()) < 0.3 * float((said - 1).abs().mean())


def test_junk_and_wrong_poses_cannot_rule_their_own_weight(generator: torch.Generator) -> None:
    power = torch.full((500,), 400.0)
    strength = power * (1 + 0.3 * torch.randn(500, generator=generator))
    strength[:20], strength[20:25] = -400.0, 40_000.0
    found = shrunken_scales(torch.ones(500), strength, power)
    assert float(found.min()) == SCALE_RANGE[0]
    assert float(found.max()) == SCALE_RANGE[1]


def test_a_useless_map_leaves_scales_at_one(generator: torch.Generator) -> None:
    nothing = torch.zeros(40)
    assert torch.equal(shrunken_scales(torch.ones(40), nothing, nothing), torch.ones(40))


def test_scales_of_a_wrong_table_are_bounded(box: int, generator: torch.Generator) -> None:
    truth = NoiseModel.white(N, box, torch.zeros(N, dtype=torch.long))
    spectra, prepared, _ = stack(box, truth, generator)
    anywhere: Tensor = random_rotations(N, generator)
    recalibrate(spectra, PoseTable.starting_at(anywhere), prepared, 6.0)
    assert float(spectra.noise.scale.min()) >= SCALE_RANGE[0]
    assert float(spectra.noise.scale.max()) <= SCALE_RANGE[1]
