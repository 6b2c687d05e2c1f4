"""Quality of a reconstruction over seeds: simulate once, reconstruct and score per seed.

    python benchmarks/quality.py 70s --seeds 0 1 2 --work DIR
    python benchmarks/quality.py realistic --work DIR --options "--half-sets independent"

Prints a table and appends its rows to ``benchmarks/RECORDS.md``. A seed whose evaluation is in the
work folder already is not run again. Reference structures are found through CRYOGIMBAL_TEST_DATA
(default ``../shared/data``).
"""

import argparse
import shutil
from datetime import date
from pathlib import Path

from cases import CASES, DESCRIBED, GROUPS, command, stack_folder
from records import append_rows, commit, processor, read_json, table_row
from true_poses import at_shell, resolution_at_true_poses

HEADING = "## Quality over seeds"
REALISTIC_HEADING = "## Particles as they really come"


def main() -> None:
    """Run what is asked for and record it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", default="auto")
    parser.add_argument("--options", default="", help="further options of cryogimbal reconstruct")
    parser.add_argument("--work", type=Path, required=True, help="folder for stacks and runs")
    arguments = parser.parse_args()
    data = stack_folder(arguments.case, arguments.work)
    options = tuple(arguments.options.split())
    rows = [
        record(arguments.case, arguments.preset, options, data, seed) for seed in arguments.seeds
    ]
    print("\n".join(rows))
    append_rows(REALISTIC_HEADING if arguments.case in DESCRIBED else HEADING, rows)


def record(case: str, preset: str, options: tuple[str, ...], data: Path, seed: int) -> str:
    """One row of the table."""
    run = data.parent / "".join([f"{case}-{preset}", *options, f"-{seed}"])
    if not (run / "evaluation.json").exists():
        # A run that was cut off is begun anew, so that its time is that of one unbroken run.
        shutil.rmtree(run, ignore_errors=True)
        stack = str(data / "particles.star")
        settings = ("--preset", preset, *options, "--seed", str(seed))
        command("reconstruct", stack, *settings, "--out", str(run))
        truth = ("--truth-star", str(data / "truth.star"), "--truth-map", str(data / "truth.mrc"))
        group = ("--symmetry", GROUPS[case]) if case in GROUPS else ()
        command("evaluate", str(run), *truth, *group)
    found, summary = read_json(run / "evaluation.json"), read_json(run / "summary.json")
    nyquist = 2 * summary["working_pixel_size_angstrom"]
    quality = [f"{found['resolution_fsc05_angstrom']:.2f} ({nyquist:.2f})"]
    if case in DESCRIBED:
        shift_px = found["shift_error_median_angstrom"] / summary["pixel_size_angstrom"]
        width = summary["box"] * summary["pixel_size_angstrom"]
        resolution = summary["half_map_resolution_fsc0143_angstrom"]
        best = resolution_at_true_poses(data)
        quality = [f"{shift_px:.2f}", at_shell(resolution, width), at_shell(best, width)]
    cells = [
        date.today().isoformat(),
        commit(),
        case,
        " ".join([preset, *options]),
        str(seed),
        f"{found['rotation_error_median_deg']:.2f} / {found['rotation_error_mean_deg']:.2f}",
        *quality,
        f"{summary['seconds']:.0f}",
        f"{summary['peak_memory_mib']}",
        f"{processor()}, {summary['n_threads']} threads, {summary['device']}",
    ]
    return table_row(cells)


if __name__ == "__main__":
    main()
