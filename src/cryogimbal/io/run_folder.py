"""The folder of a run: what is in it, and how it is written so that a crash loses nothing."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryogimbal.errors import InputError
from cryogimbal.io.atomic import disk_full, is_disk_full, write_text_atomically
from cryogimbal.io.class_files import ClassFiles
from cryogimbal.io.file_set import is_half_replaced


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Paths of a run's files."""

    path: Path

    @property
    def config(self) -> Path:
        """The configuration used."""
        return self.path / "config.toml"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, as the run goes."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """Results of the run."""
        return self.path / "summary.json"

    @property
    def evaluation(self) -> Path:
        """Comparison with the truth."""
        return self.path / "evaluation.json"

    def of_class(self, number: int) -> ClassFiles:
        """Maps of a class, from 1, and what is written beside them."""
        return ClassFiles(folder=self.path, number=number)

    @property
    def density(self) -> Path:
        """The density found; with several classes that of the first."""
        return self.of_class(1).density

    def half_map(self, number: int) -> Path:
        """The unfiltered map of half 1 or 2, named so that RELION's PostProcess finds its partner."""
        return self.of_class(1).half_map(number)

    @property
    def mask(self) -> Path:
        """What the half-maps are compared in."""
        return self.of_class(1).mask

    @property
    def fsc_star(self) -> Path:
        """How the half-maps agree, laid out as RELION's postprocess.star."""
        return self.of_class(1).fsc_star

    @property
    def fsc_xml(self) -> Path:
        """The corrected correlation for EMDB."""
        return self.of_class(1).fsc_xml

    @property
    def particles(self) -> Path:
        """The input table with the poses found."""
        return self.path / "particles.star"

    @property
    def encoder(self) -> Path:
        """The encoder taught from the density, for new images."""
        return self.path / "encoder.pt"

    @property
    def checkpoints(self) -> Path:
        """Folder of states to resume from."""
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        """Folder of pictures."""
        return self.path / "figures"


def create_run_folder(path: Path, config_toml: str) -> RunFolder:
    """Make the folder of a new run and write its configuration.

    Raises
    ------
    InputError
        If the folder holds a run, or files that a run would overwrite.
    """
    run = RunFolder(path=path)
    if path.exists() and not path.is_dir():
        raise InputError(
            f"{path}: expected a folder for the run, found a file; choose another --out"
        )
    if run.config.exists() or run.checkpoints.exists():
        raise InputError(
            f"{path}: expected a new folder, found another run (cryogimbal resume {path} continues "
            "it); choose another --out"
        )
    written = (
        run.metrics,
        run.summary,
        run.evaluation,
        run.density,
        run.half_map(1),
        run.half_map(2),
        run.mask,
        run.fsc_star,
        run.fsc_xml,
        run.particles,
        run.encoder,
        run.figures,
    )
    for file in written:
        if file.exists():
            raise InputError(
                f"{path}: expected a folder without files that the run would overwrite, found "
                f"{file.name}; choose another --out"
            )
    path.mkdir(parents=True, exist_ok=True)
    run.checkpoints.mkdir()
    run.figures.mkdir()
    write_text_atomically(run.config, config_toml)
    return run


def open_run_folder(path: Path) -> RunFolder:
    """The folder of an existing run.

    Raises
    ------
    InputError
        If there is no run in it.
    """
    run = RunFolder(path=path)
    if not run.config.is_file():
        raise InputError(
            f"{path}: expected the folder of a run, found no {run.config.name} in it; name the "
            "folder given as --out"
        )
    if is_half_replaced(path):
        raise InputError(
            f"{path}: expected files of one hand, found some of either: a flip was interrupted; "
            f"cryogimbal flip-hand {path} finishes it"
        )
    return run


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write one JSON object; NaN and infinity become null, since JSON has no such numbers."""
    write_text_atomically(path, json.dumps(_finite(record), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object.

    Raises
    ------
    InputError
        If the file is missing or holds something else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; the run has not written it yet")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, found something else ({error})") from error
    if not isinstance(record, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(record).__name__}")
    return record


def append_metrics(run: RunFolder, record: Mapping[str, Any]) -> None:
    """Add one line to the metrics; NaN and infinity become null.

    Raises
    ------
    DiskFullError
        If it does not fit.
    """
    line = json.dumps(_finite(record), allow_nan=False) + "\n"
    try:
        with run.metrics.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(run.metrics) from error
        raise


def read_metrics(run: RunFolder) -> list[dict[str, Any]]:
    """All complete lines; one that a killed process left half is not among them."""
    return [json.loads(line) for line in _metrics_lines(run)]


def count_metrics(run: RunFolder) -> int:
    """Number of complete lines, to be kept in a checkpoint."""
    return len(_metrics_lines(run))


def truncate_metrics(run: RunFolder, n_lines: int) -> None:
    """Drop the lines behind the first ``n_lines``, which a resumed run will write again.

    Raises
    ------
    InputError
        If the file has fewer lines, that is, if it was changed.
    """
    lines = _metrics_lines(run)
    if len(lines) < n_lines:
        raise InputError(
            f"{run.metrics}: expected at least the {n_lines} lines of the checkpoint, found "
            f"{len(lines)}; the file was changed: start a new run with another --out"
        )
    write_text_atomically(run.metrics, "".join(f"{line}\n" for line in lines[:n_lines]))


def _metrics_lines(run: RunFolder) -> list[str]:
    if not run.metrics.exists():
        return []
    pieces = run.metrics.read_text(encoding="utf-8").split("\n")
    # What follows the last line end is empty, or a line that was never finished.
    return pieces[:-1]


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
