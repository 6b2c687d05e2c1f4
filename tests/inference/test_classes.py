"""Several structures in one stack: told apart, sorted, reconstructed, and stopped anywhere."""

import io
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from cryogimbal.data.optics import CtfParameters
from cryogimbal.errors import InputError
from cryogimbal.imaging.noise import NoiseModel
from cryogimbal.imaging.slices import central_slices
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.class_runs import ClassRuns
from cryogimbal.inference.class_sorting import ClassSorting, best_poses, classes_kept
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.config_posterior import PosteriorConfig
from cryogimbal.inference.memory_budget import MemoryBudget
from cryogimbal.inference.mode_search import ModeSearch
from cryogimbal.inference.posterior import (
    Displacements,
    balancing_log_prior,
    expectation,
    log_likelihoods,
)
from cryogimbal.inference.posterior_search import PoseSpace, PosteriorSearch
from cryogimbal.inference.records import EpochRecord, NoticeRecord, Record
from cryogimbal.rotations import random_rotations
from tests.inference.test_half_sets import assert_same_state
from tests.inference.test_reconstruct import TINY, TINY_POSTERIOR
from tests.small_particles import blob_density, simulate_spectra

N_OF_EACH = 200
SEARCH = ModeSearch(radius=5.0, n_side=2, n_modes=2)


def mixed(first: ParticleSpectra, second: ParticleSpectra) -> ParticleSpectra:
    """The images of both, one after the other."""
    ctf = {
        field.name: torch.cat([getattr(first.ctf, field.name), getattr(second.ctf, field.name)])
        for field in fields(CtfParameters)
    }
    rows = torch.cat([first.rows, second.rows])
    group = torch.zeros(len(rows), dtype=torch.long)
    noise = NoiseModel.white(len(rows), first.disc.box, group)
    return replace(first, rows=rows, ctf=CtfParameters(**ctf), noise=noise)


def two_structures(
    box: int, signal_to_noise: float, *, shift_sd_box: float = 0.0
) -> tuple[ParticleSpectra, Tensor]:
    """Images of two particles, and the densities."""
    generator = torch.Generator().manual_seed(11)
    densities = torch.stack([blob_density(box, generator, n_blobs=n) for n in (4, 12)])
    parts = [
        simulate_spectra(
            density,
            N_OF_EACH,
            generator,
            signal_to_noise=signal_to_noise,
            shift_box=shift_sd_box * torch.randn(N_OF_EACH, 2, generator=generator),
        )[0]
        for density in densities
    ]
    return mixed(parts[0], parts[1]), densities


def share_of_right(number: Tensor) -> float:
    """Share of images in the right one of two classes, which have no names."""
    right = float(
        ((number == number.min()) == (torch.arange(len(number)) < N_OF_EACH)).float().mean()
    )
    return max(right, 1 - right)


@pytest.mark.parametrize("temperature", [1.0, 7.0])
def test_the_balancing_prior_makes_classes_equally_full(
    temperature: float, generator: torch.Generator
) -> None:
    scores = torch.randn(60, 3, 20, generator=generator)
    scores += 4 * temperature * torch.tensor([0.0, 1.0, -1.0])[:, None]
    prior = balancing_log_prior(scores.flatten(1), 3, temperature)
    posterior = torch.softmax(scores.flatten(1) / temperature + prior, dim=1)
    full = posterior.view(60, 3, 20).sum(2).mean(0)
    torch.testing.assert_close(full, torch.full((3,), 1 / 3), atol=1e-3, rtol=0)
    # One number for each class.
    assert torch.equal(prior.view(3, 20), prior.view(3, 20)[:, :1].expand(3, 20))


