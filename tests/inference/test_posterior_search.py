"""How many random starts the search makes, and what it says of them."""

from dataclasses import replace

import pytest
import torch

from cryogimbal.errors import InputError
from cryogimbal.inference.config_posterior import PosteriorConfig
from cryogimbal.inference.posterior_search import PosteriorSearch
from tests.small_particles import blob_density, simulate_spectra

CONFIG = PosteriorConfig(
    max_starts=4,
    iterations=3,
    minibatch=40,
    n_side=2,
    start_radius=3.0,
    end_radius=5.0,
)


def search(config: PosteriorConfig, generator: torch.Generator) -> PosteriorSearch:
    spectra, _ = simulate_spectra(blob_density(16, generator), 60, generator, signal_to_noise=1.0)
    return PosteriorSearch(spectra, torch.ones(16, 16, 16), config, seed=0)


def test_starts_go_on_until_the_two_best_agree(generator: torch.Generator) -> None:
    lenient = search(replace(CONFIG, agreement=0.999), generator)
    records = list(lenient.records())
    assert len(records) == 2 * 3
    assert "the two best of 2 random starts agree" in lenient.reason()
    assert records[-1].epoch + 1 == records[-1].n_epochs


def test_starts_that_never_agree_are_told(generator: torch.Generator) -> None:
    strict = search(replace(CONFIG, agreement=1e-9), generator)
    records = list(strict.records())
    assert len(records) == 4 * 3
    assert "no two of 4 random starts agree" in strict.reason()


def test_the_start_that_explains_most_goes_on(generator: torch.Generator) -> None:
    strict = search(replace(CONFIG, agreement=1e-9), generator)
    list(strict.records())
    finished = strict.state_dict()["finished"]
    best = min(finished, key=lambda start: start["loss"])
    assert torch.equal(strict.densities(), best["densities"])
    assert best["explained"] == max(start["explained"] for start in finished)
    assert len({start["loss"] for start in finished}) == 4


def test_a_single_start_needs_no_agreement(generator: torch.Generator) -> None:
    single = search(replace(CONFIG, max_starts=1), generator)
    assert len(list(single.records())) == 3
    assert "the only random start" in single.reason()


def test_images_of_noise_take_a_start_to_its_largest_band_limit(
    generator: torch.Generator,
) -> None:
    spectra, _ = simulate_spectra(blob_density(16, generator), 60, generator, signal_to_noise=1e-6)
    config = replace(CONFIG, max_starts=2, agreement=1e-9, largest_radius=6.5)
    noise = PosteriorSearch(spectra, torch.ones(16, 16, 16), config, seed=0)
    records = list(noise.records())
    assert len(records) > 2 * CONFIG.iterations
    assert max(record.radius for record in records) == noise.radius == 6.5
    # Each start begins where the first began.
    assert [record.radius for record in records].count(CONFIG.start_radius) == 2
    assert all(record.epoch < record.n_epochs for record in records)


def test_tiles_of_the_expectation_do_not_show(generator: torch.Generator) -> None:
    spectra, _ = simulate_spectra(blob_density(16, generator), 60, generator, signal_to_noise=1.0)
    config = replace(CONFIG, max_starts=1, n_side=2)
    losses = []
    for mebibytes in (1, 512):
        stage = PosteriorSearch(
            spectra, torch.ones(16, 16, 16), replace(config, memory_mib=mebibytes), seed=0
        )
        losses.append([record.loss for record in stage.records()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_budget_too_small_for_one_image_is_refused_with_the_number(
    generator: torch.Generator,
) -> None:
    spectra, _ = simulate_spectra(blob_density(16, generator), 60, generator, signal_to_noise=1.0)
    config = replace(CONFIG, n_side=8, memory_mib=1)
    stage = PosteriorSearch(spectra, torch.ones(16, 16, 16), config, seed=0)
    with pytest.raises(InputError, match=r"memory-mib: expected at least \d+ MiB for one image"):
        next(stage.records())
