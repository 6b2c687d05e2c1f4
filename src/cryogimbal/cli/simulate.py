"""``cryogimbal simulate``: particles with a known answer."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console

from cryogimbal.errors import InputError
from cryogimbal.io.mrc import write_density, write_image_stack
from cryogimbal.io.star_write import write_simulated_particles
from cryogimbal.simulation.particles import chunks_of, simulate_particles
from cryogimbal.simulation.settings import SimulationSettings
from cryogimbal.simulation.sources import source_to_density

STACK, TABLE, TRUE_TABLE, TRUE_MAP = "particles.mrcs", "particles.star", "truth.star", "truth.mrc"


@dataclass(frozen=True, kw_only=True)
class Simulate:
    """Make a stack of noisy projections with CTF at random poses, and keep the answer beside it."""

    source: Annotated[str, tyro.conf.Positional]
    """A phantom (asymmetric, c2 ... c20, d2 ... d10, t, o, i), an atomic model (.pdb, .cif, also .gz)
    or a map (.mrc)."""
    out: Path
    """Folder for particles.mrcs, particles.star, truth.star and truth.mrc; made if it is missing."""
    settings: Annotated[SimulationSettings, tyro.conf.arg(name="")] = field(
        default_factory=SimulationSettings
    )

    def run(self) -> None:
        """Execute the command.

        Raises
        ------
        InputError
            If the source cannot be used, or the folder holds a simulation already.
        """
        for name in (STACK, TABLE, TRUE_TABLE, TRUE_MAP):
            if (self.out / name).exists():
                raise InputError(
                    f"{self.out}: expected a folder without {name}, found one; choose another --out"
                )
        density = source_to_density(self.source, self.settings)
        generator = torch.Generator().manual_seed(self.settings.seed)
        simulated = simulate_particles(density, self.settings, generator)
        self.out.mkdir(parents=True, exist_ok=True)
        images, stack = simulated.images, simulated.stack
        write_image_stack(
            self.out / STACK,
            (images.read(index) for index in chunks_of(images.n_images)),
            stack.pixel_size_angstrom,
        )
        write_simulated_particles(self.out / TABLE, replace(stack, poses=None), self.out / STACK)
        write_simulated_particles(self.out / TRUE_TABLE, stack, self.out / STACK)
        write_density(self.out / TRUE_MAP, simulated.truth)
        console = Console(highlight=False, soft_wrap=True)
        console.print(
            f"{len(stack):,} particles of {stack.box}² at {stack.pixel_size_angstrom:.4g} Å, "
            f"SNR {self.settings.snr:g}, seed {self.settings.seed}",
            markup=False,
        )
        for name in (STACK, TABLE, TRUE_TABLE, TRUE_MAP):
            console.print(f"  {self.out / name}", markup=False)
