"""``cryogimbal simulate``: particles with a known answer."""

from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console

from cryogimbal.cli.simulation_case import SUFFIX, SimulationCase, read_case
from cryogimbal.data.density import DensityMap
from cryogimbal.data.particles import ParticleStack
from cryogimbal.errors import InputError
from cryogimbal.io.mrc import write_density, write_image_stack
from cryogimbal.io.star_junk import junk_columns
from cryogimbal.io.star_write import SimulatedImageFile, write_simulated_files
from cryogimbal.simulation.junk import NO_JUNK
from cryogimbal.simulation.maps import regrid_density
from cryogimbal.simulation.particles import (
    SimulatedParticles,
    chunks_of,
    simulate_particles,
)
from cryogimbal.simulation.settings import SimulationSettings
from cryogimbal.simulation.sources import source_to_density

STACK, TABLE, TRUE_TABLE, TRUE_MAP = "particles.mrcs", "particles.star", "truth.star", "truth.mrc"


@dataclass(frozen=True, kw_only=True)
class Simulate:
    """Make a stack of noisy projections with CTF at random poses, and keep the answer beside it."""

    source: Annotated[str, tyro.conf.Positional]
    """A phantom (asymmetric, c2 ... c20, d2 ... d10, t, o, i), an atomic model (.pdb, .cif, also .gz)
    or a map (.mrc); or a TOML file that names one and has options, which flags go over."""
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
        case = SimulationCase(source=self.source, settings=self.settings)
        if self.source.endswith(SUFFIX):
            case = replace(read_case(Path(self.source)), settings=self.settings)
        groups = case.group_settings()
        names = (
            (STACK,) if len(groups) == 1 else tuple(map(_group_stack, range(1, len(groups) + 1)))
        )
        for name in (*names, TABLE, TRUE_TABLE, TRUE_MAP):
            if (self.out / name).exists():
                raise InputError(
                    f"{self.out}: expected a folder without {name}, found one; choose another --out"
                )
        # The sampling of the first group is that of the true map.
        density = source_to_density(case.source, groups[0])
        generator = torch.Generator().manual_seed(self.settings.seed)
        simulated = [
            simulate_particles(_sampled_for(density, group), group, generator) for group in groups
        ]
        self.out.mkdir(parents=True, exist_ok=True)
        for name, particles in zip(names, simulated, strict=True):
            images, stack = particles.images, particles.stack
            write_image_stack(
                self.out / name,
                (images.read(index) for index in chunks_of(images.n_images)),
                stack.pixel_size_angstrom,
            )
        files = [
            SimulatedImageFile(
                path=self.out / name,
                stack=particles.stack if len(groups) == 1 else _named(particles.stack, number),
                labels=self._labels(particles),
            )
            for number, (name, particles) in enumerate(zip(names, simulated, strict=True), start=1)
        ]
        write_simulated_files(self.out / TABLE, [_without_answer(file) for file in files])
        write_simulated_files(self.out / TRUE_TABLE, files)
        write_density(self.out / TRUE_MAP, density)
        self._announce(simulated, (*names, TABLE, TRUE_TABLE, TRUE_MAP))

    def _labels(self, particles: SimulatedParticles) -> dict[str, list[str]]:
        if self.settings.junk_fraction == 0:
            return {}
        return junk_columns(particles.images.junk.names, NO_JUNK)

    def _announce(self, simulated: list[SimulatedParticles], names: tuple[str, ...]) -> None:
        console = Console(highlight=False, soft_wrap=True)
        for particles in simulated:
            stack = particles.stack
            console.print(
                f"{len(stack):,} particles of {stack.box}² at {stack.pixel_size_angstrom:.4g} Å, "
                f"SNR {self.settings.snr:g}, seed {self.settings.seed}",
                markup=False,
            )
        n_junk = sum(int(particles.images.junk.is_junk.sum()) for particles in simulated)
        if n_junk:
            console.print(f"{n_junk:,} of them are junk, labelled in {TRUE_TABLE}", markup=False)
        for name in names:
            console.print(f"  {self.out / name}", markup=False)


def simulate_with_defaults(settings: SimulationSettings) -> type[Simulate]:
    """The same command with other defaults, for a file named as its source."""
    annotation = Annotated[SimulationSettings, tyro.conf.arg(name="")]
    return make_dataclass(
        Simulate.__name__,
        [("settings", annotation, field(default=settings))],
        bases=(Simulate,),
        namespace={"__doc__": Simulate.__doc__},
        frozen=True,
        kw_only=True,
    )


def _group_stack(number: int) -> str:
    return f"particles{number}.mrcs"


def _sampled_for(density: DensityMap, group: SimulationSettings) -> DensityMap:
    """The one density on the grid of an optics group."""
    box = group.box or density.box
    pixel_size = group.pixel_size or density.voxel_size_angstrom
    if (box, pixel_size) == (density.box, density.voxel_size_angstrom):
        return density
    return regrid_density(density, box, pixel_size)


def _named(stack: ParticleStack, number: int) -> ParticleStack:
    """The stack with names of optics groups that tell it from others."""
    named = tuple(replace(group, name=f"{group.name}{number}") for group in stack.optics)
    return replace(stack, optics=named)


def _without_answer(file: SimulatedImageFile) -> SimulatedImageFile:
    return replace(file, stack=replace(file.stack, poses=None), labels={})
