"""Stage 2: every image's own pose, moved directly, in alternation with the volume."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.poses import PoseHypotheses
from cryogimbal.imaging.model import ImageModel, ParticleBatch
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import Decoder
from cryogimbal.inference.config import AutoDecodingConfig
from cryogimbal.inference.epochs import EpochProgress
from cryogimbal.inference.loss import loss_of, residual_named
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.inference.records import EpochRecord, StepRecord
from cryogimbal.inference.volume_update import VolumeUpdate
from cryogimbal.rotations import rotvec_to_rotation

NAME = "auto_decoding"


class AutoDecoding:
    """Pose steps with the volume fixed, then a volume step with the poses fixed."""

    name = NAME

    def __init__(
        self,
        spectra: ParticleSpectra,
        table: PoseTable,
        update: VolumeUpdate,
        config: AutoDecodingConfig,
        seed: int,
    ) -> None:
        self.table = table
        self.update = update
        self._spectra = spectra
        self._config = config
        self._residual = residual_named(config.loss)
        self._progress = EpochProgress(
            stage=NAME,
            n_epochs=config.epochs,
            n_images=len(spectra),
            batch_size=config.batch_size,
            seed=seed,
        )

    def records(self) -> Iterator[StepRecord | EpochRecord]:
        """From where the stage stands to its end; it may be stopped after any record."""
        progress = self._progress
        while progress.epoch < self._config.epochs:
            progress.begin(self.table.rotation)
            radius = self._config.band.radius(progress.epoch, self._spectra.disc.radius)
            for index in progress.remaining_batches():
                batch = self._spectra.batch(index, radius)
                loss = self._step(batch, self._pose_rate(progress.epoch))
                yield progress.finish_step(index, loss)
            self.update.finish_epoch(radius)
            yield self._finish_epoch(radius)

    def reason(self) -> str:
        """Why the stage ended."""
        return f"all {self._config.epochs} epochs are done"

    def state_dict(self) -> dict[str, Any]:
        """Everything but the volume."""
        return {
            "progress": self._progress.state_dict(),
            "table": self.table.state_dict(),
            "update": self.update.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._progress.load_state_dict(state["progress"])
        self.table.load_state_dict(state["table"])
        self.update.load_state_dict(state["update"])

    def _step(self, batch: ParticleBatch, rate: float) -> Float[Tensor, " batch"]:
        """Pose steps, then what the volume takes from the batch; the loss before the last step."""
        decoder = self.update.decoder()
        loss = torch.zeros(len(batch.index), device=batch.observed.device)
        for _ in range(self._config.pose_steps):
            loss, gradient = self._pose_gradient(decoder, batch)
            self.table.adam_step(batch.index, gradient, rate)
        self.update.observe(batch, self.table.propose(batch))
        return loss

    def _pose_gradient(
        self, decoder: Decoder, batch: ParticleBatch
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch 3"]]:
        """Loss of each image and its gradient in w of ``exp(w^) R``, at w = 0."""
        current = self.table.propose(batch)
        rotvec = torch.zeros(len(batch.index), 1, 3, device=batch.observed.device)
        rotvec.requires_grad_()
        moved = PoseHypotheses(
            rotation=rotvec_to_rotation(rotvec) @ current.rotation,
            shift_angstrom=current.shift_angstrom,
        )
        model = ImageModel(decoder=decoder, pixel_size_angstrom=self._spectra.pixel_size_angstrom)
        losses = loss_of(model, moved, batch, self._residual)
        (gradient,) = torch.autograd.grad(losses.sum(), rotvec)
        return losses.detach()[:, 0], gradient[:, 0]

    def _pose_rate(self, epoch: int) -> float:
        """Cosine from the first rate to the last epoch's."""
        first, last = self._config.pose_rate, self._config.pose_rate_end
        if last is None or self._config.epochs == 1:
            return first
        way = epoch / (self._config.epochs - 1)
        return last + (first - last) * (1 + math.cos(math.pi * way)) / 2

    def _finish_epoch(self, radius: float) -> EpochRecord:
        fsc = self.update.half_map_fsc
        box_angstrom = self._spectra.disc.box * self._spectra.pixel_size_angstrom
        return self._progress.finish_epoch(
            self.table.rotation,
            radius=radius,
            resolution_angstrom=box_angstrom / radius,
            half_map_resolution_angstrom=None if fsc is None else fsc.resolution_angstrom(0.143),
        )
