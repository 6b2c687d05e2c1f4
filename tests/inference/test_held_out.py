"""A half-map is judged by images that it has not seen."""

import pytest
import torch
from torch import Tensor

from cryogimbal.evaluation.masks import soft_sphere_mask
from cryogimbal.imaging.backprojection import SufficientStatistics
from cryogimbal.imaging.map_likelihood import fit_per_shell
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.gathered_halves import GatheredHalves
from cryogimbal.rotations import random_rotations, rotvec_to_rotation
from tests.small_particles import PIXEL_SIZE_ANGSTROM, blob_density, simulate_spectra

N_IMAGES = 300


def gathered(spectra: ParticleSpectra, rotation: Tensor, radius: float) -> GatheredHalves:
    geometry = GridGeometry(box=spectra.disc.box, radius=radius, oversampling=2)
    halves = []
    for first in (0, 1):
        index = torch.arange(first, len(rotation), 2)
        statistics = SufficientStatistics.zeros(geometry)
        statistics.add_images(spectra.batch(index, radius), rotation[index], 2)
        halves.append(statistics)
    return GatheredHalves.of(halves, geometry, PIXEL_SIZE_ANGSTROM)


def ball(box: int) -> Tensor:
    return soft_sphere_mask(box, 1.0, diameter_angstrom=0.6 * box, edge_angstrom=2.0)


@pytest.mark.parametrize("box", [16, 17])
def test_what_a_map_of_noise_has_learnt_is_of_no_use_for_other_images(
    box: int, generator: torch.Generator
) -> None:
    empty = blob_density(box, generator)
    spectra, _ = simulate_spectra(empty, N_IMAGES, generator, signal_to_noise=0.0)
    halves = gathered(spectra, random_rotations(N_IMAGES, generator), box / 2 - 1)
    density = halves.densities[0] * ball(box)
    seen, unseen = (fit_per_shell(density, half, halves.geometry) for half in halves.halves)
    assert seen.log_likelihood() > 0
    assert unseen.log_likelihood() < 0
    # Once filtered nothing is left of it: at most what one number a shell can learn by chance.
    found = halves.held_out(ball(box), float(N_IMAGES), 1)
    assert found.nats_per_image * N_IMAGES < box / 2
    assert found.nats_per_image * N_IMAGES < 0.1 * seen.log_likelihood()


@pytest.mark.parametrize("box", [16, 17])
def test_better_poses_predict_unseen_images_better(box: int, generator: torch.Generator) -> None:
    spectra, truth = simulate_spectra(
        blob_density(box, generator), N_IMAGES, generator, signal_to_noise=0.5
    )
    likelihoods = []
    for deviation in (0.0, 0.1, 0.3, 3.0):
        turn = deviation * torch.randn(N_IMAGES, 3, generator=generator)
        halves = gathered(spectra, rotvec_to_rotation(turn) @ truth, box / 2 - 1)
        likelihoods.append(halves.held_out(ball(box), float(N_IMAGES), 1).nats_per_image)
    assert likelihoods == sorted(likelihoods, reverse=True)
    assert likelihoods[0] > 1.1 * likelihoods[2] > 0


def test_images_that_count_at_several_poses_are_still_one_each(generator: torch.Generator) -> None:
    spectra, truth = simulate_spectra(
        blob_density(16, generator), N_IMAGES, generator, signal_to_noise=0.5
    )
    once = gathered(spectra, truth, 7.0)
    doubled = GatheredHalves.of(
        [half.scaled(2.0) for half in once.halves], once.geometry, once.voxel_size_angstrom
    )
    one, two = (
        once.held_out(ball(16), float(N_IMAGES), 1),
        doubled.held_out(ball(16), float(N_IMAGES), 2),
    )
    assert two.nats_per_image == pytest.approx(one.nats_per_image, rel=1e-4)
    assert two.standard_error == pytest.approx(one.standard_error, rel=1e-4)
