"""What a run reads and on what it runs: told at its beginning, and kept with it."""

import platform
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from cryogimbal import __version__
from cryogimbal.cli.prepare import PreparedInput
from cryogimbal.data.particles import ParticleStack
from cryogimbal.errors import InputError
from cryogimbal.imaging.kernels.choice import kernels_for
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.io.run_folder import RunFolder, read_json, write_json

INPUT_FILE = "input.json"


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


def announce(console: Console, prepared: PreparedInput, config: ReconstructionConfig) -> None:
    """Say what is about to be searched, how, and on what."""
    stack, spectra = prepared.stack, prepared.spectra
    lines = [
        *told_of_images(stack),
        f"working box {spectra.disc.box}² at {spectra.pixel_size_angstrom:.4g} Å "
        f"(Nyquist {2 * spectra.pixel_size_angstrom:.4g} Å), shifts {config.shifts}, "
        f"seed {config.seed}, {spectra.device}, {torch.get_num_threads()} threads, "
        f"{kernels_for(spectra.device).NAME} kernels",
        prepared.contrast.sentence,
        *_told_of_searches(prepared),
        *(f"warning: {text}" for text in (*prepared.table.warnings, *prepared.contrast.warnings)),
    ]
    for line in lines:
        console.print(line, markup=False)


def told_of_images(stack: ParticleStack) -> tuple[str, ...]:
    """How many images there are, and of what box and pixel size."""
    common = f"{stack.box}² at {stack.pixel_size_angstrom:.4g} Å"
    if stack.has_one_sampling:
        return (f"{len(stack):,} particles of {common}",)
    groups = tuple(
        f"  {int((stack.optics_index == number).sum()):,} of {group.box}² at "
        f"{group.pixel_size_angstrom:.4g} Å in optics group '{group.name}'"
        for number, group in enumerate(stack.optics)
    )
    width = stack.width_angstrom
    return (
        f"{len(stack):,} particles of several samplings, brought to {common} ({width:.4g} Å wide)",
        *groups,
    )


def _told_of_searches(prepared: PreparedInput) -> tuple[str, ...]:
    if prepared.half_sets.poses == "shared":
        return ()
    first, second = prepared.half_sets.sizes
    return (
        f"half-sets independent: two searches that share nothing, of {first:,} and {second:,} images",
    )


def circumstances_of(
    source: RunInput, prepared: PreparedInput, config: ReconstructionConfig
) -> dict[str, Any]:
    """What the summary says of a run beside its results."""
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
