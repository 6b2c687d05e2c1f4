"""When auto-encoding hands over, decided from what the run itself measures.

The encoder is worth its cost while poses are ambiguous: then whole modes change between epochs. Once
they have settled, what is left is the network's own imprecision (the amortization gap), which shows
as a loss that no longer improves while poses keep trembling by a steady small angle.
"""

from dataclasses import dataclass, field

from cryogimbal.inference.config_stages import SwitchConfig
from cryogimbal.inference.records import EpochRecord


@dataclass(kw_only=True)
class SwitchRule:
    """Reads epoch records and says when to hand over, and why."""

    config: SwitchConfig
    losses: list[float] = field(default_factory=list)

    def reason_to_switch(self, record: EpochRecord) -> str | None:
        """A sentence once the stage has done its part, else none."""
        self.losses.append(record.loss)
        if record.epoch + 1 >= record.n_epochs:
            return f"all {record.n_epochs} epochs are done"
        if self.config.rule == "fixed":
            return None
        change = record.pose_change_median_deg
        if change is None or change > self.config.settled_deg:
            return None
        if not self._stalled():
            return None
        return (
            f"poses have settled (median change {change:.1f}° per epoch, below "
            f"{self.config.settled_deg:g}°) and {self.config.patience} epochs brought less than "
            f"{self.config.improvement:.0%} of the loss gained so far"
        )

    def _stalled(self) -> bool:
        """Whether the last epochs gained little beside everything gained since the start."""
        patience = self.config.patience
        if len(self.losses) <= patience:
            return False
        before, recent = min(self.losses[:-patience]), min(self.losses[-patience:])
        gained = max(self.losses) - recent
        return before - recent < self.config.improvement * gained
