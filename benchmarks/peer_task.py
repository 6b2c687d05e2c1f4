"""What the benchmark of several programs asks of each, and what it gets."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cryogimbal.data.poses import PoseSet


@dataclass(frozen=True, kw_only=True)
class Task:
    """One program, one stack, one seed."""

    stack: Path
    """Folder of particles.star, truth.star and truth.mrc; programs run in it."""
    out: Path
    seed: int
    threads: int
    programs: Path | None = None
    """Folder of the program's executables, where it is not the one of PATH."""
    preset: str = "auto"
    rate_images: int = 64
    """Images that a program is given of which only the rate is measured."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Poses and map that a program wrote at one time."""

    step: int
    poses: Path
    density: Path | None = None
    """None where poses alone can be had; the last snapshot has one."""

    @property
    def written(self) -> float:
        """Time of the later of the two files, in seconds since the epoch."""
        files = [self.poses] if self.density is None else [self.poses, self.density]
        return max(file.stat().st_mtime for file in files)


@dataclass(frozen=True, kw_only=True)
class SeenPoses:
    """Poses of the images that a program has looked at so far."""

    index: torch.Tensor
    poses: PoseSet


def nothing_to_keep(out: Path) -> None:
    """What a program writes on its way stays where it is."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """What the benchmark needs to know of a program."""

    commands: Callable[[Task], list[list[str]]]
    """Called one after the other in the folder of the stack; their times are added up."""
    snapshots: Callable[[Path], list[Snapshot]]
    read: Callable[[Path], SeenPoses]
    full_seconds: Callable[[Task], float | None]
    """Time of the whole schedule by the rates in a program's log, where it was not run to its end."""
    keep: Callable[[Path], None] = nothing_to_keep
    """Called again and again while the program runs, with the task's folder."""


def executable(task: Task, name: str) -> str:
    """How to call a program of the task."""
    return name if task.programs is None else str(task.programs / name)
