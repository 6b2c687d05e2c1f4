"""Ab initio of cryoDRGN 4.3: how it is called, what it leaves behind, how its poses are read."""

import pickle
import re
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from peer_task import SeenPoses, Snapshot, Task, executable

from cryogimbal.data.poses import PoseSet
from cryogimbal.io.star_table import read_table

FINISHED = re.compile(r"(Pretrain|HPS|SGD) Epoch: \d+ finished in (\d+):(\d+):([\d.]+)")
EPOCHS = {"Pretrain": 1, "HPS": 3, "SGD": 27}
"""cryoDRGN's default schedule: 30 epochs after a first one from random poses, which sees each image
once where the stack has fewer than 10,000."""


def cryodrgn_commands(task: Task) -> list[list[str]]:
    """Ab initio of centred particles, with poses and map written at every epoch."""
    return _cryodrgn(task, "--explicit-volume")


def cryodrgn_rate_commands(task: Task) -> list[list[str]]:
    """The default network on the first images alone: a first epoch and one pose search.

    Which images is told by a file, written here.
    """
    chosen = task.out / "first.pkl"
    chosen.write_bytes(pickle.dumps(np.arange(task.rate_images)))
    few = ("--ind", str(chosen), "--epochs-pose-search", "1", "--num-epochs", "1")
    return _cryodrgn(task, *few)


def _cryodrgn(task: Task, *options: str) -> list[list[str]]:
    program, ctf = executable(task, "cryodrgn"), str(task.out / "ctf.pkl")
    centred = "--zdim 0 --no-trans --t-extent 0 --t-ngrid 1 --no-amp --no-analysis --checkpoint 1"
    place = ["--ctf", ctf, "--seed", str(task.seed), "-o", str(task.out)]
    return [
        [program, "parse_ctf_star", "particles.star", "-o", ctf],
        [program, "abinit", "particles.star", *centred.split(), *options, *place],
    ]


def cryodrgn_snapshots(out: Path) -> list[Snapshot]:
    """Every epoch but the first, whose poses are random."""
    found = []
    for poses in out.glob("pose.[0-9]*.pkl"):
        step = int(poses.name.split(".")[1])
        density = out / f"reconstruct.{step}.mrc"
        if step > 0 and density.exists():
            found.append(Snapshot(step=step, poses=poses, density=density))
    return sorted(found, key=lambda snapshot: snapshot.step)


def read_cryodrgn(path: Path) -> SeenPoses:
    """Matrices of cryoDRGN are RELION's; of centred particles it writes nothing else."""
    rotation = torch.from_numpy(np.asarray(pickle.loads(path.read_bytes()), dtype=np.float32))
    poses = PoseSet(rotation=rotation, shift_angstrom=torch.zeros(len(rotation), 2))
    return SeenPoses(index=torch.arange(len(rotation)), poses=poses)


def epoch_seconds(log: str) -> dict[str, list[float]]:
    """Time of each finished epoch of cryoDRGN by its kind: Pretrain, HPS (pose search), SGD."""
    seconds: dict[str, list[float]] = {kind: [] for kind in EPOCHS}
    for kind, hours, minutes, rest in FINISHED.findall(log):
        duration = timedelta(hours=int(hours), minutes=int(minutes), seconds=float(rest))
        seconds[kind].append(duration.total_seconds())
    return seconds


def cryodrgn_full_seconds(task: Task) -> float | None:
    """The default schedule at the mean time of the epochs that were finished."""
    seconds = epoch_seconds((task.out / "run.log").read_text(encoding="utf-8"))
    if not all(seconds.values()):
        return None
    return sum(n * sum(seconds[kind]) / len(seconds[kind]) for kind, n in EPOCHS.items())


def cryodrgn_rate_full_seconds(task: Task) -> float | None:
    """The pose searches of the whole stack, from one of a few images: less than the whole schedule.

    The other epochs of a few images are mostly the start of its workers, and would tell too much.
    """
    searches = epoch_seconds((task.out / "run.log").read_text(encoding="utf-8"))["HPS"]
    n_particles = read_table(task.stack / "particles.star").n_particles
    return EPOCHS["HPS"] * searches[0] * n_particles / task.rate_images if searches else None


def none_written(out: Path) -> list[Snapshot]:  # noqa: ARG001
    """Nothing of a program of which only the rate is measured."""
    return []
