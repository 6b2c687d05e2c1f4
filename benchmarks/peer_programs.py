"""How each program is called, what it leaves behind, and how its poses are read.

Every program writes poses and a map every so often; the times of those files are the timeline.
"""

from pathlib import Path

import numpy as np
import torch
from peer_cryodrgn import (
    cryodrgn_commands,
    cryodrgn_full_seconds,
    cryodrgn_rate_commands,
    cryodrgn_rate_full_seconds,
    cryodrgn_snapshots,
    none_written,
    read_cryodrgn,
)
from peer_cryogimbal import (
    cryogimbal_commands,
    cryogimbal_snapshots,
    keep_checkpoints,
    read_cryogimbal,
)
from peer_task import Program, SeenPoses, Snapshot, Task, executable

from cryogimbal.io.mrc import read_density
from cryogimbal.io.star import read_poses
from cryogimbal.io.star_columns import read_columns
from cryogimbal.io.star_table import image_names, read_table

MAX_PROBABILITY = "rlnMaxValueProbDistribution"
RELION_MASK_EDGE = 5


def particle_diameter_angstrom(truth: Path) -> float:
    """Twice the largest radius with a tenth of the peak density, and a tenth more.

    At most RELION's own choice where it is told none: the box less the soft edge of its mask.
    """
    density = read_density(truth)
    box, values = density.box, density.values
    axis = torch.arange(box) - box // 2
    grid = torch.meshgrid(axis, axis, axis, indexing="ij")
    radius = torch.stack(grid).double().square().sum(0).sqrt()
    extent = 2.2 * float(radius[values > 0.1 * values.max()].max())
    return round(min(extent, box - RELION_MASK_EDGE) * density.voxel_size_angstrom)


def relion_commands(task: Task) -> list[list[str]]:
    """InitialModel of RELION 3.1 as its GUI calls it with all options left as they are.

    Two are not: the diameter of the particle, which the GUI leaves to the user, and the seed.
    """
    gui = (
        "--sgd_ini_iter 50 --sgd_inbetween_iter 200 --sgd_fin_iter 50 --sgd_write_iter 10"
        " --sgd_ini_resol 35 --sgd_fin_resol 15 --sgd_ini_subset 100 --sgd_fin_subset 500"
        " --sgd --denovo_3dref --i particles.star --ctf --K 1 --sym C1 --flatten_solvent --zero_mask"
        " --dont_combine_weights_via_disc --pool 3 --pad 2 --skip_gridding --oversampling 1"
        " --healpix_order 1 --offset_range 6 --offset_step 4"
    )
    diameter = particle_diameter_angstrom(task.stack / "truth.mrc")
    # With 0 RELION would take the images in the order of the table, always the same ones first.
    seed = task.seed + 1
    own = f"--particle_diameter {diameter:g} --j {task.threads} --random_seed {seed}"
    program = executable(task, "relion_refine")
    return [[program, "--o", str(task.out / "run"), *gui.split(), *own.split()]]


def relion_snapshots(out: Path) -> list[Snapshot]:
    """Every iteration that was written, but for the first, which has no poses yet."""
    found = []
    for poses in sorted(out.glob("run_it[0-9][0-9][0-9]_data.star")):
        step = int(poses.name[6:9])
        density = out / f"run_it{step:03d}_class001.mrc"
        if step > 0 and density.exists():
            found.append(Snapshot(step=step, poses=poses, density=density))
    return found


def read_relion(path: Path) -> SeenPoses:
    """Poses of the images that were in a mini-batch so far; the others have a probability of 0."""
    table = read_table(path)
    probability = read_columns(table, (MAX_PROBABILITY,)).find(MAX_PROBABILITY)
    if probability is None:
        raise ValueError(f"{path}: expected a column {MAX_PROBABILITY}, found none")
    seen = np.flatnonzero(probability > 0)
    poses = read_poses(path)[torch.from_numpy(seen)]
    return SeenPoses(index=torch.from_numpy(image_names(table).section[seen]), poses=poses)


def not_extrapolated(task: Task) -> None:
    """No time for the rest of a schedule whose steps grow dearer as it goes on."""


PROGRAMS = {
    "cryogimbal": Program(
        commands=cryogimbal_commands,
        snapshots=cryogimbal_snapshots,
        read=read_cryogimbal,
        full_seconds=not_extrapolated,
        keep=keep_checkpoints,
    ),
    "relion": Program(
        commands=relion_commands,
        snapshots=relion_snapshots,
        read=read_relion,
        full_seconds=not_extrapolated,
    ),
    "cryodrgn-explicit": Program(
        commands=cryodrgn_commands,
        snapshots=cryodrgn_snapshots,
        read=read_cryodrgn,
        full_seconds=cryodrgn_full_seconds,
    ),
    "cryodrgn": Program(
        commands=cryodrgn_rate_commands,
        snapshots=none_written,
        read=read_cryodrgn,
        full_seconds=cryodrgn_rate_full_seconds,
    ),
}
