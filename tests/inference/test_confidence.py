"""Widths: the ball of a known mixture, calibration on simulated particles, and what they ignore."""

import math

import pytest
import scipy.stats
import torch
from torch import Tensor

from cryogimbal.data.poses import PoseSet
from cryogimbal.evaluation.masks import soft_sphere_mask
from cryogimbal.evaluation.pose_error import pose_errors
from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.confidence import SAMPLES, measure_confidence, trusting
from cryogimbal.inference.cross_maps import cross_maps, image_noise
from cryogimbal.inference.gauss_newton import FIRST_DAMPING, gauss_newton
from cryogimbal.inference.image_fits import image_fits
from cryogimbal.inference.pose_mixture import (
    PoseMixture,
    information_root,
    mass_radius,
    weighted_quantile,
)
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.rotations import random_rotations, rotvec_to_rotation
from cryogimbal.symmetry import NO_SYMMETRY, same_images, symmetry_group
from tests.small_particles import PIXEL_SIZE_ANGSTROM, blob_density, simulate_spectra

N = 800
DRAWS = torch.randn(SAMPLES, 5, generator=torch.Generator().manual_seed(5))


def written_at(rotation: Tensor) -> Hypotheses:
    n = len(rotation)
    return Hypotheses(rotation=rotation, image=torch.arange(n), shift_box=torch.zeros(n, 2))


def mixture_at(rotation: Tensor, weight: Tensor, deviation: float) -> PoseMixture:
    """Modes of equal width in all directions, shifts known ten times better in their own unit."""
    n, modes = weight.shape
    spread = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.1, 0.1])) * deviation
    return PoseMixture(
        rotation=rotation,
        shift_box=torch.zeros(n, modes, 2),
        weight=weight,
        spread=spread.expand(n, modes, 5, 5).clone(),
    )


def test_a_narrow_mode_has_the_radius_of_a_normal_distribution(
    generator: torch.Generator,
) -> None:
    rotation = random_rotations(4, generator)
    mixture = mixture_at(rotation[:, None], torch.ones(4, 1), 0.02)
    turn, shift = mass_radius(mixture, written_at(rotation), DRAWS, 0.68, NO_SYMMETRY)
    expected = 0.02 * math.sqrt(scipy.stats.chi2(3).ppf(0.68))
    assert torch.allclose(turn, torch.full((4,), expected), rtol=0.1)
    expected = 0.002 * math.sqrt(scipy.stats.chi2(2).ppf(0.68))
    assert torch.allclose(shift, torch.full((4,), expected), rtol=0.1)


@pytest.mark.parametrize(("far_weight", "is_far"), [(0.2, False), (0.4, True)])
def test_a_far_mode_counts_once_it_holds_enough(
    far_weight: float, is_far: bool, generator: torch.Generator
) -> None:
    here = random_rotations(3, generator)
    far = rotvec_to_rotation(torch.tensor([0.0, 2.0, 0.0])) @ here
    weight = torch.tensor([[1 - far_weight, far_weight]]).repeat(3, 1)
    mixture = mixture_at(torch.stack([here, far], dim=1), weight, 0.01)
    turn, _ = mass_radius(mixture, written_at(here), DRAWS, 0.68, NO_SYMMETRY)
    assert bool((turn > 1.9).all() if is_far else (turn < 0.1).all())


def test_equal_poses_of_a_group_are_no_distance_apart(generator: torch.Generator) -> None:
    group = symmetry_group("D2")
    here = random_rotations(3, generator)
    mixture = mixture_at(same_images(here, group), torch.full((3, 4), 0.25), 0.01)
    turn, _ = mass_radius(mixture, written_at(here), DRAWS, 0.68, group)
    assert float(turn.max()) < 0.03


def test_a_weighted_quantile_is_that_of_repeated_values() -> None:
    values = torch.tensor([[3.0, 1.0, 2.0]])
    weight = torch.tensor([[0.25, 0.5, 0.25]])
    for share, expected in ((0.3, 1.0), (0.6, 2.0), (0.9, 3.0)):
        assert float(weighted_quantile(values, weight, share)) == expected


def test_without_noise_of_the_map_information_is_the_matrix_itself(
    generator: torch.Generator,
) -> None:
    root = torch.randn(4, 5, 5, generator=generator) * 30
    matrix = root @ root.mT
    found = information_root(matrix, torch.zeros_like(matrix))
    prior = torch.diag(torch.tensor([1.0, 1.0, 1.0, 16.0, 16.0]))
    torch.testing.assert_close(found @ found.mT, matrix + prior, rtol=1e-3, atol=0.5)


def test_noise_of_the_map_gives_the_sandwich(generator: torch.Generator) -> None:
    root = torch.randn(4, 3, 3, generator=generator) * 30
    matrix = root @ root.mT + 400 * torch.eye(3)
    noise = 0.3 * matrix + torch.diag(torch.tensor([20.0, 0.0, 50.0]))
    found = information_root(matrix, noise)
    full = matrix + torch.eye(3)
    expected = (full - noise) @ torch.linalg.inv(full) @ (full - noise)
    torch.testing.assert_close(found @ found.mT, expected, rtol=2e-3, atol=0.5)


