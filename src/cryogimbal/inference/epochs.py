"""Where a stage stands within its epochs: batches, sums for the records, and their checkpoint."""

from collections.abc import Iterator
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.inference.records import EpochRecord, StepRecord
from cryogimbal.inference.seeding import epoch_batches
from cryogimbal.rotations import geodesic_distance_deg


class EpochProgress:
    """Position of a stage, exact at any step, so that a run can stop and go on anywhere."""

    def __init__(
        self, *, stage: str, n_epochs: int, n_images: int, batch_size: int, seed: int
    ) -> None:
        self.epoch = 0
        self._stage = stage
        self.n_epochs = n_epochs
        self._n_images = n_images
        self._batch_size = batch_size
        self._seed = seed
        self._position = 0
        self._images_done = 0
        self._loss_sum = 0.0
        self._rotation_before: Tensor | None = None

    def begin(self, rotation: Float[Tensor, "particle 3 3"] | None) -> None:
        """Remember the poses that an epoch starts from, unless it is under way already."""
        if self._position == 0 and rotation is not None:
            self._rotation_before = rotation.clone()

    def remaining_batches(self) -> Iterator[Int[Tensor, " batch"]]:
        """Batches of this epoch that are still to do, in the epoch's own order."""
        batches = epoch_batches(
            self._n_images, self._batch_size, self._seed, self._stage, self.epoch
        )
        yield from batches[self._position :]

    def finish_step(
        self, index: Int[Tensor, " batch"], loss: Float[Tensor, " batch"]
    ) -> StepRecord:
        """Count a batch."""
        self._position += 1
        self._images_done += len(index)
        self._loss_sum += float(loss.sum())
        return StepRecord(
            stage=self._stage,
            epoch=self.epoch,
            n_epochs=self.n_epochs,
            images_done=self._images_done,
            images_total=self._n_images,
            loss=float(loss.mean()),
        )

    def expect(self, left: int) -> None:
        """Say how many epochs will follow the one under way, as far as is known."""
        self.n_epochs = self.epoch + 1 + left

    def turned_deg(self, rotation: Float[Tensor, "particle 3 3"]) -> float:
        """Median turn of a pose since the epoch began."""
        assert self._rotation_before is not None
        return float(geodesic_distance_deg(self._rotation_before, rotation).median())

    def finish_epoch(
        self, rotation: Float[Tensor, "particle 3 3"] | None, **measured: Any
    ) -> EpochRecord:
        """Close the epoch; ``measured`` are the stage's own fields of the record.

        A stage that moves no poses of the images gives none.
        """
        change = None
        if self._rotation_before is not None and rotation is not None:
            change = self.turned_deg(rotation)
        record = EpochRecord(
            stage=self._stage,
            epoch=self.epoch,
            n_epochs=self.n_epochs,
            images_total=self._n_images,
            loss=self._loss_sum / max(1, self._images_done),
            pose_change_median_deg=change,
            **measured,
        )
        self.epoch += 1
        self._position = self._images_done = 0
        self._loss_sum, self._rotation_before = 0.0, None
        return record

    def state_dict(self) -> dict[str, Any]:
        """The position and the sums so far."""
        return {
            "epoch": self.epoch,
            "n_epochs": self.n_epochs,
            "position": self._position,
            "images_done": self._images_done,
            "loss_sum": self._loss_sum,
            "rotation_before": self._rotation_before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.epoch, self.n_epochs = state["epoch"], state["n_epochs"]
        self._position = state["position"]
        self._images_done = state["images_done"]
        self._loss_sum = state["loss_sum"]
        self._rotation_before = state["rotation_before"]
