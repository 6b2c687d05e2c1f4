"""A run can be stopped and continued anywhere, and its stages do what they are for."""

import io
import itertools
from dataclasses import replace

import pytest
import torch

from cryogimbal.data.poses import PoseSet
from cryogimbal.evaluation.pose_error import pose_errors
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.config import EncoderConfig, ReconstructionConfig, VolumeConfig
from cryogimbal.inference.config_heads import HeadTrainingConfig, RowEncoderConfig
from cryogimbal.inference.config_posterior import PosteriorConfig
from cryogimbal.inference.config_stages import (
    AutoDecodingConfig,
    AutoEncodingConfig,
    BandConfig,
    SwitchConfig,
)
from cryogimbal.inference.reconstruct import ReconstructionRun
from cryogimbal.inference.records import EpochRecord, Record, SwitchRecord
from cryogimbal.inference.start_and_result import Reconstruction, StartingPoint
from cryogimbal.rotations import rotvec_to_rotation
from tests.small_particles import blob_density, simulate_spectra

TINY_POSTERIOR = PosteriorConfig(
    max_starts=2,
    iterations=3,
    minibatch=40,
    n_side=2,
    mode_n_side=2,
    start_radius=3.0,
    end_radius=5.0,
)
TINY_DECODING = AutoDecodingConfig(
    epochs=2,
    batch_size=24,
    pose_steps=2,
    hypotheses=2,
    held_epochs=1,
    extra_epochs=0,
    band=BandConfig(start_radius=5.0, growth_epochs=1),
)
TINY_ENCODING = AutoEncodingConfig(
    epochs=3, batch_size=24, band=BandConfig(start_radius=3.0, end_radius=5.0, growth_epochs=2)
)
TINY_HEADS = HeadTrainingConfig(epochs=2, images_per_epoch=64, batch_size=32)
TINY_ENCODER = EncoderConfig(n_heads=3, channels=(4, 4, 4, 4, 4), hidden=8, input_box=8)
TINY = ReconstructionConfig(
    shifts="none",
    noise="white",
    posterior=TINY_POSTERIOR,
    auto_decoding=TINY_DECODING,
    auto_encoding=TINY_ENCODING,
    encoder=TINY_ENCODER,
    row_encoder=RowEncoderConfig(n_heads=3, widths=(16,), radius=5.0),
    head_training=HeadTrainingConfig(epochs=0),
)
WAYS = {
    "posterior, closed form": TINY,
    "encoder, closed form": replace(TINY, start="encoder"),
    "encoder, both factors by Adam": replace(
        TINY,
        start="encoder",
        volume=VolumeConfig(oversampling=1, interpolation="factored", start_amplitude=1.0),
        auto_encoding=replace(
            TINY_ENCODING, network="vgg16", loss="modulus", switch=SwitchConfig(rule="fixed")
        ),
        auto_decoding=replace(
            TINY_DECODING, volume_step="adam", optimiser="adam", hypotheses=1, pose_rate_end=None
        ),
    ),
    "posterior, an encoder taught": replace(TINY, head_training=TINY_HEADS),
    "posterior, Adam steps": replace(
        TINY, auto_decoding=replace(TINY_DECODING, optimiser="adam", hypotheses=1)
    ),
    "posterior, ended by what passes bring": replace(
        TINY, auto_decoding=replace(TINY_DECODING, epochs=5, settled_turn=1.0, extra_epochs=1)
    ),
    "posterior on a subset": replace(TINY, max_particles=30),
    "posterior, shifts, an encoder taught": replace(
        TINY, shifts="estimate", head_training=TINY_HEADS
    ),
    "posterior, noise estimated, an encoder taught": replace(
        TINY, noise="estimate", head_training=TINY_HEADS
    ),
    "encoder, shifts": replace(TINY, start="encoder", shifts="estimate"),
    "posterior, shifts, Adam steps": replace(
        TINY,
        shifts="estimate",
        auto_decoding=replace(TINY_DECODING, optimiser="adam", hypotheses=1),
    ),
}


@pytest.fixture
def particles(generator: torch.Generator) -> tuple[ParticleSpectra, torch.Tensor]:
    return simulate_spectra(blob_density(17, generator), 70, generator, signal_to_noise=1.0)


def finish(run: ReconstructionRun) -> tuple[list[Record], Reconstruction]:
    return list(run.records()), run.result()


