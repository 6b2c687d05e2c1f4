"""The encoder learns poses from images by the winner-takes-all loss alone."""

import pytest
import torch

from cryogimbal.data.poses import PoseHypotheses, PoseSet
from cryogimbal.evaluation.pose_error import pose_errors
from cryogimbal.imaging.model import ImageModel
from cryogimbal.imaging.signal_power import power_above_noise
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import GridGeometry, HartleyVolume
from cryogimbal.inference.auto_encoding import SEPARATION_DEG, AutoEncoding, encoder_modes
from cryogimbal.inference.config import EncoderConfig
from cryogimbal.inference.config_heads import RowEncoderConfig
from cryogimbal.inference.config_posterior import PosteriorConfig
from cryogimbal.inference.config_stages import AutoEncodingConfig, BandConfig, SwitchConfig
from cryogimbal.inference.encoder import PoseEncoder, initialise
from cryogimbal.inference.grid_search import scaled_to_images
from cryogimbal.inference.loss import loss_of, squared_residual
from cryogimbal.inference.records import EpochRecord
from cryogimbal.inference.row_encoder import (
    RowEncoder,
    initialise_row_encoder,
)
from cryogimbal.rotations import geodesic_distance_deg
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


def best_poses(
    encoder: PoseEncoder | RowEncoder, volume: HartleyVolume, spectra: ParticleSpectra
) -> torch.Tensor:
    return encoder_modes(encoder, volume, spectra, CONFIG, n_modes=1).rotation[:, 0]


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

    before = median_error_deg(best_poses(encoder, volume, spectra), truth)
    stage = AutoEncoding(spectra, encoder, volume, CONFIG, seed=0)
    epochs = [record for record in stage.records() if isinstance(record, EpochRecord)]
    after = median_error_deg(best_poses(encoder, volume, spectra), truth)

    assert before > 80
    assert after < 65
    assert epochs[-1].loss < 0.6 * epochs[0].loss
    usage = epochs[-1].head_usage
    assert usage is not None and min(usage) > 0.01


def test_a_network_on_rows_finds_poses_and_density_together_from_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    spectra, truth = simulate_spectra(
        blob_density(16, generator), 1000, generator, signal_to_noise=3.0
    )
    volume = HartleyVolume(GridGeometry(box=16, radius=5.0, oversampling=1))
    volume.randomise(generator, amplitude=0.1)
    network = RowEncoderConfig(n_heads=4, widths=(64, 64), radius=6.0)
    disc = spectra.disc.truncate(network.radius)
    encoder = RowEncoder(network, disc, power_above_noise(spectra, disc))
    initialise_row_encoder(encoder, generator)
    config = AutoEncodingConfig(
        epochs=20,
        batch_size=50,
        band=BandConfig(start_radius=3.0, end_radius=5.0, growth_epochs=10),
        switch=SwitchConfig(rule="fixed"),
    )

    before = median_error_deg(best_poses(encoder, volume, spectra), truth)
    records = list(AutoEncoding(spectra, encoder, volume, config, seed=0).records())
    after = median_error_deg(best_poses(encoder, volume, spectra), truth)

    assert before > 90
    # Seeds ended between 5 and 40 degrees.
    assert after < 60
    usage = records[-1].head_usage
    assert usage is not None
    assert sum(usage) == pytest.approx(1)
    assert len(usage) == network.n_heads


def test_the_hand_over_takes_proposals_that_lie_apart_best_first() -> None:
    generator = torch.Generator().manual_seed(2)
    spectra, _ = simulate_spectra(blob_density(16, generator), 40, generator, signal_to_noise=1.0)
    volume = HartleyVolume(GridGeometry(box=16, radius=5.0, oversampling=1))
    volume.randomise(generator, amplitude=1.0)
    encoder = PoseEncoder(ENCODER, 16)
    initialise(encoder, generator)
    modes = encoder_modes(encoder, volume, spectra, CONFIG, n_modes=4)
    rotation, residual = modes.rotation, modes.residual

    finite = torch.isfinite(residual)
    assert bool(finite[:, 0].all())
    assert bool((residual[:, 1:] >= residual[:, :-1]).all())
    angle = geodesic_distance_deg(*torch.broadcast_tensors(rotation[:, :, None], rotation[:, None]))
    both = finite[:, :, None] & finite[:, None] & ~torch.eye(4, dtype=torch.bool)
    assert float(angle[both].min()) > SEPARATION_DEG
    batch = spectra.batch(torch.arange(40), 5.0)
    model = ImageModel(decoder=volume)
    left = loss_of(model, PoseHypotheses(rotation=rotation), batch, squared_residual)
    sums = left.detach() * batch.disc.n_coefficients
    assert torch.allclose(sums[finite], residual[finite], rtol=1e-4)
