"""How good a program's poses and map are over its time, and a row that says so."""

from dataclasses import replace
from typing import Any

from peer_task import Program, Snapshot, Task
from records import commit, table_row

from cryogimbal.evaluation.score import Result, evaluate_against_truth
from cryogimbal.io.mrc import read_density
from cryogimbal.io.star import read_poses

WITHIN = 1.05


def score(program: Program, task: Task, ran: dict[str, Any]) -> dict[str, Any]:
    """Pose errors of everything that was written, and the FSC of the last map."""
    snapshots = program.snapshots(task.out)
    if not ran["finished"]:
        # What was written in the last second may be cut short.
        end = ran["started"] + ran["seconds"] - 1
        snapshots = [snapshot for snapshot in snapshots if snapshot.written < end]
    timeline = [_errors(program, task, snapshot, ran["started"]) for snapshot in snapshots]
    if timeline and ran["finished"]:
        timeline[-1]["seconds"] = ran["seconds"]
    found: dict[str, Any] = {
        "timeline": timeline,
        "full_seconds": program.full_seconds(task),
        "scored_by": commit(),
    }
    return found | (_map_score(program, task, snapshots[-1]) if snapshots else {})


def _map_score(program: Program, task: Task, snapshot: Snapshot) -> dict[str, Any]:
    """FSC by the better of two alignments: begun from that of the poses, and of the maps alone."""
    estimated, truth = _poses(program, task, snapshot)
    assert snapshot.density is not None
    true_density = read_density(task.stack / "truth.mrc")
    # Not every program keeps the voxel size in the headers of its maps.
    density = read_density(snapshot.density, true_density.voxel_size_angstrom)
    estimated, truth = replace(estimated, density=density), replace(truth, density=true_density)
    by_poses = evaluate_against_truth(estimated, truth).to_dict()
    alone = evaluate_against_truth(replace(estimated, poses=None), truth).to_dict()
    return max(by_poses, alone, key=lambda found: sum(found["fsc"]["correlation"]))


def _errors(program: Program, task: Task, snapshot: Snapshot, started: float) -> dict[str, Any]:
    found = evaluate_against_truth(*_poses(program, task, snapshot)).to_dict()
    line = {
        "step": snapshot.step,
        "seconds": snapshot.written - started,
        "n_particles": found["n_particles"],
        "median_deg": found["rotation_error_median_deg"],
        "mean_deg": found["rotation_error_mean_deg"],
    }
    print("  step {step}: {seconds:.0f} s, {median_deg:.2f}°, mean {mean_deg:.2f}°".format(**line))
    return line


def _poses(program: Program, task: Task, snapshot: Snapshot) -> tuple[Result, Result]:
    """Those of a snapshot, and the true ones of the same images."""
    seen = program.read(snapshot.poses)
    true_poses = read_poses(task.stack / "truth.star")[seen.index]
    return Result(poses=seen.poses, density=None), Result(poses=true_poses, density=None)


def record(
    case: str, name: str, seed: int, found: dict[str, Any], ours: dict[str, Any] | None
) -> str:
    """One row of the table; ``ours`` is what the program is set against, if anything."""
    timeline, full = found["timeline"], found["full_seconds"]
    if timeline and found["finished"]:
        whole = f"{found['seconds']:.0f}"
    else:
        stopped = [] if found["finished"] else [f"stopped at {found['seconds']:.0f}"]
        whole = ", ".join(stopped + ([] if full is None else [f"extrapolated: {full:.0f}"]))
    cells = [found["date"], found["commit"], case, name, str(seed), whole]
    if timeline:
        own = own_error(timeline)
        fsc = [f"{found[f'resolution_fsc{at}_angstrom']:.2f}" for at in ("05", "0143")]
        last = timeline[-1]
        errors = f"{last['median_deg']:.2f} / {last['mean_deg']:.2f}"
        cells += [f"{own['seconds']:.0f} (step {own['step']})", errors, " / ".join(fsc)]
    else:
        cells += ["–", "–", "–"]
    cells += ["–", "–"] if ours is None else compared(found, ours)
    shown = "; ".join(f"`{command}`" for command in found["commands"])
    cells += [f"{found['machine']}, {found['threads']} threads", shown]
    return table_row(cells)


def own_error(timeline: list[dict[str, Any]]) -> dict[str, Any]:
    """First line of a timeline that is as good as the last, to within 5 %."""
    enough = WITHIN * timeline[-1]["median_deg"]
    return next(line for line in timeline if line["median_deg"] <= enough)


def compared(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """How many times sooner we are at their error, and how far our FSC is below theirs at most."""
    if not theirs["timeline"]:
        full = theirs["full_seconds"]
        whole = ours["seconds"]
        return ["–" if full is None else f"{full / whole:.0f} (extrapolated)", "–"]
    error = theirs["timeline"][-1]["median_deg"]
    reached = next((line for line in ours["timeline"] if line["median_deg"] <= error), None)
    ratio = "not reached"
    if reached is not None:
        sooner = own_error(theirs["timeline"])["seconds"] / reached["seconds"]
        ratio = f"{sooner:.1f} ({reached['seconds']:.0f} s)"
    below = largest_deficit(ours["fsc"]["correlation"], theirs["fsc"]["correlation"])
    return [ratio, f"{below:.3f}"]


def largest_deficit(ours: list[float], theirs: list[float]) -> float:
    """Most by which our FSC is below theirs in a shell, until ours falls below 0.143."""
    shells = list(zip(ours, theirs, strict=True))[1:]
    ends = next((i for i, (our, _) in enumerate(shells) if our < 0.143), len(shells))
    return max((their - our for our, their in shells[:ends]), default=float("nan"))