@pytest.fixture(scope="module")
def refined() -> tuple[ParticleSpectra, PoseTable, PoseSet, Tensor]:
    """Images of two strengths with poses fitted to the map, the truth, and the mask."""
    generator, box = torch.Generator().manual_seed(4), 24
    density = blob_density(box, generator)
    shift = 0.03 * torch.randn(N, 2, generator=generator)
    spectra, rotation = simulate_spectra(
        density, N, generator, signal_to_noise=1.0, shift_box=shift
    )
    extra = torch.where(torch.arange(N) % 2 == 0, 0.0, 1.4)[:, None]
    more = torch.randn(spectra.rows.shape, generator=generator)
    spectra.rows.copy_((spectra.rows + extra * more) / (1 + extra.square()).sqrt())
    spectra.noise.scale.copy_((1 + extra[:, 0].square()).rsqrt())
    mask = soft_sphere_mask(box, 1.0, diameter_angstrom=0.8 * box, edge_angstrom=3.0)
    table = PoseTable.starting_at(rotation, shift)
    everything = torch.arange(N)
    for _ in range(4):
        joint = cross_maps(spectra, table, everything % 2, mask, NO_SYMMETRY).joint
        batch = spectra.batch(everything, box / 2)
        rows, _ = table.alive(everything)
        damping = torch.full((N,), FIRST_DAMPING)
        found = gauss_newton(joint, rows.hypotheses, batch, damping=damping, n_steps=3)
        table.update(everything, rows.slot, found.hypotheses, found.residual)
    width = box * PIXEL_SIZE_ANGSTROM
    return spectra, table, PoseSet(rotation=rotation, shift_angstrom=shift * width), mask


def test_widths_hold_two_thirds_of_the_errors(
    refined: tuple[ParticleSpectra, PoseTable, PoseSet, Tensor],
) -> None:
    spectra, table, truth, mask = refined
    found = measure_confidence(spectra, table, mask, NO_SYMMETRY, 0)
    assert found is not None
    assert found.shift_width_angstrom is not None
    shift = table.best_shift_box()
    assert shift is not None
    width = spectra.disc.box * spectra.pixel_size_angstrom
    poses = PoseSet(rotation=table.best(), shift_angstrom=shift * width)
    errors = pose_errors(poses, truth)
    pairs = (
        (found.width_deg, errors.rotation_error_deg),
        (found.shift_width_angstrom, errors.shift_error_angstrom),
    )
    for widths, error in pairs:
        inside = (error < widths).double()
        # 200 images tell a share to 3.3 %.
        for quartile in widths.argsort().tensor_split(4):
            assert 0.68 - 0.12 < float(inside[quartile].mean()) < 0.68 + 0.12
        ranks = torch.stack([one.double().argsort().argsort().double() for one in (widths, error)])
        assert float(torch.corrcoef(ranks)[0, 1]) > 0.3


def test_widths_do_not_depend_on_the_run_of_batches(
    refined: tuple[ParticleSpectra, PoseTable, PoseSet, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    spectra, table, _, mask = refined
    whole = measure_confidence(spectra, table, mask, NO_SYMMETRY, 0)
    monkeypatch.setattr("cryogimbal.inference.confidence.IMAGES_AT_ONCE", 77)
    parts = measure_confidence(spectra, table, mask, NO_SYMMETRY, 0)
    assert whole is not None
    assert parts is not None
    torch.testing.assert_close(parts.width_deg, whole.width_deg, rtol=1e-3, atol=1e-3)


def test_noise_and_map_error_together_are_what_is_left_of_images(
    refined: tuple[ParticleSpectra, PoseTable, PoseSet, Tensor],
) -> None:
    spectra, table, _, mask = refined
    half = torch.arange(N) % 2
    judge = cross_maps(spectra, table, half, mask, NO_SYMMETRY).halves[1]
    index = (half == 0).nonzero()[:, 0]
    fits = image_fits(spectra, index, table, judge.decoder, spectra.disc.radius)
    noise = image_noise(fits, judge.error, spectra.noise)
    # The images' noise is 1; at its poses a fit leaves a little less of it.
    assert float((noise[0, 2:] - 1).abs().max()) < 0.15


def test_without_shifts_there_is_no_width_of_shifts_and_little_is_refused(
    refined: tuple[ParticleSpectra, PoseTable, PoseSet, Tensor],
) -> None:
    spectra, table, _, mask = refined
    some = torch.arange(60)
    centred = PoseTable.starting_at(table.best()[some])
    found = measure_confidence(spectra.subset(some), centred, mask, NO_SYMMETRY, 0)
    assert found is not None
    assert found.shift_width_angstrom is None
    assert bool(torch.isfinite(found.width_deg).all())
    few = PoseTable.starting_at(table.best()[:5])
    assert measure_confidence(spectra.subset(some[:5]), few, mask, NO_SYMMETRY, 0) is None


def test_scores_weigh_images_only_where_noise_is_estimated(
    refined: tuple[ParticleSpectra, PoseTable, PoseSet, Tensor],
) -> None:
    spectra, table, _, mask = refined
    found = measure_confidence(spectra, table, mask, NO_SYMMETRY, 0)
    assert found is not None
    assert torch.equal(trusting(spectra.noise, found).trust, torch.ones(N))
    object.__setattr__(spectra.noise, "estimated", True)
    assert torch.equal(trusting(spectra.noise, found).trust, found.score)
