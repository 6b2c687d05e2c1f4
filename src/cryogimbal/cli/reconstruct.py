"""``cryogimbal reconstruct``: from a particle table to poses and a map."""

import shutil
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from cryogimbal.cli.circumstances import INPUT_FILE, RunInput
from cryogimbal.cli.options import DEFAULT_PRESET, config_text
from cryogimbal.cli.run import run_to_end
from cryogimbal.errors import InputError
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.io.run_folder import RunFolder, create_run_folder


@dataclass(frozen=True, kw_only=True)
class Reconstruct:
    """Find the poses of all particles and their density, from nothing."""

    input: Annotated[Path, tyro.conf.Positional]
    """Particles: a STAR file of RELION 3.0, 3.1, 4 or 5."""
    out: Path
    """Folder of the run, made new."""
    preset: str = DEFAULT_PRESET
    """Named settings: auto, semi-amortized, cryospin or cryospin-experimental."""
    config: Path | None = None
    """TOML file of options, over the preset; flags go over both."""
    image_root: Path | None = None
    """Where to look for image stacks beside the usual places."""
    options: Annotated[ReconstructionConfig, tyro.conf.arg(name="")] = field(
        default_factory=ReconstructionConfig
    )

    def run(self) -> None:
        """Execute the command.

        Raises
        ------
        InputError
            If the folder or the input cannot be used.
        """
        source = RunInput.of(self.input, self.image_root)
        source.check()
        options = _with_absolute_paths(self.options)
        existed = self.out.exists()
        run = create_run_folder(self.out, config_text(options))
        try:
            source.write(run)
            run_to_end(run, source, options, checkpoint=None)
        except InputError:
            # Nothing is lost, and the command can be given again as it is once the input is mended.
            if not run.metrics.exists():
                _discard(run)
                if not existed:
                    run.path.rmdir()
            raise


def reconstruct_with_defaults(options: ReconstructionConfig) -> type[Reconstruct]:
    """The same command with other defaults, for a preset and a file named beside it."""
    annotation = Annotated[ReconstructionConfig, tyro.conf.arg(name="")]
    return make_dataclass(
        Reconstruct.__name__,
        [("options", annotation, field(default=options))],
        bases=(Reconstruct,),
        namespace={"__doc__": Reconstruct.__doc__},
        frozen=True,
        kw_only=True,
    )


def _with_absolute_paths(options: ReconstructionConfig) -> ReconstructionConfig:
    """What is written to the run's folder holds wherever the run is resumed from."""
    return replace(
        options,
        initial_map=None if options.initial_map is None else options.initial_map.absolute(),
        mask=None if options.mask is None else options.mask.absolute(),
        initial_poses=None if options.initial_poses is None else options.initial_poses.absolute(),
    )


def _discard(run: RunFolder) -> None:
    """Remove what was made for a run that has not begun."""
    for folder in (run.checkpoints, run.figures):
        shutil.rmtree(folder)
    for file in (run.config, run.path / INPUT_FILE):
        file.unlink(missing_ok=True)
