"""Stage 1 with the encoder: M proposed poses per image, winner takes all."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.poses import PoseHypotheses
from cryogimbal.imaging.model import ImageModel, ParticleBatch
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import HartleyVolume
from cryogimbal.inference.config import AutoEncodingConfig
from cryogimbal.inference.encoder import PoseEncoder
from cryogimbal.inference.epochs import EpochProgress
from cryogimbal.inference.loss import best_head, compared, loss_of, residual_named
from cryogimbal.inference.mode_search import distinct
from cryogimbal.inference.records import EpochRecord, StepRecord
from cryogimbal.inference.row_encoder import RowEncoder
from cryogimbal.inference.switching import SwitchRule

NAME = "auto_encoding"
# Proposals of an image that are nearer than this are of one mode.
SEPARATION_DEG = 15.0


class AutoEncoding:
    """Encoder and volume learn together; only the winning head of each image is paid for."""

    name = NAME

    def __init__(
        self,
        spectra: ParticleSpectra,
        encoder: PoseEncoder | RowEncoder,
        volume: HartleyVolume,
        config: AutoEncodingConfig,
        seed: int,
    ) -> None:
        self.encoder = encoder
        self._spectra = spectra
        self._volume = volume
        self._config = config
        self._residual = residual_named(config.loss)
        self._rule = SwitchRule(config=config.switch)
        self._reason: str | None = None
        self._encoder_optimiser = torch.optim.Adam(encoder.parameters(), lr=config.encoder_rate)
        self._volume_optimiser = torch.optim.Adam(volume.parameters(), lr=config.volume_rate)
        self._rotation = torch.eye(3, device=spectra.device).repeat(len(spectra), 1, 1)
        self._wins = torch.zeros(encoder.n_heads, device=spectra.device)
        self._head_loss = torch.zeros(encoder.n_heads, device=spectra.device)
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
        while self._reason is None:
            progress.begin(self._rotation if progress.epoch else None)
            radius = self._config.band.radius(progress.epoch, self._spectra.disc.radius)
            for index in progress.remaining_batches():
                loss = self._step(self._spectra.batch(index, radius))
                yield progress.finish_step(index, loss)
            record = self._finish_epoch(radius)
            self._reason = self._rule.reason_to_switch(record)
            yield record

    def reason(self) -> str:
        """Why the stage ended."""
        return self._reason or "not ended"

    def state_dict(self) -> dict[str, Any]:
        """Everything but the volume."""
        return {
            "progress": self._progress.state_dict(),
            "encoder": self.encoder.state_dict(),
            "encoder_optimiser": self._encoder_optimiser.state_dict(),
            "volume_optimiser": self._volume_optimiser.state_dict(),
            "rotation": self._rotation,
            "wins": self._wins,
            "head_loss": self._head_loss,
            "losses": self._rule.losses,
            "reason": self._reason,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._progress.load_state_dict(state["progress"])
        self.encoder.load_state_dict(state["encoder"])
        self._encoder_optimiser.load_state_dict(state["encoder_optimiser"])
        self._volume_optimiser.load_state_dict(state["volume_optimiser"])
        self._rotation = state["rotation"].to(self._spectra.device)
        self._wins = state["wins"].to(self._spectra.device)
        self._head_loss = state["head_loss"].to(self._spectra.device)
        self._rule.losses, self._reason = list(state["losses"]), state["reason"]

    def _step(self, batch: ParticleBatch) -> Float[Tensor, " batch"]:
        """One step of encoder and volume; the loss of each image is its best head's.

        The minimum over heads passes its gradient to one head alone, so all heads are rendered
        without gradients and only the winner once more with them.
        """
        hypotheses = propose(self.encoder, self._spectra, batch)
        chosen = self._winner(hypotheses, batch)
        self._encoder_optimiser.zero_grad(set_to_none=True)
        self._volume_optimiser.zero_grad(set_to_none=True)
        losses = loss_of(self._model(self._volume), chosen, batch, self._residual)[:, 0]
        (losses.mean() * batch.disc.n_coefficients).backward()
        self._encoder_optimiser.step()
        self._volume_optimiser.step()
        self._rotation[batch.index] = chosen.rotation.detach()[:, 0]
        return losses.detach()

    def _winner(self, hypotheses: PoseHypotheses, batch: ParticleBatch) -> PoseHypotheses:
        n_heads = self.encoder.n_heads
        losses = compared(self._model(self._volume.frozen()), hypotheses, batch, self._residual)
        head, chosen = best_head(losses, hypotheses)
        self._wins += torch.bincount(head % n_heads, minlength=n_heads)
        self._head_loss += losses.unflatten(1, (-1, n_heads)).amin(dim=1).sum(dim=0)
        return chosen

    def _model(self, decoder: Any) -> ImageModel:
        return ImageModel(decoder=decoder, pixel_size_angstrom=self._spectra.pixel_size_angstrom)

    def _finish_epoch(self, radius: float) -> EpochRecord:
        n = len(self._spectra)
        usage, head_loss = (self._wins / n).tolist(), (self._head_loss / n).tolist()
        self._wins.zero_()
        self._head_loss.zero_()
        box_angstrom = self._spectra.disc.box * self._spectra.pixel_size_angstrom
        return self._progress.finish_epoch(
            self._rotation,
            radius=radius,
            resolution_angstrom=box_angstrom / radius,
            head_usage=tuple(usage),
            head_loss=tuple(head_loss),
        )


def propose(
    encoder: PoseEncoder | RowEncoder, spectra: ParticleSpectra, batch: ParticleBatch
) -> PoseHypotheses:
    """The encoder's hypotheses for the images of a batch, seen at the encoder's own band limit."""
    return encoder.propose(spectra.batch(batch.index, encoder.radius))


@torch.no_grad()
def encoder_modes(
    encoder: PoseEncoder | RowEncoder,
    volume: HartleyVolume,
    spectra: ParticleSpectra,
    config: AutoEncodingConfig,
    n_modes: int,
) -> tuple[Float[Tensor, "particle mode 3 3"], Float[Tensor, "particle mode"]]:
    """Hand-over (the paper's equation 7): for every image the proposals that fit best, best first.

    Their residuals are sums over coefficients, infinite where the proposals of an image do not lie
    apart from each other.
    """
    encoder.eval()
    model = ImageModel(decoder=volume.frozen(), pixel_size_angstrom=spectra.pixel_size_angstrom)
    residual = residual_named(config.loss)
    radius = config.band.radius(config.epochs, spectra.disc.radius)
    rotation, left = [], []
    for index in torch.arange(len(spectra), device=spectra.device).split(config.batch_size):
        batch = spectra.batch(index, radius)
        hypotheses = propose(encoder, spectra, batch)
        losses, order = compared(model, hypotheses, batch, residual).sort(dim=1)
        ranked = hypotheses.rotation.take_along_dim(order[:, :, None, None], dim=1)
        chosen = distinct(ranked, n_modes, SEPARATION_DEG)
        taken = chosen.clamp(min=0)
        rotation.append(ranked.take_along_dim(taken[:, :, None, None], dim=1))
        sums = losses.take_along_dim(taken, dim=1) * batch.disc.n_coefficients
        left.append(sums.masked_fill(chosen < 0, torch.inf))
    encoder.train()
    return torch.cat(rotation), torch.cat(left)
