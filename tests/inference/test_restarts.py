"""A search that shows signs of collapse begins again, and says so."""

import io
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cryogimbal.fourier.shells import radius_grid
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.config_heads import HeadTrainingConfig
from cryogimbal.inference.config_posterior import PosteriorConfig
from cryogimbal.inference.config_stages import AutoDecodingConfig, BandConfig
from cryogimbal.inference.reconstruct import ReconstructionRun
from cryogimbal.inference.records import NoticeRecord, SwitchRecord
from cryogimbal.inference.restarts import MOST_RESTARTS, RestartingRun, config_of_attempt
from cryogimbal.inference.result_state import reconstruction_from_state, reconstruction_to_state
from cryogimbal.inference.start_and_result import Reconstruction, StartingPoint
from tests.small_particles import blob_density, simulate_spectra

TINY = ReconstructionConfig(
    shifts="none",
    noise="white",
    posterior=PosteriorConfig(
        max_starts=1,
        iterations=2,
        minibatch=40,
        n_side=1,
        mode_n_side=1,
        start_radius=3.0,
        end_radius=4.0,
    ),
    auto_decoding=AutoDecodingConfig(
        epochs=1, batch_size=40, hypotheses=1, held_epochs=0, band=BandConfig(end_radius=5.0)
    ),
    head_training=HeadTrainingConfig(epochs=0),
)


@pytest.fixture
def spectra(generator: torch.Generator) -> ParticleSpectra:
    return simulate_spectra(blob_density(16, generator), 40, generator, signal_to_noise=1.0)[0]


def begin_with(spectra: ParticleSpectra) -> Callable[[int], ReconstructionRun]:
    def begin(attempt: int) -> ReconstructionRun:
        return ReconstructionRun(spectra, config_of_attempt(TINY, attempt), StartingPoint())

    return begin


def maps_of_attempt(begin: Callable[[int], ReconstructionRun], attempt: int) -> list[Tensor]:
    """Every map that the run of an attempt is judged by."""
    maps: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "cryogimbal.inference.reconstruct.signs_in_map",
            lambda density: maps.append(density.clone()) or (),
        )
        run = begin(attempt)
        for record in run.records():
            if isinstance(record, SwitchRecord):
                run.signs_of_collapse()
        run.signs_of_collapse()
    return maps


def fail_at(patch: pytest.MonkeyPatch, maps: list[Tensor]) -> None:
    """Let these maps, and no others, be signs of collapse."""

    def signs(density: Tensor) -> tuple[str, ...]:
        return ("no map",) if any(torch.equal(density, one) for one in maps) else ()

    patch.setattr("cryogimbal.inference.reconstruct.signs_in_map", signs)


def finish(run: RestartingRun) -> tuple[list[Any], Reconstruction]:
    return list(run.records()), run.result()


def test_a_good_search_is_the_same_as_without_restarts(spectra: ParticleSpectra) -> None:
    begin = begin_with(spectra)
    plain = begin(0)
    expected = list(plain.records())
    records, found = finish(RestartingRun(begin))
    assert records == expected
    assert torch.equal(found.density.values, plain.result().density.values)
    assert (found.n_restarts, found.signs_of_collapse) == (0, ())


@pytest.mark.parametrize("at", [0, -1], ids=["where stages change", "at the end"])
def test_a_failed_search_begins_again_and_says_so(
    at: int, spectra: ParticleSpectra, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = begin_with(spectra)
    fail_at(monkeypatch, [maps_of_attempt(begin, 0)[at]])
    plain = begin(1)
    expected = list(plain.records())
    records, found = finish(RestartingRun(begin))
    (told,) = [place for place, one in enumerate(records) if isinstance(one, NoticeRecord)]
    assert "no map" in records[told].text
    assert f"restart 1 of at most {MOST_RESTARTS}" in records[told].text
    assert records[told + 1 :] == expected
    assert isinstance(records[told - 1], SwitchRecord) == (at == 0)
    assert torch.equal(found.density.values, plain.result().density.values)
    assert (found.n_restarts, found.signs_of_collapse) == (1, ())


@pytest.mark.parametrize("most", [0, 2])
def test_the_last_search_is_kept_with_its_signs(
    most: int, spectra: ParticleSpectra, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryogimbal.inference.reconstruct.signs_in_map", lambda _: ("no map",))
    records, found = finish(RestartingRun(begin_with(spectra), most_restarts=most))
    assert sum(isinstance(one, NoticeRecord) for one in records) == most
    assert (found.n_restarts, found.signs_of_collapse) == (most, ("no map",))
    again = reconstruction_from_state(reconstruction_to_state(found))
    assert (again.n_restarts, again.signs_of_collapse) == (most, ("no map",))


@pytest.mark.parametrize("at", [0, -1], ids=["where stages change", "at the end"])
def test_it_goes_on_bit_by_bit_from_anywhere(
    at: int, spectra: ParticleSpectra, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = begin_with(spectra)
    fail_at(monkeypatch, [maps_of_attempt(begin, 0)[at]])
    records, unbroken = finish(RestartingRun(begin))
    told = [isinstance(one, NoticeRecord) for one in records].index(True)
    for stop in (told, told + 1, told + 2):
        first = RestartingRun(begin)
        before = list(itertools.islice(first.records(), stop))
        buffer = io.BytesIO()
        torch.save(first.state_dict(), buffer)
        buffer.seek(0)
        second = RestartingRun(begin)
        second.load_state_dict(torch.load(buffer, weights_only=True))
        after, resumed = finish(second)
        assert before + after == records, f"stopped after record {stop}"
        assert torch.equal(resumed.density.values, unbroken.density.values)
        assert resumed.n_restarts == unbroken.n_restarts == 1


def test_every_attempt_has_a_seed_of_its_own() -> None:
    seeds = {config_of_attempt(TINY, attempt).seed for attempt in range(MOST_RESTARTS + 1)}
    assert len(seeds) == MOST_RESTARTS + 1
    assert config_of_attempt(TINY, 0) == TINY
    assert config_of_attempt(replace(TINY, seed=1), 1).seed not in seeds


@pytest.mark.parametrize("asked", ["O", "D2"])
def test_a_ball_is_a_sign_unless_the_group_is_cubic(asked: str, spectra: ParticleSpectra) -> None:
    density = torch.exp(-radius_grid(16, 3).float().square() / 20)
    config = replace(TINY, symmetry=asked, symmetry_from="start")
    run = ReconstructionRun(spectra, config, StartingPoint(density=density))
    assert bool(run.signs_of_collapse()) == (asked == "D2")
