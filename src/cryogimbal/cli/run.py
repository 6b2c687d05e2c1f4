"""One run from its input to its files, with checkpoints on the way."""

import platform
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from cryogimbal import __version__
from cryogimbal.cli.display import Display, clock
from cryogimbal.cli.final_maps import box_of_final_maps, make_final_maps, told_of_maps
from cryogimbal.cli.prepare import PreparedInput, prepare
from cryogimbal.cli.results import FILES, found_poses, write_results
from cryogimbal.cli.signals import StopSignals
from cryogimbal.errors import InputError
from cryogimbal.imaging.kernels.choice import kernels_for
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.reconstruct import ReconstructionRun
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
    read_json,
    truncate_metrics,
    write_json,
)

# Checkpoints follow the clock; nothing that is computed depends on when they are written.
SECONDS_BETWEEN_CHECKPOINTS = 20.0
INPUT_FILE = "input.json"
KINDS: dict[type, str] = {EpochRecord: "epoch", SwitchRecord: "switch", NoticeRecord: "notice"}


@dataclass(frozen=True, kw_only=True)
class RunInput:
    """What a run reads and on what it runs, remembered so that it can be resumed."""

    table: Path
    image_root: Path | None
    n_threads: int
    command: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: Path, image_root: Path | None) -> "RunInput":
        """The input of a new run."""
        return cls(
            table=table.absolute(),
            image_root=None if image_root is None else image_root.absolute(),
            n_threads=torch.get_num_threads(),
            command=("cryogimbal", *sys.argv[1:]),
        )

    @classmethod
    def read(cls, run: RunFolder) -> "RunInput":
        """The input of an existing run.

        Raises
        ------
        InputError
            If the run has not recorded its input.
        """
        stored = read_json(run.path / INPUT_FILE)
        try:
            root = stored["image_root"]
            return cls(
                table=Path(stored["table"]),
                image_root=None if root is None else Path(root),
                n_threads=int(stored["n_threads"]),
                command=tuple(stored["command"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{run.path / INPUT_FILE}: expected the input of a run, found no usable {error}"
            ) from error

    def check(self) -> None:
        """Refuse an input that is not there before a folder is made for it."""
        if not self.table.is_file():
            raise InputError(f"{self.table}: no such file; expected a STAR table of particles")

    def write(self, run: RunFolder) -> None:
        """Remember it in the run's folder."""
        stored = asdict(self) | {
            "table": str(self.table),
            "image_root": None if self.image_root is None else str(self.image_root),
            "cryogimbal": __version__,
        }
        write_json(run.path / INPUT_FILE, stored)


class Recorder:
    """Writes records and checkpoints of a run; counts its time across interruptions."""

    def __init__(
        self,
        run: RunFolder,
        reconstruction: ReconstructionRun,
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
    """Read the input, search, and write the results; a signal stops it after a checkpoint."""
    began = time.monotonic()
    console = Console(highlight=False, soft_wrap=True)
    if source.n_threads != torch.get_num_threads():
        console.print(
            f"note: the run began with {source.n_threads} threads and goes on with "
            f"{torch.get_num_threads()}; sums may differ in their last digits"
        )
    with StopSignals() as signals:
        prepared = prepare(source.table, source.image_root, config)
        _announce(console, prepared, config)
        signals.raise_if_received(f"nothing new is found; cryogimbal resume {run.path} goes on")
        reconstruction = ReconstructionRun(prepared.spectra, config, prepared.start)
        recorder = Recorder(run, reconstruction, checkpoint, began)
        with Display(console) as display:
            for record in reconstruction.records():
                recorder.take(record)
                display.show(record)
                if signals.received is not None:
                    recorder.save()
                    signals.raise_if_received(
                        f"a checkpoint is written; cryogimbal resume {run.path} goes on from here"
                    )
        # What was searched for is safe before the images are read once more.
        recorder.save()
        result = reconstruction.result()
        box, notice = box_of_final_maps(prepared, config)
        if notice:
            console.print(f"note: {notice}", markup=False)
        console.print(
            f"final maps of {box}³ voxels from all {len(prepared.stack):,} images, read again"
        )
        maps = make_final_maps(
            prepared,
            (found_poses(prepared, result), result.noise),
            box,
            config,
            lambda: signals.raise_if_received(f"cryogimbal resume {run.path} makes the final maps"),
        )
        found = write_results(run, prepared, result, maps, config.particle_diameter)
        circumstances = _circumstances(source, prepared, config)
        # Last of all: a run is finished once its summary is there.
        seconds = round(recorder.seconds, 1)
        write_json(run.summary, {**circumstances, "seconds": seconds, **found})
    console.print(f"finished in {clock(seconds)}", markup=False)
    for name, meaning in FILES.items():
        if not (run.path / name).exists():
            continue
        console.print(f"  {run.path / name}  {meaning}", markup=False)
    console.print(told_of_maps(maps))


def _announce(console: Console, prepared: PreparedInput, config: ReconstructionConfig) -> None:
    stack, spectra = prepared.stack, prepared.spectra
    lines = [
        f"{len(stack):,} particles of {stack.box}² at {stack.pixel_size_angstrom:.4g} Å",
        f"working box {spectra.disc.box}² at {spectra.pixel_size_angstrom:.4g} Å "
        f"(Nyquist {2 * spectra.pixel_size_angstrom:.4g} Å), shifts {config.shifts}, "
        f"seed {config.seed}, {spectra.device}, {torch.get_num_threads()} threads, "
        f"{kernels_for(spectra.device).NAME} kernels",
        prepared.contrast.sentence,
        *(f"warning: {text}" for text in (*prepared.table.warnings, *prepared.contrast.warnings)),
    ]
    for line in lines:
        console.print(line, markup=False)


def _circumstances(
    source: RunInput, prepared: PreparedInput, config: ReconstructionConfig
) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kibibytes, macOS bytes.
    peak_mib = peak / 1024 if sys.platform != "darwin" else peak / 2**20
    return {
        "cryogimbal": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": list(source.command),
        "input": str(source.table),
        "n_particles": len(prepared.stack),
        "box": prepared.stack.box,
        "pixel_size_angstrom": prepared.stack.pixel_size_angstrom,
        "working_box": prepared.spectra.disc.box,
        "working_pixel_size_angstrom": prepared.spectra.pixel_size_angstrom,
        "seed": config.seed,
        "device": str(prepared.spectra.device),
        "n_threads": torch.get_num_threads(),
        "kernels": kernels_for(prepared.spectra.device).NAME,
        "peak_memory_mib": round(peak_mib),
        "contrast": prepared.contrast.to_dict(),
        "warnings": [*prepared.table.warnings, *prepared.contrast.warnings],
    }
