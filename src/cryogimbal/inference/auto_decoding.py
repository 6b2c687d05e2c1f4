"""Stage 2: every image's own poses, moved directly, in alternation with the volume.

The band limit grows from epoch to epoch, but waits while images still change over between their
hypotheses: a particle that looks nearly the same from two sides shows which is which only once enough
images agree. Once it has grown, the stage ends by what a pass still brings (:mod:`.stopping`).
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
from cryogimbal.inference.held_out import HeldOutLikelihood
from cryogimbal.inference.pose_steps import PoseSteps
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.inference.records import EpochRecord, StepRecord
from cryogimbal.inference.stopping import FinishedPass, StopRule, tellable_deg
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
        self._rule = StopRule(config=config)
        self._ended: str | None = None
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
        while self._ended is None:
            progress.begin(self.table.best())
            radius = self._radius(self._level)
            for index in progress.remaining_batches():
                loss = self._step(self._spectra.batch(index, radius))
                yield progress.finish_step(index, loss)
            yield self._finish_epoch(radius)

    def reason(self) -> str:
        """Why the stage ended."""
        return self._ended or "it was stopped"

    def state_dict(self) -> dict[str, Any]:
        """Everything but the volume."""
        return {
            "progress": self._progress.state_dict(),
            "level": self._level,
            "held": self._held,
            "moved": self._moved,
            "ended": self._ended,
            "rule": self._rule.state_dict(),
            "table": self.table.state_dict(),
            "steps": self._steps.state_dict(),
            "update": self.update.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._progress.load_state_dict(state["progress"])
        self._level, self._held, self._moved = state["level"], state["held"], state["moved"]
        self._ended = state["ended"]
        self._rule.load_state_dict(state["rule"])
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
        way = min(1.0, self._level / (self._config.epochs - 1))
        return last + (first - last) * (1 + math.cos(math.pi * way)) / 2

    def _finish_epoch(self, radius: float) -> EpochRecord:
        moved, self._moved = self._moved / len(self._spectra), 0.0
        if moved > self._config.settled and self._held < self._config.held_epochs:
            self._held += 1
        else:
            self._level, self._held = self._level + 1, 0
        if self._spectra.noise.estimated and self._held == 0:
            recalibrate(self._spectra, self.table, self.update.decoder(), radius)
        held_out = self._gather(radius)
        searched_again = None
        if self._ended is not None:
            self.update.finish_stage()
        else:
            self.update.finish_epoch()
            if self._held == 0:
                searched_again = self._steps.search_outliers(self.table, radius)
        fsc = self.update.half_map_fsc
        box_angstrom = self._spectra.disc.box * self._spectra.pixel_size_angstrom
        return self._progress.finish_epoch(
            self.table.best(),
            radius=radius,
            resolution_angstrom=box_angstrom / radius,
            half_map_resolution_angstrom=None if fsc is None else fsc.resolution_angstrom(0.143),
            held_out_log_likelihood=None if held_out is None else held_out.nats_per_image,
            held_out_standard_error=None if held_out is None else held_out.standard_error,
            ended=self._ended,
            hypotheses_per_image=float((self.table.weight > 0).sum(1).float().mean()),
            changed_over=moved,
            searched_again=searched_again,
        )

    def _gather(self, radius: float) -> HeldOutLikelihood | None:
        """Take in all images at their new poses, and decide whether that was the last pass."""
        planned = self._level >= self._config.epochs
        following = radius if planned else self._radius(self._level)
        self.update.gather(following)
        held_out = None
        if following < self._radius(self._config.band.growth_epochs):
            self._ended = f"all {self._config.epochs} passes are done" if planned else None
        else:
            held_out = self.update.held_out()
            self._ended = self._reason_to_stop(radius, held_out)
        self._progress.expect(self._passes_left())
        return held_out

    def _reason_to_stop(self, radius: float, held_out: HeldOutLikelihood | None) -> str | None:
        done = FinishedPass(
            passes=self._level,
            turn_deg=self._progress.turned_deg(self.table.best()),
            tellable_deg=tellable_deg(radius, self.update.particle_width_box),
            held_out=held_out,
        )
        reason = self._rule.reason_to_stop(done)
        # While weight goes over, the median says little of the images that it goes over in.
        return None if self._held > 0 else reason

    def _passes_left(self) -> int:
        """As far as can be said; none once the stage has ended."""
        return 0 if self._ended is not None else max(1, self._config.epochs - self._level)


class Closing(AutoDecoding):
    """The same once more at the full band limit, after other poses have been set beside those found."""

    name = "closing"
