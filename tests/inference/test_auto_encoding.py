"""The encoder learns poses from images by the winner-takes-all loss alone."""

import torch

from cryogimbal.data.poses import PoseSet
from cryogimbal.evaluation.pose_error import pose_errors
from cryogimbal.imaging.volume import GridGeometry, HartleyVolume
from cryogimbal.inference.auto_encoding import AutoEncoding, best_encoder_poses
from cryogimbal.inference.config import (
    AutoEncodingConfig,
    BandConfig,
    EncoderConfig,
    PosteriorConfig,
    SwitchConfig,
)
from cryogimbal.inference.encoder import PoseEncoder, initialise
from cryogimbal.inference.grid_search import scaled_to_images
from cryogimbal.inference.records import EpochRecord
from tests.small_particles import blob_density, simulate_spectra

ENCODER = EncoderConfig(n_heads=7, channels=(16, 16, 32, 32, 32), hidden=64, input_box=16)
# The volume holds the true density and is all but still: what is learned is the encoder's.
CONFIG = AutoEncodingConfig(
    epochs=20,
    batch_size=50,
    encoder_rate=1e-3,
    volume_rate=1e-9,
    band=BandConfig(end_radius=5.0),
    switch=SwitchConfig(rule="fixed"),
)


def median_error_deg(estimated: torch.Tensor, truth: torch.Tensor) -> float:
    shift = torch.zeros(len(truth), 2)
    errors = pose_errors(
        PoseSet(rotation=estimated, shift_angstrom=shift),
        PoseSet(rotation=truth, shift_angstrom=shift),
    )
    return float(errors.rotation_error_deg.median())


def test_the_encoder_learns_poses_of_a_known_density_and_all_heads_take_part() -> None:
    generator = torch.Generator().manual_seed(1)
    density = blob_density(16, generator, n_blobs=6)
    spectra, truth = simulate_spectra(density, 1000, generator, signal_to_noise=3.0)
    geometry = GridGeometry(box=16, radius=5.0, oversampling=1)
    volume = HartleyVolume(geometry)
    scaled = scaled_to_images(spectra, density, PosteriorConfig())
    volume.set_spectrum(geometry.grid_of_density(scaled))
    encoder = PoseEncoder(ENCODER, 16)
    initialise(encoder, generator)

    before = median_error_deg(best_encoder_poses(encoder, volume, spectra, CONFIG), truth)
    stage = AutoEncoding(spectra, encoder, volume, CONFIG, seed=0)
    epochs = [record for record in stage.records() if isinstance(record, EpochRecord)]
    after = median_error_deg(best_encoder_poses(encoder, volume, spectra, CONFIG), truth)

    assert before > 80
    assert after < 65
    assert epochs[-1].loss < 0.6 * epochs[0].loss
    usage = epochs[-1].head_usage
    assert usage is not None and min(usage) > 0.01
