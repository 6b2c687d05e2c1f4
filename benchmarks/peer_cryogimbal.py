"""How this project is called beside other programs, and its poses on the way to its result."""

import os
import sys
from pathlib import Path

import torch
from peer_task import SeenPoses, Snapshot, Task

from cryogimbal.data.poses import PoseSet
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.io.checkpoints import list_checkpoints, load_checkpoint
from cryogimbal.io.run_folder import RunFolder
from cryogimbal.io.star import read_poses

# Of the checkpoints that a run writes, only the last stay in its folder.
KEPT = "progress"


def cryogimbal_commands(task: Task) -> list[list[str]]:
    """One run of this project; that particles are centred and noise is white is told to all programs."""
    program = [sys.executable, "-m", "cryogimbal.cli.main", "reconstruct", "particles.star"]
    options = ["--preset", task.preset, "--seed", str(task.seed), "--out", str(task.out / "run")]
    return [[*program, *options, "--shifts", "none", "--noise", "white"]]


def keep_checkpoints(out: Path) -> None:
    """Links to the checkpoints that are there now, with the times at which they were written."""
    (out / KEPT).mkdir(exist_ok=True)
    for path in list_checkpoints(RunFolder(path=out / "run")):
        kept = out / KEPT / path.name
        try:
            os.link(path, kept)
        except (FileExistsError, FileNotFoundError):
            # Linked before, or taken away by the run since it was listed.
            continue


def cryogimbal_snapshots(out: Path) -> list[Snapshot]:
    """Every checkpoint with poses, then the result; steps are checkpoints."""
    run = out / "run"
    if not (run / "particles.star").exists():
        return []
    found = [
        Snapshot(step=int(path.stem.rpartition("_")[2]), poses=path)
        for path in sorted((out / KEPT).glob("*.pt"))
        if _table(path) is not None
    ]
    last = found[-1].step + 1 if found else 0
    result = Snapshot(step=last, poses=run / "particles.star", density=run / "map.mrc")
    return [*found, result]


def read_cryogimbal(path: Path) -> SeenPoses:
    """Poses of a result, or of a checkpoint on the way to it (of centred particles)."""
    if path.suffix == ".star":
        poses = read_poses(path)
    else:
        table = _table(path)
        assert table is not None
        rotation = PoseTable.of_state(table, torch.device("cpu")).best()
        poses = PoseSet(rotation=rotation, shift_angstrom=torch.zeros(len(rotation), 2))
    return SeenPoses(index=torch.arange(len(poses)), poses=poses)


def _table(checkpoint: Path) -> dict[str, torch.Tensor] | None:
    """Poses of a checkpoint, none while they are still searched for."""
    return load_checkpoint(checkpoint)["reconstruction"]["run"]["table"]
