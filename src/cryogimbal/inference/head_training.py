"""Teach an encoder's heads the poses of images rendered from the map found so far.

The rotations of rendered images are known, so the winner takes all on the rotation error itself. A
network that starts from nothing learns little from the rendering loss against a sharp map, which has
too many narrow minima, and learns the images of one stack by heart; rendered ones never end.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.fourier.disc import Disc
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.plane_symmetry import into_asymmetric_unit
from cryogimbal.imaging.shifts import shift_row
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.config_heads import HeadTrainingConfig, RowEncoderConfig
from cryogimbal.inference.epochs import EpochProgress
from cryogimbal.inference.mode_search import prepared_density
from cryogimbal.inference.records import EpochRecord, StepRecord
from cryogimbal.inference.row_encoder import RowEncoder, initialise_row_encoder, signal_estimate
from cryogimbal.inference.seeding import generator_for
from cryogimbal.rotations import geodesic_distance_deg, random_rotations, rotation_grid
from cryogimbal.symmetry import NO_SYMMETRY, SymmetryGroup, nearest_same_image

NAME = "head_training"
# The network sees few cycles per box, where an unpadded grid is exact enough and fastest to slice.
OVERSAMPLING = 1
N_SIDE_FOR_POWER = 2
WARM_UP = 0.05
# The rate ends at this fraction of the highest.
LAST_RATE = 0.01
SECOND_DECAY = 0.99
# Keeps the slope of the error finite where it is zero (about half a degree).
SMALLEST_SQUARE = 1e-4


@dataclass(frozen=True, kw_only=True)
class RenderedPoses:
    """At which poses images are rendered, and which of them are equal."""

    centring_error_box: float = 0.0
    """By how much images to come will be off centre, per axis (standard deviation as a fraction of the
    box)."""
    group: SymmetryGroup = NO_SYMMETRY
    """Of the poses that it makes equal, the one nearest to each head's counts."""


