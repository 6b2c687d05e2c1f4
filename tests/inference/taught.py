"""A small encoder that has been taught a small particle, and images of it that it has not seen."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.config_heads import HeadTrainingConfig, RowEncoderConfig
from cryogimbal.inference.config_posterior import PosteriorConfig
from cryogimbal.inference.grid_search import scaled_to_images
from cryogimbal.inference.head_training import HeadTraining, new_row_encoder
from cryogimbal.inference.records import EpochRecord
from cryogimbal.inference.row_encoder import RowEncoder
from tests.small_particles import blob_density, simulate_spectra

ENCODER = RowEncoderConfig(n_heads=4, widths=(64, 64), radius=6.0)
TRAINING = HeadTrainingConfig(epochs=4, images_per_epoch=6400, batch_size=128)


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What teaching leaves, and unseen images with their true rotations."""

    encoder: RowEncoder
    untaught: RowEncoder
    epochs: tuple[EpochRecord, ...]
    reason: str
    density: Tensor
    unseen: ParticleSpectra
    truth: Tensor


@lru_cache(maxsize=1)
def taught() -> Taught:
    """Seconds to make, so that it is made once."""
    generator = torch.Generator().manual_seed(1)
    density = blob_density(16, generator)
    spectra, _ = simulate_spectra(density, 300, generator, signal_to_noise=3.0)
    unseen, truth = simulate_spectra(density, 200, generator, signal_to_noise=3.0)
    scaled = scaled_to_images(spectra, density, PosteriorConfig())
    encoder = new_row_encoder(ENCODER, spectra, scaled, seed=0)
    stage = HeadTraining(spectra, encoder, scaled, TRAINING, seed=0)
    epochs = tuple(record for record in stage.records() if isinstance(record, EpochRecord))
    return Taught(
        encoder=encoder,
        untaught=new_row_encoder(ENCODER, spectra, scaled, seed=0),
        epochs=epochs,
        reason=stage.reason(),
        density=scaled,
        unseen=unseen,
        truth=truth,
    )
