"""A stage ends when another pass is of no use, and not before."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from cryogimbal.data.poses import PoseSet
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.config_heads import HeadTrainingConfig
from cryogimbal.inference.config_stages import AutoDecodingConfig, BandConfig
from cryogimbal.inference.held_out import HeldOutLikelihood
from cryogimbal.inference.reconstruct import ReconstructionRun
from cryogimbal.inference.records import EpochRecord
from cryogimbal.inference.start_and_result import StartingPoint
from cryogimbal.inference.stopping import FinishedPass, StopRule, tellable_deg
from cryogimbal.rotations import rotvec_to_rotation
from tests.small_particles import blob_density, simulate_spectra

CONFIG = AutoDecodingConfig(epochs=8, extra_epochs=3, settled_turn=0.1)
STILL, MOVING = 0.1, 1.0
TELLABLE = 5.0


def end(
    turns: list[float], nats: Sequence[float | None], config: AutoDecodingConfig = CONFIG
) -> tuple[int, str]:
    """After how many passes a rule ends, and why; standard errors are 0.2 nats."""
    rule = StopRule(config=config)
    for number, (turn, value) in enumerate(zip(turns, nats, strict=True), start=1):
        held_out = None
        if value is not None:
            held_out = HeldOutLikelihood(nats_per_image=float(value), standard_error=0.2)
        done = FinishedPass(passes=number, turn_deg=turn, tellable_deg=TELLABLE, held_out=held_out)
        reason = rule.reason_to_stop(done)
        if reason is not None:
            return number, reason
    raise AssertionError("the rule never ends")


def test_settled_poses_and_a_map_that_gains_no_more_end_a_stage_early() -> None:
    passes, reason = end([MOVING, MOVING, STILL, STILL], [10, 12, 13, 13.1])
    assert passes == 4
    assert "settled" in reason and "+0.1 since" in reason and "0.2" in reason


@pytest.mark.parametrize("turn", [STILL, MOVING])
def test_a_map_that_still_gains_goes_on_beyond_the_plan_but_not_for_ever(turn: float) -> None:
    assert end([turn] * 20, [float(i) for i in range(20)])[0] == 8 + 3
    gaining_for_nine = [float(min(i, 9)) for i in range(20)]
    assert end([turn] * 20, gaining_for_nine)[0] == 11
    passes, reason = end([turn] * 20, [float(min(i, 8)) for i in range(20)])
    assert passes == 10 and ("gains no more" in reason or "all 10 passes" in reason)


def test_poses_that_move_go_on_as_planned() -> None:
    passes, reason = end([MOVING] * 20, [5.0] * 20)
    assert passes == 8 and "all 8 passes" in reason


def test_a_falling_likelihood_is_no_gain() -> None:
    falling = [20.0 - number for number in range(20)]
    passes, reason = end([MOVING] * 20, falling)
    assert passes == 8 and "-1 since" in reason
    assert end([MOVING, MOVING, STILL], falling[:3])[0] == 3


def test_nothing_is_decided_before_two_likelihoods_compare() -> None:
    passes, reason = end([STILL] * 20, [None] * 20)
    assert passes == 8 and "all 8" in reason
    assert end([STILL] * 20, [None, None, None, 10, 10, *[10] * 15])[0] == 5


def test_a_volume_without_halves_is_judged_by_poses_alone() -> None:
    adam = replace(CONFIG, volume_step="adam")
    passes, reason = end([MOVING, MOVING, STILL], [None] * 3, adam)
    assert passes == 3 and "without half-maps" in reason
    never = replace(adam, settled_turn=0.0)
    assert end([STILL] * 20, [None] * 20, never)[0] == 8


def test_a_rule_goes_on_from_its_state() -> None:
    likelihood = HeldOutLikelihood(nats_per_image=3.5, standard_error=0.1)
    done = FinishedPass(passes=1, turn_deg=1.0, tellable_deg=2.0, held_out=likelihood)
    rule, other = StopRule(config=CONFIG), StopRule(config=CONFIG)
    for before in (None, likelihood):
        other.load_state_dict(rule.state_dict())
        assert other.before == before
        rule.reason_to_stop(done)


def test_the_turn_that_can_be_told_moves_the_rim_by_half_a_period() -> None:
    radius, width = 20.0, 0.5
    rim_box = torch.deg2rad(torch.tensor(tellable_deg(radius, width))) * width / 2
    assert float(rim_box) == pytest.approx(0.5 / radius)


@pytest.mark.parametrize("box", [20, 21])
def test_a_run_from_true_poses_ends_before_one_from_disturbed_ones(
    box: int, generator: torch.Generator
) -> None:
    spectra, truth = simulate_spectra(
        blob_density(box, generator), 300, generator, signal_to_noise=0.5
    )
    config = ReconstructionConfig(
        shifts="none",
        noise="white",
        auto_decoding=AutoDecodingConfig(
            epochs=8, hypotheses=1, band=BandConfig(start_radius=6.0, growth_epochs=1)
        ),
        head_training=HeadTrainingConfig(epochs=0),
    )
    n_passes = []
    for deviation in (0.0, 0.25):
        turn = deviation * torch.randn(300, 3, generator=generator)
        start = PoseSet(
            rotation=rotvec_to_rotation(turn) @ truth, shift_angstrom=torch.zeros(300, 2)
        )
        run = ReconstructionRun(spectra, config, StartingPoint(poses=start))
        epochs = [record for record in run.records() if isinstance(record, EpochRecord)]
        assert epochs[-1].epoch + 1 == epochs[-1].n_epochs
        measured = [record.held_out_log_likelihood for record in epochs][2:]
        assert all(value is not None and value > 0 for value in measured)
        n_passes.append(len(epochs))
    assert n_passes[0] < n_passes[1]
    assert n_passes[0] < 8