class HeadTraining:
    """Steps of the encoder on rendered images; only the winning head of each is paid for."""

    name = NAME

    def __init__(
        self,
        spectra: ParticleSpectra,
        encoder: RowEncoder,
        density: Float[Tensor, "box box box"],
        config: HeadTrainingConfig,
        seed: int,
        poses: RenderedPoses | None = None,
    ) -> None:
        """``spectra`` lend their CTFs; ``density`` is in their scale (noise 1)."""
        self.encoder = encoder
        self._spectra = spectra
        self._config = config
        self._seed = seed
        self._poses = poses or RenderedPoses()
        self._grid = prepared_density(spectra, density, encoder.disc.radius, OVERSAMPLING)
        self._optimiser = torch.optim.Adam(
            encoder.parameters(), lr=config.rate, betas=(0.9, SECOND_DECAY)
        )
        self._n_steps = 0
        self._wins = torch.zeros(encoder.config.n_heads)
        self._error_deg = torch.zeros(config.images_per_epoch)
        self._last_error_deg = math.nan
        self._progress = EpochProgress(
            stage=NAME,
            n_epochs=config.epochs,
            n_images=config.images_per_epoch,
            batch_size=config.batch_size,
            seed=seed,
        )

    def records(self) -> Iterator[StepRecord | EpochRecord]:
        """From where the stage stands to its end; it may be stopped after any record."""
        progress = self._progress
        while progress.epoch < self._config.epochs:
            for index in progress.remaining_batches():
                loss = self._step(index)
                yield progress.finish_step(index, loss)
            yield self._finish_epoch()

    def reason(self) -> str:
        """Why the stage ended."""
        n_images = self._config.epochs * self._config.images_per_epoch
        return (
            f"{n_images:,} rendered images are seen; the best head is {self._last_error_deg:.1f}° "
            "off (median)"
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything but the map."""
        return {
            "progress": self._progress.state_dict(),
            "encoder": self.encoder.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "n_steps": self._n_steps,
            "wins": self._wins,
            "error_deg": self._error_deg,
            "last_error_deg": self._last_error_deg,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._progress.load_state_dict(state["progress"])
        self.encoder.load_state_dict(state["encoder"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._n_steps = state["n_steps"]
        self._wins, self._error_deg = state["wins"].cpu(), state["error_deg"].cpu()
        self._last_error_deg = state["last_error_deg"]

    def _step(self, index: Tensor) -> Float[Tensor, " batch"]:
        """One step of the encoder; the loss of each image is its best head's."""
        batch, truth = self._render(len(index))
        self.encoder.train()
        proposed = self.encoder(signal_estimate(self.encoder, batch))
        truth = nearest_same_image(
            truth[:, None].expand_as(proposed), proposed.detach(), self._poses.group
        )
        loss, head = sine_of_half_angle(proposed, truth).min(dim=1)
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate()
        self._optimiser.zero_grad(set_to_none=True)
        loss.mean().backward()
        self._optimiser.step()
        self._n_steps += 1
        self._note(index, head, proposed.detach(), truth)
        return loss.detach()

    @torch.no_grad()
    def _render(self, n: int) -> tuple[ParticleBatch, Float[Tensor, "batch 3 3"]]:
        """Images of the map at random poses of the asymmetric unit, with CTFs of the stack."""
        generator = generator_for(self._seed, NAME, self._n_steps)
        disc, device = self.encoder.disc, self._spectra.device
        rotation = into_asymmetric_unit(random_rotations(n, generator)).to(device)
        chosen = torch.randint(len(self._spectra), (n,), generator=generator)
        noise = torch.randn(n, disc.n_coefficients, generator=generator).to(device)
        real = self._spectra.batch(chosen.to(device), disc.radius)
        slices = self._grid.slices(rotation, real.disc)
        if self._poses.centring_error_box > 0:
            shift = self._poses.centring_error_box * torch.randn(n, 2, generator=generator)
            slices = shift_row(slices, shift.to(device), real.disc)
        rendered = slices * real.ctf + noise
        batch = ParticleBatch(disc=real.disc, observed=rendered, ctf=real.ctf, index=real.index)
        return batch, rotation

    def _rate(self) -> float:
        """Linear warm-up, then a cosine."""
        config = self._config
        steps_per_epoch = math.ceil(config.images_per_epoch / config.batch_size)
        way = self._n_steps / (config.epochs * steps_per_epoch)
        fall = LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * way)) / 2
        return config.rate * fall * min(1.0, (way + 1e-3) / WARM_UP)

    @torch.no_grad()
    def _note(self, index: Tensor, head: Tensor, proposed: Tensor, truth: Tensor) -> None:
        winner, right = (
            one.take_along_dim(head[:, None, None, None], dim=1)[:, 0] for one in (proposed, truth)
        )
        self._error_deg[index] = geodesic_distance_deg(winner, right).cpu()
        self._wins += torch.bincount(head.cpu(), minlength=len(self._wins))

    def _finish_epoch(self) -> EpochRecord:
        usage = (self._wins / self._config.images_per_epoch).tolist()
        self._wins.zero_()
        self._last_error_deg = float(self._error_deg.median())
        radius = self.encoder.disc.radius
        box_angstrom = self._spectra.disc.box * self._spectra.pixel_size_angstrom
        return self._progress.finish_epoch(
            None,
            radius=radius,
            resolution_angstrom=box_angstrom / radius,
            head_usage=tuple(usage),
            head_error_median_deg=self._last_error_deg,
        )


def sine_of_half_angle(
    a: Float[Tensor, "*n 3 3"], b: Float[Tensor, "*n 3 3"]
) -> Float[Tensor, "*n"]:
    """``|a - b|_F / (2 sqrt 2)``: 0 for equal rotations, 1 for 180 degrees, of finite slope.

    Unlike its square it is not ruled by the images that no head comes near to.
    """
    squared = (a - b).square().sum((-1, -2))
    return ((squared + SMALLEST_SQUARE) / 8).sqrt()


def new_row_encoder(
    config: RowEncoderConfig,
    spectra: ParticleSpectra,
    density: Float[Tensor, "box box box"],
    seed: int,
) -> RowEncoder:
    """An untaught encoder for images of a map."""
    disc = spectra.disc.truncate(config.radius)
    orientations = rotation_grid(N_SIDE_FOR_POWER).to(spectra.device)
    grid = prepared_density(spectra, density, disc.radius, OVERSAMPLING)
    slices = grid.slices(orientations, disc)
    encoder = RowEncoder(config, disc, _mean_power_per_shell(slices, disc))
    initialise_row_encoder(encoder, generator_for(seed, "row encoder"))
    return encoder.to(spectra.device)


def _mean_power_per_shell(slices: Tensor, disc: Disc) -> Float[Tensor, " coefficient"]:
    shell = disc.shell_per_coefficient
    total = slices.new_zeros(int(shell.max()) + 1)
    total = total.index_add(0, shell, slices.square().mean(0))
    return (total / torch.bincount(shell))[shell]
