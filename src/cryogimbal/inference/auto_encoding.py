"""Stage 1 with the encoder: M proposed poses per image, winner takes all."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.poses import PoseHypotheses
from cryogimbal.imaging.model import ImageModel, ParticleBatch
from cryogimbal.imaging.pose_fit import hypotheses_of
from cryogimbal.imaging.shift_search import best_shifts, shift_grid
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import Decoder, HartleyVolume
from cryogimbal.inference.config_stages import AutoEncodingConfig
from cryogimbal.inference.encoder import PoseEncoder
from cryogimbal.inference.epochs import EpochProgress
from cryogimbal.inference.loss import best_head, compared, loss_of, residual_named
from cryogimbal.inference.modes import Modes, distinct, joined_modes
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
        *,
        shift_range_box: float = 0.0,
    ) -> None:
        """Particles lie up to ``shift_range_box`` (a fraction of the box) from the centre."""
        self.encoder = encoder
        self._spectra = spectra
        self._volume = volume
        self._config = config
        self._residual = residual_named(config.loss)
        self._rule = SwitchRule(config=config.switch)
        self._reason: str | None = None
        self._encoder_optimiser = torch.optim.Adam(encoder.parameters(), lr=config.encoder_rate)
        self._volume_optimiser = torch.optim.Adam(volume.parameters(), lr=config.volume_rate)
        self._shift_range_box = shift_range_box
        self._shift_box = torch.zeros(len(spectra), 2, device=spectra.device)
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
            "shift_box": self._shift_box,
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
        self._shift_box = state["shift_box"].to(self._spectra.device)
        self._wins = state["wins"].to(self._spectra.device)
        self._head_loss = state["head_loss"].to(self._spectra.device)
        self._rule.losses, self._reason = list(state["losses"]), state["reason"]

    def _step(self, batch: ParticleBatch) -> Float[Tensor, " batch"]:
        """One step of encoder and volume; the loss of each image is its best head's.

        The minimum over heads passes its gradient to one head alone, so all heads are rendered
        without gradients and only the winner once more with them.
        """
        chosen = self._winner(self._propose(batch), batch)
        self._encoder_optimiser.zero_grad(set_to_none=True)
        self._volume_optimiser.zero_grad(set_to_none=True)
        model = ImageModel(decoder=self._volume)
        losses = loss_of(model, chosen, batch, self._residual)[:, 0]
        (losses.mean() * batch.disc.n_coefficients).backward()
        self._encoder_optimiser.step()
        self._volume_optimiser.step()
        self._rotation[batch.index] = chosen.rotation.detach()[:, 0]
        if chosen.shift_box is not None:
            self._shift_box[batch.index] = chosen.shift_box[:, 0]
        return losses.detach()

    def _propose(self, batch: ParticleBatch) -> PoseHypotheses:
        seen = self._spectra.batch(batch.index, self.encoder.radius)
        if self._shift_range_box > 0:
            seen = seen.centred(self._shift_box[batch.index])
        return self.encoder.propose(seen)

    def _winner(self, hypotheses: PoseHypotheses, batch: ParticleBatch) -> PoseHypotheses:
        n_heads, decoder = self.encoder.n_heads, self._volume.frozen()
        if self._shift_range_box > 0:
            hypotheses = with_best_shifts(decoder, hypotheses, batch, self._shift_range_box)
        losses = compared(ImageModel(decoder=decoder), hypotheses, batch, self._residual)
        head, chosen = best_head(losses, hypotheses)
        self._wins += torch.bincount(head % n_heads, minlength=n_heads)
        self._head_loss += losses.unflatten(1, (-1, n_heads)).amin(dim=1).sum(dim=0)
        return chosen

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


@torch.no_grad()
def encoder_modes(
    encoder: PoseEncoder | RowEncoder,
    decoder: Decoder,
    spectra: ParticleSpectra,
    config: AutoEncodingConfig,
    *,
    n_modes: int,
    shift_range_box: float = 0.0,
) -> Modes:
    """Hand-over (the paper's equation 7): for every image the proposals that fit best, best first.

    Fewer modes where the proposals of an image do not lie apart from each other. Images that are not
    centred are looked at twice, the second time centred by what was found the first time.
    """
    encoder.eval()
    residual = residual_named(config.loss)
    radius = config.band.radius(config.epochs, spectra.disc.radius)
    parts = []
    for index in torch.arange(len(spectra), device=spectra.device).split(config.batch_size):
        batch, seen = spectra.batch(index, radius), spectra.batch(index, encoder.radius)
        hypotheses = encoder.propose(seen)
        if shift_range_box > 0:
            first = with_best_shifts(decoder, hypotheses, batch, shift_range_box)
            losses = compared(ImageModel(decoder=decoder), first, batch, residual)
            _, best = best_head(losses, first)
            assert best.shift_box is not None
            hypotheses = encoder.propose(seen.centred(best.shift_box[:, 0]))
            hypotheses = with_best_shifts(decoder, hypotheses, batch, shift_range_box)
        losses = compared(ImageModel(decoder=decoder), hypotheses, batch, residual)
        ranked = Modes(
            rotation=hypotheses.rotation,
            residual=losses * batch.disc.n_coefficients,
            shift_box=hypotheses.shift_box,
        ).best_first()
        chosen = distinct(ranked.rotation, n_modes, SEPARATION_DEG)
        parts.append(ranked.taken(chosen.clamp(min=0)).without(chosen < 0))
    encoder.train()
    return joined_modes(parts)


@torch.no_grad()
def with_best_shifts(
    decoder: Decoder, hypotheses: PoseHypotheses, batch: ParticleBatch, range_box: float
) -> PoseHypotheses:
    """Every proposed rotation with the shift that fits it best."""
    rotation = hypotheses.rotation.detach()
    shifts = shift_grid(range_box, batch.disc.radius).to(rotation.device)
    found = best_shifts(decoder, hypotheses_of(rotation), batch, shifts)
    return PoseHypotheses(
        rotation=hypotheses.rotation, shift_box=found.view(*rotation.shape[:2], 2)
    )
