"""Stage 2: every image's own poses, moved directly, in alternation with the volume.

The band limit grows from epoch to epoch, but waits while images still change over between their
hypotheses: a particle that looks nearly the same from two sides shows which is which only once enough
images agree.
"""

import math
from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.calibration import recalibrate
from cryogimbal.inference.config_stages import AutoDecodingConfig
from cryogimbal.inference.epochs import EpochProgress
from cryogimbal.inference.pose_steps import PoseSteps
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.inference.records import EpochRecord, StepRecord
from cryogimbal.inference.volume_update import VolumeUpdate


class AutoDecoding:
    """Pose steps with the volume fixed, then a volume step with the poses fixed."""

    name = "auto_decoding"

    def __init__(
        self,
        spectra: ParticleSpectra,
        table: PoseTable,
        steps: PoseSteps,
        update: VolumeUpdate,
        config: AutoDecodingConfig,
        seed: int,
    ) -> None:
        self.table = table
        self.update = update
        self._spectra = spectra
        self._steps = steps
        self._config = config
        self._level = 0
        self._held = 0
        self._moved = 0.0
        self._progress = EpochProgress(
            stage=self.name,
            n_epochs=config.epochs,
            n_images=len(spectra),
            batch_size=config.batch_size,
            seed=seed,
        )

    def records(self) -> Iterator[StepRecord | EpochRecord]:
        """From where the stage stands to its end; it may be stopped after any record."""
        progress = self._progress
        while self._level < self._config.epochs:
            progress.begin(self.table.best())
            radius = self._radius(self._level)
            for index in progress.remaining_batches():
                loss = self._step(self._spectra.batch(index, radius))
                yield progress.finish_step(index, loss)
            yield self._finish_epoch(radius)

    def reason(self) -> str:
        """Why the stage ended."""
        return f"all {self._progress.n_epochs} epochs are done"

    def state_dict(self) -> dict[str, Any]:
        """Everything but the volume."""
        return {
            "progress": self._progress.state_dict(),
            "level": self._level,
            "held": self._held,
            "moved": self._moved,
            "table": self.table.state_dict(),
            "steps": self._steps.state_dict(),
            "update": self.update.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._progress.load_state_dict(state["progress"])
        self._level, self._held, self._moved = state["level"], state["held"], state["moved"]
        self.table.load_state_dict(state["table"])
        self._steps.load_state_dict(state["steps"])
        self.update.load_state_dict(state["update"])

    def _step(self, batch: ParticleBatch) -> Float[Tensor, " batch"]:
        """Pose steps, then what the volume takes from the batch."""
        loss, moved = self._steps.improve(
            self.table, batch, self.update.decoder(), self._pose_rate()
        )
        self._moved += float(moved.sum())
        self.update.observe(batch, self.table.propose(batch.index))
        return loss

    def _radius(self, level: int) -> float:
        return self._config.band.radius(level, self._spectra.disc.radius)

    def _pose_rate(self) -> float:
        """Cosine from the first rate to the last epoch's."""
        first, last = self._config.pose_rate, self._config.pose_rate_end
        if last is None or self._config.epochs == 1:
            return first
        way = self._level / (self._config.epochs - 1)
        return last + (first - last) * (1 + math.cos(math.pi * way)) / 2

    def _finish_epoch(self, radius: float) -> EpochRecord:
        moved, self._moved = self._moved / len(self._spectra), 0.0
        if moved > self._config.settled and self._held < self._config.held_epochs:
            self._held += 1
            self._progress.n_epochs += 1
        else:
            self._level, self._held = self._level + 1, 0
        searched_again = None
        if self._spectra.noise.estimated and self._held == 0:
            recalibrate(self._spectra, self.table, self.update.decoder(), radius)
        if self._level < self._config.epochs:
            self.update.finish_epoch(self._radius(self._level))
            if self._held == 0:
                searched_again = self._steps.search_outliers(self.table, radius)
        else:
            self.update.finish_stage(radius)
        fsc = self.update.half_map_fsc
        box_angstrom = self._spectra.disc.box * self._spectra.pixel_size_angstrom
        return self._progress.finish_epoch(
            self.table.best(),
            radius=radius,
            resolution_angstrom=box_angstrom / radius,
            half_map_resolution_angstrom=None if fsc is None else fsc.resolution_angstrom(0.143),
            hypotheses_per_image=float((self.table.weight > 0).sum(1).float().mean()),
            changed_over=moved,
            searched_again=searched_again,
        )


class Closing(AutoDecoding):
    """The same once more at the full band limit, after other poses have been set beside those found."""

    name = "closing"
