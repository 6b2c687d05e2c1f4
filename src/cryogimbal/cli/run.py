"""One run from its input to its files, with checkpoints on the way."""

import time
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console

from cryogimbal.cli.circumstances import RunInput, announce, circumstances_of
from cryogimbal.cli.classes import ClassPart, parts_of, told_of_class
from cryogimbal.cli.display import Display, clock
from cryogimbal.cli.final_maps import (
    box_of_final_maps,
    make_final_maps,
    told_of_halves,
    told_of_maps,
)
from cryogimbal.cli.prepare import prepare
from cryogimbal.cli.results import FILES, found_poses, write_results
from cryogimbal.cli.search import Search, begin_search, found_classes
from cryogimbal.cli.signals import StopSignals
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.final_maps import FinalMaps
from cryogimbal.inference.records import (
    EpochRecord,
    NoticeRecord,
    Record,
    StepRecord,
    SwitchRecord,
)
from cryogimbal.io.checkpoints import save_checkpoint
from cryogimbal.io.run_folder import (
    RunFolder,
    append_metrics,
    count_metrics,
    truncate_metrics,
    write_json,
)

# Checkpoints follow the clock; nothing that is computed depends on when they are written.
SECONDS_BETWEEN_CHECKPOINTS = 20.0
KINDS: dict[type, str] = {EpochRecord: "epoch", SwitchRecord: "switch", NoticeRecord: "notice"}


class FailedSearchError(Exception):
    """What has been found is no structure, and its files say so."""


class Recorder:
    """Writes records and checkpoints of a run; counts its time across interruptions."""

    def __init__(
        self,
        run: RunFolder,
        reconstruction: Search,
        checkpoint: dict[str, Any] | None,
        began: float,
    ) -> None:
        self._run = run
        self._reconstruction = reconstruction
        self._number = 0
        self._seconds_before = 0.0
        self._began, self._saved = began, time.monotonic()
        if checkpoint is not None:
            reconstruction.load_state_dict(checkpoint["reconstruction"])
            truncate_metrics(run, checkpoint["n_metrics"])
            self._number = checkpoint["number"]
            self._seconds_before = checkpoint["seconds"]
        elif run.metrics.exists():
            truncate_metrics(run, 0)

    @property
    def seconds(self) -> float:
        """Time the run has taken, interruptions left out."""
        return self._seconds_before + time.monotonic() - self._began

    def take(self, record: Record) -> None:
        """Write a record; save a checkpoint when one is due."""
        if isinstance(record, StepRecord):
            return
        kind = KINDS[type(record)]
        append_metrics(
            self._run, {"type": kind, **asdict(record), "seconds": round(self.seconds, 3)}
        )
        due = time.monotonic() - self._saved > SECONDS_BETWEEN_CHECKPOINTS
        if due or isinstance(record, SwitchRecord):
            self.save()

    def save(self) -> None:
        """Write a checkpoint of the run as it stands."""
        self._number += 1
        save_checkpoint(
            self._run,
            self._number,
            {
                "number": self._number,
                "n_metrics": count_metrics(self._run),
                "seconds": self.seconds,
                "reconstruction": self._reconstruction.state_dict(),
            },
        )
        self._saved = time.monotonic()


def run_to_end(
    run: RunFolder,
    source: RunInput,
    config: ReconstructionConfig,
    *,
    checkpoint: dict[str, Any] | None,
) -> None:
    """Read the input, search, and write the results; a signal stops it after a checkpoint.

    Raises
    ------
    FailedSearchError
        If map or poses show that no structure has been found; all files are written nonetheless.
    """
    began = time.monotonic()
    console = Console(highlight=False, soft_wrap=True)
    if source.n_threads != torch.get_num_threads():
        console.print(
            f"note: the run began with {source.n_threads} threads and goes on with "
            f"{torch.get_num_threads()}; sums may differ in their last digits"
        )
    with StopSignals() as signals:
        prepared = prepare(source.table, source.image_root, config)
        announce(console, prepared, config)
        signals.raise_if_received(f"nothing new is found; cryogimbal resume {run.path} goes on")
        search = begin_search(prepared, config)
        recorder = Recorder(run, search, checkpoint, began)
        _search(search, recorder, console, signals, run)
        classes = found_classes(search)
        parts = parts_of(prepared, classes)
        maps = []
        for part in parts:
            if part.found.half_alignment is not None:
                console.print(told_of_halves(part.found.half_alignment), markup=False)
            if len(parts) > 1:
                console.print(told_of_class(run.of_class(part.number), part, len(classes.number)))
            maps.append(_final_maps(console, part, config, signals))
        found = write_results(run, prepared, classes, maps, config.particle_diameter)
        circumstances = circumstances_of(source, prepared, config)
        # Last of all: a run is finished once its summary is there.
        seconds = round(recorder.seconds, 1)
        write_json(run.summary, {**circumstances, "seconds": seconds, **found})
    console.print(f"finished in {clock(seconds)}", markup=False)
    for name, meaning in FILES.items():
        if not (run.path / name).exists():
            continue
        console.print(f"  {run.path / name}  {meaning}", markup=False)
    for part, own in zip(parts, maps, strict=True):
        which = f"class {part.number}: " if len(parts) > 1 else ""
        console.print(which + told_of_maps(own))
    if classes.signs_of_collapse:
        raise FailedSearchError(
            f"{run.path}: {'; '.join(classes.signs_of_collapse)}; after {classes.n_restarts} restarts. "
            "Do not take the map for a structure: look at the images and the box, or try another --seed"
        )


def _search(
    search: Search, recorder: Recorder, console: Console, signals: StopSignals, run: RunFolder
) -> None:
    """Run to the end of the search; a checkpoint is written there, or where a signal stops it."""
    with Display(console) as display:
        for record in search.records():
            recorder.take(record)
            display.show(record)
            if signals.received is not None:
                recorder.save()
                signals.raise_if_received(
                    f"a checkpoint is written; cryogimbal resume {run.path} goes on from here"
                )
    # What was searched for is safe before the images are read once more.
    recorder.save()


def _final_maps(
    console: Console, part: ClassPart, config: ReconstructionConfig, signals: StopSignals
) -> FinalMaps:
    prepared, result = part.prepared, part.found
    box, notice = box_of_final_maps(prepared, config)
    if notice:
        console.print(f"note: {notice}", markup=False)
    console.print(
        f"final maps of {box}³ voxels from all {len(prepared.stack):,} images, read again"
    )
    found = (found_poses(prepared, result.poses), result.noise, result.symmetry.group)

    def watch() -> None:
        signals.raise_if_received("the search is done and kept; cryogimbal resume makes the maps")

    return make_final_maps(prepared, found, box, config, watch)
