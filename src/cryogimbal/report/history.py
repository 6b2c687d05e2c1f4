"""The lines of ``metrics.jsonl`` sorted into stages and the switches between them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy

from cryogimbal.errors import InputError

Line = Mapping[str, Any]

# Fields of EpochRecord, StepRecord and SwitchRecord that tell the three apart.
NOTICE_FIELDS = {"text"}
# What the loss of a stage is, unless the stage measures its heads by the error of known poses.
RESIDUAL = "loss"
EPOCH_FIELDS = {"stage", "epoch", "loss", "resolution_angstrom"}
STEP_FIELDS = {"stage", "epoch", "images_done"}
SWITCH_FIELDS = {"from_stage", "to_stage", "reason"}


@dataclass(frozen=True, kw_only=True)
class StageHistory:
    """The finished epochs of one stage, in order."""

    name: str
    epochs: tuple[Line, ...]

    @property
    def epoch_number(self) -> numpy.ndarray:
        """From 1."""
        return numpy.array([line["epoch"] + 1 for line in self.epochs])

    def series(self, field: str) -> numpy.ndarray:
        """One number per epoch; NaN where it was not measured."""
        values = [
            None if field == RESIDUAL and line.get("head_error_median_deg") else line.get(field)
            for line in self.epochs
        ]
        return numpy.array([math.nan if v is None else float(v) for v in values])

    def head_usage(self) -> numpy.ndarray | None:
        """Share of the images that each head won, ``[epoch, head]``; none without heads.

        Raises
        ------
        InputError
            If the number of heads changes.
        """
        usage = [tuple(line.get("head_usage") or ()) for line in self.epochs]
        sizes = {len(shares) for shares in usage}
        if len(sizes) > 1:
            raise InputError(
                f"head usage of {self.name}: expected one number of heads in all epochs, found "
                f"{sorted(sizes)}"
            )
        return None if sizes == {0} else numpy.array(usage, dtype=float)


@dataclass(frozen=True, kw_only=True)
class Switch:
    """Where one stage handed over to the next."""

    from_stage: str
    to_stage: str
    after_epoch: int
    """Epochs that the first of the two had finished."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """The stages of a run and what ended each but the last."""

    stages: tuple[StageHistory, ...]
    switches: tuple[Switch, ...]


def run_history(records: Sequence[Line]) -> RunHistory:
    """Sort the records of a run: epochs and switches are kept, steps and notices passed over.

    Raises
    ------
    InputError
        If a record is none of the four, or there is no epoch among them.
    """
    epochs: list[Line] = []
    switches: list[Switch] = []
    for number, record in enumerate(records, start=1):
        if record.keys() >= SWITCH_FIELDS:
            after = sum(line["stage"] == record["from_stage"] for line in epochs)
            told = {field: record[field] for field in SWITCH_FIELDS}
            switches.append(Switch(after_epoch=after, **told))
        elif record.keys() >= EPOCH_FIELDS:
            epochs.append(record)
        elif not (record.keys() >= STEP_FIELDS or record.keys() >= NOTICE_FIELDS):
            raise InputError(
                f"record {number} of the run: expected an epoch, a step or a switch of stages, "
                f"found the fields {sorted(record)}; is this a metrics.jsonl?"
            )
    if not epochs:
        raise InputError(
            f"expected at least one finished epoch among {len(records)} records of the run, "
            "found none; there is no progress to draw yet"
        )
    stages = tuple(
        StageHistory(name=name, epochs=tuple(lines))
        for name, lines in groupby(epochs, key=lambda line: line["stage"])
    )
    return RunHistory(stages=stages, switches=tuple(switches))
