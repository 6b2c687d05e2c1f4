"""``cryogimbal evaluate``: a run against the known answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from jaxtyping import Int
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cryogimbal.data.poses import PoseSet
from cryogimbal.errors import InputError
from cryogimbal.evaluation.score import Evaluation, Result, evaluate_against_truth
from cryogimbal.io.mrc import read_density
from cryogimbal.io.run_folder import RunFolder, open_run_folder, read_json, write_json
from cryogimbal.io.star import read_poses
from cryogimbal.io.star_junk import table_junk
from cryogimbal.io.star_table import image_names, read_table
from cryogimbal.report.plots import plot_fsc, plot_map, plot_pose_errors
from cryogimbal.symmetry import symmetry_group


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Pose errors and FSC of a run against the truth, in the best common frame and hand."""

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Folder of a finished run."""
    truth_star: Path | None = None
    """Table with the true poses: the same particles in the same order. What it labels as junk has no
    true pose and is left out."""
    truth_map: Path | None = None
    """The true map; its box may differ, its width in Å may not."""
    symmetry: str | None = None
    """Poses that this group makes equal count as equal, about its axes in the true map; none: the group
    that the run has imposed."""

    def run(self) -> None:
        """Execute the command.

        Raises
        ------
        InputError
            If no truth is given, the run is not finished or of several classes, or the particles are
            not the same.
        """
        if self.truth_star is None and self.truth_map is None:
            raise InputError("evaluate expects --truth-star, --truth-map or both, found neither")
        run = open_run_folder(self.run_folder)
        if not run.particles.exists():
            raise InputError(
                f"{run.path}: expected a finished run, found no {run.particles.name}; "
                f"cryogimbal resume {run.path} finishes it"
            )
        _require_one_class(run)
        poses, true_poses, n_junk = read_poses(run.particles), None, 0
        group = symmetry_group(self.symmetry or _imposed(run))
        if self.truth_star is not None:
            true_poses = _true_poses(run, self.truth_star)
            particles = _particles(self.truth_star, len(poses))
            n_junk = len(poses) - len(particles)
            poses, true_poses = poses[particles], true_poses[particles]
        evaluation = evaluate_against_truth(
            Result(poses=poses, density=read_density(run.density)),
            Result(
                poses=true_poses,
                density=None if self.truth_map is None else read_density(self.truth_map),
            ),
            group,
        )
        write_json(run.evaluation, {**evaluation.to_dict(), "n_junk_left_out": n_junk})
        _write_figures(run, evaluation)
        _print(evaluation, run)


def _require_one_class(run: RunFolder) -> None:
    classes = read_json(run.summary).get("classes", ()) if run.summary.exists() else ()
    if classes:
        raise InputError(
            f"{run.path}: expected a run of one class, found {len(classes)}, each in a frame of its "
            "own; choose the particles of one by its class number, reconstruct and evaluate them alone"
        )


def _imposed(run: RunFolder) -> str:
    """The symmetry of a run; C1 for one that does not say."""
    if not run.summary.exists():
        return "C1"
    return read_json(run.summary).get("symmetry", "C1")


def _true_poses(run: RunFolder, truth_star: Path) -> PoseSet:
    found, expected = image_names(read_table(truth_star)), image_names(read_table(run.particles))
    if len(found) != len(expected):
        raise InputError(
            f"{truth_star}: expected the {len(expected)} particles of {run.particles}, "
            f"found {len(found)}"
        )
    different = (found.section != expected.section).nonzero()[0]
    if len(different):
        row = int(different[0])
        raise InputError(
            f"{truth_star}: row {row + 1}: expected image {expected.name(row)}, found "
            f"{found.name(row)}; the tables must list the same particles in the same order"
        )
    return read_poses(truth_star)


def _particles(truth_star: Path, n_images: int) -> Int[Tensor, " particle"]:
    """Rows that the truth does not label as junk."""
    junk = table_junk(read_table(truth_star))
    if junk is None:
        return torch.arange(n_images)
    particles = (~junk).nonzero()[:, 0]
    if len(particles) == 0:
        raise InputError(
            f"{truth_star}: expected some particles with a true pose, found junk alone; name the "
            "truth.star of the simulation"
        )
    return particles


def _write_figures(run: RunFolder, evaluation: Evaluation) -> None:
    run.figures.mkdir(exist_ok=True)
    if evaluation.fsc is not None:
        plot_fsc({"map against truth": evaluation.fsc}, run.figures / "fsc_truth.png")
    if evaluation.aligned_density is not None:
        plot_map(evaluation.aligned_density, run.figures / "map_aligned_to_truth.png")
    if evaluation.pose_errors is not None:
        plot_pose_errors(evaluation.pose_errors.rotation_error_deg, run.figures / "pose_errors.png")


def _print(evaluation: Evaluation, run: RunFolder) -> None:
    table = Table(title="against the truth", show_header=False)
    errors, fsc = evaluation.pose_errors, evaluation.fsc
    if errors is not None:
        found = errors.to_dict()
        table.add_row("rotation error, median", f"{found['rotation_error_median_deg']:.2f}°")
        table.add_row("rotation error, mean", f"{found['rotation_error_mean_deg']:.2f}°")
        table.add_row("within 5°", f"{errors.fraction_within_5_deg:.1%}")
        view = found["view_direction_error_median_deg"]
        table.add_row("view direction error, median", f"{view:.2f}°")
        shift = found["shift_error_median_angstrom"]
        table.add_row("shift error, median", f"{shift:.2f} Å")
    if fsc is not None:
        for threshold in (0.5, 0.143):
            note = "" if fsc.crosses(threshold) else " (all shells above)"
            resolution = fsc.resolution_angstrom(threshold)
            table.add_row(f"FSC {threshold:g}", f"{resolution:.2f} Å{note}")
    if errors is not None and errors.symmetry != "C1":
        table.add_row("symmetry", f"{errors.symmetry}: poses that it makes equal are equal")
    table.add_row("hand", "mirrored" if evaluation.alignment.mirrored else "as the truth")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"written to {run.evaluation}", markup=False, soft_wrap=True)
