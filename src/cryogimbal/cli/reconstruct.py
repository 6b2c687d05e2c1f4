"""``cryogimbal reconstruct``: from a particle table to poses and a map."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from cryogimbal.cli.options import DEFAULT_PRESET, config_text
from cryogimbal.cli.run import RunInput, run_to_end
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.io.run_folder import create_run_folder


@dataclass(frozen=True, kw_only=True)
class Reconstruct:
    """Find the poses of all particles and their density, from nothing."""

    input: Annotated[Path, tyro.conf.Positional]
    """Particles: a STAR file of RELION 3.0, 3.1, 4 or 5."""
    out: Path
    """Folder of the run, made new."""
    preset: str = DEFAULT_PRESET
    """Named settings: default, semi-amortized, cryospin or cryospin-experimental."""
    config: Path | None = None
    """TOML file of options, over the preset; flags go over both."""
    image_root: Path | None = None
    """Where to look for image stacks beside the usual places."""
    options: Annotated[ReconstructionConfig, tyro.conf.arg(name="")] = field(
        default_factory=ReconstructionConfig
    )

    def run(self) -> None:
        """Execute the command."""
        source = RunInput.of(self.input, self.image_root)
        source.check()
        run = create_run_folder(self.out, config_text(self.options))
        source.write(run)
        run_to_end(run, source, self.options, checkpoint=None)