@pytest.mark.parametrize("shifted", [False, True])
def test_the_prior_adds_to_the_expectation(shifted: bool, generator: torch.Generator) -> None:
    density = blob_density(12, generator)
    spectra, _ = simulate_spectra(density, 5, generator, signal_to_noise=1.0)
    batch = spectra.batch(torch.arange(5), 4.0)
    grid = GridGeometry(box=12, radius=6.0, oversampling=2).grid_of_density(density)
    slices = central_slices(grid, random_rotations(7, generator), batch.disc, 2)
    prior = torch.randn(7, generator=generator)
    none = Displacements(shift_box=torch.zeros(1, 2), log_prior=torch.zeros(len(batch.index), 1))
    displacements = none if shifted else None
    found = expectation(
        batch, slices, temperature=3.0, log_prior=prior, displacements=displacements
    )
    posterior = torch.softmax(log_likelihoods(batch, slices) / 3 + prior, dim=1)
    expected = posterior.T @ (batch.ctf * batch.observed)
    torch.testing.assert_close(found.weighted_data, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.weight, posterior.T @ batch.ctf.square(), rtol=1e-4, atol=1e-5)


def test_classes_begin_apart_and_go_on_bit_by_bit() -> None:
    spectra, _ = two_structures(16, 1.0)

    def begin() -> PosteriorSearch:
        config = replace(TINY_POSTERIOR, max_starts=1)
        return PosteriorSearch(
            spectra, torch.ones(16, 16, 16), config, seed=3, space=PoseSpace(n_classes=3)
        )

    unbroken = begin()
    start = unbroken.densities()
    assert start.shape == (3, 16, 16, 16)
    assert (start[0] - start[1]).std() > 0.5 * start[0].std()
    records = list(unbroken.records())
    broken = begin()
    seen = [next(broken.records())]
    again = begin()
    again.load_state_dict(broken.state_dict())
    assert seen + list(again.records()) == records
    assert torch.equal(again.densities(), unbroken.densities())


def test_classes_that_hold_too_little_are_given_up() -> None:
    # Class 1 explains none, class 3 one image best; the others are of equal size without them.
    left = torch.tensor([[0.0, 9.0, 1.0, 9.0]] * 10 + [[1.0, 9.0, 0.0, 9.0]] * 10)
    left[19, 3] = -1.0
    assert classes_kept(left, 2).tolist() == [0, 2]
    assert classes_kept(left, 1).tolist() == [0, 2, 3]
    assert len(classes_kept(left, 100)) == 1


@pytest.mark.parametrize(("box", "shift_sd_box"), [(24, 0.0), (21, 0.0), (24, 0.03)])
def test_images_go_to_the_structure_that_they_show(box: int, shift_sd_box: float) -> None:
    spectra, densities = two_structures(box, 0.5, shift_sd_box=shift_sd_box)
    search = replace(SEARCH, shift_range_box=3 * shift_sd_box)
    budget = MemoryBudget.of_mebibytes(200)
    strong = torch.stack([scaled(density, spectra) for density in densities])
    stage = ClassSorting(spectra, strong, torch.ones(box, box, box), search, budget)
    records = [record for record in stage.records() if isinstance(record, EpochRecord)]
    number, found = stage.sorted_classes()
    assert share_of_right(number) >= 0.95
    sizes = torch.bincount(number)
    assert sizes[0] >= sizes[1]
    assert records[-1].class_sizes is not None
    assert sorted(records[-1].class_sizes) == sorted(sizes.tolist())
    assert records[0].radius == SEARCH.radius < records[-1].radius
    assert found.shape == densities.shape


def scaled(density: Tensor, spectra: ParticleSpectra) -> Tensor:
    """The density at which images have, on average, the power that they have above the noise."""
    box = density.shape[-1]
    part = slice(0, N_OF_EACH)
    batch = spectra.batch(torch.arange(len(spectra))[part], box / 2)
    grid = GridGeometry(box=box, radius=box / 2, oversampling=2).grid_of_density(density)
    rotation = random_rotations(100, torch.Generator().manual_seed(0))
    slices = central_slices(grid, rotation, batch.disc, 2)
    power = (batch.ctf.square().mean(0) * slices.square().mean(0)).sum()
    return density * ((batch.observed.square().mean(0) - 1).sum() / power).sqrt()


