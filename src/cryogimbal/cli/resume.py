"""``cryogimbal resume``: go on where a run was stopped."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cryogimbal.cli.circumstances import RunInput
from cryogimbal.cli.options import read_config
from cryogimbal.cli.run import run_to_end
from cryogimbal.errors import InputError
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.io.checkpoints import latest_checkpoint, list_checkpoints, load_checkpoint
from cryogimbal.io.run_folder import open_run_folder


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Continue a stopped or killed run from its last checkpoint, bit by bit the same on a CPU."""

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""

    def run(self) -> None:
        """Execute the command.

        Raises
        ------
        InputError
            If the folder holds no run, or one that is finished.
        """
        run = open_run_folder(self.run_folder)
        if run.summary.exists():
            raise InputError(
                f"{run.path}: expected an unfinished run, found a finished one (summary.json); "
                "its results are in map.mrc and particles.star"
            )
        config = read_config(run.config, ReconstructionConfig())
        checkpoint = None
        if list_checkpoints(run):
            checkpoint = load_checkpoint(latest_checkpoint(run))
        run_to_end(run, RunInput.read(run), config, checkpoint=checkpoint)