def through_a_file(state: dict[str, object]) -> dict[str, object]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_stopped_after_any_record_goes_on_bit_by_bit(
    way: str,
    particles: tuple[ParticleSpectra, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Widths and scores are made of the result alone, and take longer than the rest of such runs.
    monkeypatch.setattr("cryogimbal.inference.stage_factory.measure_confidence", lambda *_: None)
    spectra, _ = particles
    estimated = WAYS[way].noise == "estimate"
    spectra = replace(spectra, noise=replace(spectra.noise, estimated=estimated))
    nothing = StartingPoint()
    records, unbroken = finish(ReconstructionRun(spectra, WAYS[way], nothing))
    for stop in range(1, len(records)):
        first = ReconstructionRun(spectra, WAYS[way], nothing)
        before = list(itertools.islice(first.records(), stop))
        state = through_a_file(first.state_dict())
        second = ReconstructionRun(spectra, WAYS[way], nothing)
        second.load_state_dict(state)
        after, resumed = finish(second)
        assert before + after == records, f"stopped after record {stop}"
        assert torch.equal(resumed.poses.rotation, unbroken.poses.rotation), f"stop at {stop}"
        assert torch.equal(resumed.poses.shift_angstrom, unbroken.poses.shift_angstrom)
        assert torch.equal(resumed.density.values, unbroken.density.values)


@pytest.mark.parametrize("way", ["posterior, closed form", "encoder, closed form"])
def test_another_seed_is_another_run(
    way: str, particles: tuple[ParticleSpectra, torch.Tensor]
) -> None:
    spectra, _ = particles
    _, one = finish(ReconstructionRun(spectra, WAYS[way], StartingPoint()))
    other_config = replace(WAYS[way], seed=1)
    _, other = finish(ReconstructionRun(spectra, other_config, StartingPoint()))
    assert not torch.equal(one.poses.rotation, other.poses.rotation)


def test_records_tell_stages_switch_and_head_usage(
    particles: tuple[ParticleSpectra, torch.Tensor],
) -> None:
    spectra, _ = particles
    records, _ = finish(ReconstructionRun(spectra, WAYS["encoder, closed form"], StartingPoint()))
    switches = [record for record in records if isinstance(record, SwitchRecord)]
    assert [(s.from_stage, s.to_stage) for s in switches] == [("auto_encoding", "auto_decoding")]
    assert switches[0].reason == "all 3 epochs are done"
    encoding = [r for r in records if isinstance(r, EpochRecord) and r.stage == "auto_encoding"]
    assert [record.epoch for record in encoding] == [0, 1, 2]
    assert [record.radius for record in encoding] == [3.0, 4.0, 5.0]
    for record in encoding:
        assert record.head_usage is not None and record.head_loss is not None
        assert len(record.head_usage) == 3
        assert sum(record.head_usage) == pytest.approx(1.0)
        assert min(record.head_loss) >= record.loss


@pytest.mark.parametrize("optimiser", ["gauss_newton", "adam"])
@pytest.mark.parametrize("volume_step", ["closed_form", "adam"])
@pytest.mark.parametrize("shifts", ["none", "estimate"])
def test_auto_decoding_brings_poses_nearer_to_the_truth(
    volume_step: str, optimiser: str, shifts: str, generator: torch.Generator
) -> None:
    true_shift, off_by = 0.03 * torch.randn(2, 300, 2, generator=generator)
    if shifts == "none":
        true_shift, off_by = 0 * true_shift, 0 * off_by
    spectra, truth = simulate_spectra(
        blob_density(24, generator),
        300,
        generator,
        signal_to_noise=0.5,
        shift_box=true_shift,
    )
    disturbed = rotvec_to_rotation(0.12 * torch.randn(300, 3, generator=generator)) @ truth
    box_angstrom = 24 * spectra.pixel_size_angstrom
    start = PoseSet(rotation=disturbed, shift_angstrom=(true_shift + off_by) * box_angstrom)
    true_poses = PoseSet(rotation=truth, shift_angstrom=true_shift * box_angstrom)
    config = ReconstructionConfig(
        shifts=shifts,  # pyright: ignore[reportArgumentType]
        auto_decoding=AutoDecodingConfig(
            epochs=12 if optimiser == "adam" else 6,
            batch_size=100,
            pose_steps=5,
            volume_step=volume_step,  # pyright: ignore[reportArgumentType]
            optimiser=optimiser,  # pyright: ignore[reportArgumentType]
            band=BandConfig(start_radius=6.0, growth_epochs=3),
        ),
        head_training=HeadTrainingConfig(epochs=0),
    )
    _, result = finish(ReconstructionRun(spectra, config, StartingPoint(poses=start)))
    before, after = pose_errors(start, true_poses), pose_errors(result.poses, true_poses)
    assert after.rotation_error_deg.median() < 0.5 * before.rotation_error_deg.median()
    if shifts == "estimate":
        median = after.shift_error_angstrom.median()
        assert median < 0.4 * before.shift_error_angstrom.median()
        assert median < 0.5 * spectra.pixel_size_angstrom


def test_given_map_and_poses_skip_the_search(
    particles: tuple[ParticleSpectra, torch.Tensor], generator: torch.Generator
) -> None:
    spectra, truth = particles
    density = blob_density(17, generator)
    for start in (
        StartingPoint(poses=centred(truth)),
        StartingPoint(density=density),
        StartingPoint(poses=centred(truth), density=density),
    ):
        records, _ = finish(ReconstructionRun(spectra, TINY, start))
        assert {record.stage for record in records} == {"auto_decoding"}  # pyright: ignore


def test_the_scale_of_a_given_map_does_not_matter(generator: torch.Generator) -> None:
    density = blob_density(20, generator)
    spectra, truth = simulate_spectra(density, 200, generator, signal_to_noise=1.0)
    config = replace(TINY, posterior=replace(TINY_POSTERIOR, mode_n_side=4, end_radius=6.0))
    errors = []
    for scale in (1e-4, 1.0, 1e4):
        run = ReconstructionRun(spectra, config, StartingPoint(density=density * scale))
        _, result = finish(run)
        errors.append(_median_error_deg(result.poses.rotation, truth))
    assert max(errors) < 6.0
    assert max(errors) - min(errors) < 0.5


def test_a_run_has_no_result_before_its_end(
    particles: tuple[ParticleSpectra, torch.Tensor],
) -> None:
    run = ReconstructionRun(particles[0], TINY, StartingPoint())
    next(run.records())
    with pytest.raises(RuntimeError, match="posterior_search"):
        run.result()


def centred(rotation: torch.Tensor) -> PoseSet:
    return PoseSet(rotation=rotation, shift_angstrom=torch.zeros(len(rotation), 2))


def _median_error_deg(estimated: torch.Tensor, truth: torch.Tensor) -> float:
    return float(pose_errors(centred(estimated), centred(truth)).rotation_error_deg.median())