def test_poses_that_are_moved_up_fit_at_the_higher_limit() -> None:
    spectra, densities = two_structures(24, 0.5)
    density = scaled(densities[0], spectra)
    part = spectra.subset(torch.arange(40))
    budget = MemoryBudget.of_mebibytes(200)
    modes = best_poses(part, density, SEARCH, 10.0, budget)
    assert modes.rotation.shape == (40, 1, 3, 3)
    batch = part.batch(torch.arange(40), 10.0)
    grid = GridGeometry(box=24, radius=10.0, oversampling=2).grid_of_density(density)
    slices = central_slices(grid, modes.rotation[:, 0], batch.disc, 2)
    left = (batch.ctf * slices - batch.observed).square().sum(1)
    torch.testing.assert_close(modes.residual[:, 0], left, rtol=1e-3, atol=1e-2)


def test_fewer_classes_than_asked_for_are_told() -> None:
    spectra, densities = two_structures(16, 1.0)
    # The third is nowhere near any image.
    strong = torch.stack([scaled(density, spectra) for density in densities])
    three = torch.cat([strong, 20 * strong[:1].flip(1)])
    stage = ClassSorting(
        spectra, three, torch.ones(16, 16, 16), SEARCH, MemoryBudget.of_mebibytes(200)
    )
    notices = [record.text for record in stage.records() if isinstance(record, NoticeRecord)]
    assert len(notices) == 1
    assert "1 of 3 classes had fewer than 100 images" in notices[0]
    assert len(stage.sorted_classes()[1]) == 2


CLASSES = replace(
    TINY,
    n_classes=2,
    posterior=PosteriorConfig(
        max_starts=2,
        iterations=25,
        minibatch=200,
        n_side=2,
        mode_n_side=2,
        start_radius=3.0,
        end_radius=5.0,
    ),
)


@pytest.fixture(scope="module")
def unbroken() -> tuple[ParticleSpectra, list[Record], ClassRuns]:
    """Images of two structures, and a run of two classes that nobody has disturbed."""
    spectra, _ = two_structures(16, 4.0)
    runs = ClassRuns(spectra, CLASSES)
    return spectra, list(runs.records()), runs


def test_two_structures_are_separated_from_nothing(
    unbroken: tuple[ParticleSpectra, list[Record], ClassRuns],
) -> None:
    _, records, runs = unbroken
    classes = runs.result()
    assert share_of_right(classes.number) >= 0.95
    assert [len(found.poses) for found in classes.found] == torch.bincount(classes.number)[
        1:
    ].tolist()
    poses = classes.poses()
    for number, found in enumerate(classes.found, start=1):
        assert torch.equal(poses[classes.index(number)].rotation, found.poses.rotation)
    numbers = [record.class_number or 0 for record in records]
    assert set(numbers) == {0, 1, 2}
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("share", [0.8, 0.97])
def test_runs_of_classes_go_on_bit_by_bit(
    share: float, unbroken: tuple[ParticleSpectra, list[Record], ClassRuns]
) -> None:
    spectra, expected, end = unbroken
    first = ClassRuns(spectra, CLASSES)
    records = first.records()
    seen = [next(records) for _ in range(round(share * len(expected)))]
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    again = ClassRuns(spectra, CLASSES)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    seen += again.records()
    assert seen == expected
    assert_same_state(again.state_dict(), end.state_dict())


def test_a_result_before_the_end_is_refused() -> None:
    spectra, _ = two_structures(16, 1.0)
    runs = ClassRuns(spectra, CLASSES)
    with pytest.raises(RuntimeError, match="class 1 is still being searched"):
        runs.result()


def test_what_classes_cannot_be_found_from_is_refused() -> None:
    with pytest.raises(InputError, match=r"--n-classes: expected at least 1, found 0"):
        ReconstructionConfig(n_classes=0)
    with pytest.raises(InputError, match=r"--half-sets: expected shared beside --n-classes 2"):
        ReconstructionConfig(n_classes=2, half_sets="independent")
    with pytest.raises(InputError, match=r"--start: expected posterior beside --n-classes 2"):
        ReconstructionConfig(n_classes=2, start="encoder")
