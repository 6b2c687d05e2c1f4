"""Heads learn the poses of a known map from rendered images alone."""

import copy
from typing import Any

import pytest
import torch

from cryogimbal.errors import InputError
from cryogimbal.inference.config_heads import HeadTrainingConfig, RowEncoderConfig
from cryogimbal.inference.head_training import (
    HeadTraining,
    new_row_encoder,
    sine_of_half_angle,
)
from cryogimbal.inference.records import EpochRecord
from cryogimbal.inference.row_encoder import RowEncoder, propose_poses
from cryogimbal.rotations import geodesic_distance_deg, geodesic_distance_rad, random_rotations
from tests.inference.taught import TRAINING, taught
from tests.small_particles import blob_density, simulate_spectra

SHORT = HeadTrainingConfig(epochs=2, images_per_epoch=160, batch_size=64)
TINY = RowEncoderConfig(n_heads=3, widths=(16,), radius=4.0)


def new_stage(seed: int, config: HeadTrainingConfig = SHORT) -> HeadTraining:
    generator = torch.Generator().manual_seed(5)
    density = blob_density(16, generator)
    spectra, _ = simulate_spectra(density, 30, generator, signal_to_noise=1.0)
    encoder = new_row_encoder(TINY, spectra, density, seed)
    return HeadTraining(spectra, encoder, density, config, seed)


def best_head_median_deg(encoder: RowEncoder) -> float:
    found = taught()
    index = torch.arange(len(found.unseen))
    batch = found.unseen.batch(index, encoder.disc.radius)
    proposed = propose_poses(encoder, batch).rotation
    angle = geodesic_distance_deg(proposed, found.truth[:, None].expand_as(proposed))
    return float(angle.amin(dim=1).median())


def assert_same(found: Any, expected: Any) -> None:
    """Bit by bit, whatever is nested in it."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected or found != found  # NaN before the first epoch ends


def test_what_is_learned_from_rendered_images_holds_for_images_never_seen() -> None:
    found = taught()
    # Random rotations, as many as there are hypotheses, come that near by chance.
    before, after = best_head_median_deg(found.untaught), best_head_median_deg(found.encoder)
    assert before > 20
    assert after < 10


def test_records_tell_of_heads_and_their_error() -> None:
    found = taught()
    errors = [record.head_error_median_deg for record in found.epochs]
    assert len(errors) == TRAINING.epochs
    assert errors[-1] < 0.5 * errors[0]
    assert found.epochs[-1].loss < found.epochs[0].loss
    usage = found.epochs[-1].head_usage
    assert usage is not None
    assert sum(usage) == pytest.approx(1)
    assert min(usage) > 0.03
    assert f"{TRAINING.epochs * TRAINING.images_per_epoch:,} rendered images" in found.reason
    assert f"{errors[-1]:.1f}°" in found.reason


def test_equal_seeds_give_equal_encoders_and_others_do_not() -> None:
    states = []
    for seed in (0, 0, 1):
        stage = new_stage(seed)
        records = list(stage.records())
        states.append((stage.encoder.state_dict(), [vars(record) for record in records]))
    assert_same(states[1], states[0])
    assert not torch.equal(states[2][0]["network.0.weight"], states[0][0]["network.0.weight"])


def test_it_goes_on_bit_by_bit_after_any_record() -> None:
    unbroken, states, after = new_stage(0), [], []
    for record in unbroken.records():
        states.append(copy.deepcopy(unbroken.state_dict()))
        after.append(record)
    assert len(after) == 2 * (3 + 1)
    for place, state in enumerate(states):
        resumed = new_stage(0)
        resumed.load_state_dict(copy.deepcopy(state))
        assert list(resumed.records()) == after[place + 1 :]
        assert_same(resumed.state_dict(), unbroken.state_dict())


def test_only_the_winning_head_is_moved() -> None:
    stage = new_stage(0, HeadTrainingConfig(epochs=1, images_per_epoch=2, batch_size=2))
    before = copy.deepcopy(stage.encoder.network[-1].weight.detach())
    record = next(one for one in stage.records() if isinstance(one, EpochRecord))
    moved = (stage.encoder.network[-1].weight.detach() != before).unflatten(0, (3, 6))
    usage = record.head_usage
    assert usage is not None
    for head, share in enumerate(usage):
        assert bool(moved[head].any()) == (share > 0)


def test_the_error_is_the_sine_of_half_the_angle(generator: torch.Generator) -> None:
    a, b = random_rotations(50, generator), random_rotations(50, generator)
    expected = (geodesic_distance_rad(a, b) / 2).sin()
    assert (sine_of_half_angle(a, b) - expected).abs().max() < 1e-3
    same = a.clone().requires_grad_()
    sine_of_half_angle(same, a).sum().backward()
    assert same.grad is not None
    assert bool(same.grad.isfinite().all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "head-training.epochs: expected 0 or more, found -1"),
        ({"batch_size": 1}, "head-training.batch-size: expected at least 2 images, found 1"),
        ({"images_per_epoch": 1}, "head-training.images-per-epoch: expected at least 2"),
        ({"images_per_epoch": 257}, r"one more than a multiple of the batch size \(256\)"),
        ({"rate": 0.0}, "head-training.rate: expected above 0, found 0.0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HeadTrainingConfig(**options)
