"""Time and memory of a reconstruction against the number of images.

python benchmarks/scaling.py 70s --images 5000 20000 80000 --work DIR
"""

import argparse
import shutil
from datetime import date
from pathlib import Path

from cases import CASES, command, simulate
from records import append_rows, commit, processor, read_json, table_row

HEADING = "## Number of images"
BYTES_PER_PIXEL = 4


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--images", type=int, nargs="+", default=[5000, 20_000, 80_000])
    parser.add_argument("--preset", default="auto")
    parser.add_argument("--work", type=Path, required=True, help="folder for stacks and runs")
    arguments = parser.parse_args()
    for n_images in arguments.images:
        row = record(arguments.case, arguments.preset, n_images, arguments.work)
        print(row)
        append_rows(HEADING, [row])


def record(case: str, preset: str, n_images: int, work: Path) -> str:
    """One row of the table."""
    data, run = work / f"{case}-{n_images}", work / f"{case}-{n_images}-{preset}"
    if not (data / "truth.mrc").exists():
        simulate(case, data, "--n-particles", str(n_images))
    if not (run / "evaluation.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        options = ("--preset", preset, "--shifts", "none", "--noise", "white")
        command("reconstruct", str(data / "particles.star"), *options, "--out", str(run))
        truth = ("--truth-star", str(data / "truth.star"), "--truth-map", str(data / "truth.mrc"))
        command("evaluate", str(run), *truth)
    found, summary = read_json(run / "evaluation.json"), read_json(run / "summary.json")
    stack_mib = BYTES_PER_PIXEL * n_images * summary["box"] ** 2 / 2**20
    cells = [
        date.today().isoformat(),
        commit(),
        case,
        preset,
        f"{n_images:,}",
        f"{summary['seconds']:.0f}",
        f"{1000 * summary['seconds'] / n_images:.2f}",
        f"{summary['peak_memory_mib']}",
        f"{summary['peak_memory_mib'] - stack_mib:.0f}",
        f"{found['rotation_error_median_deg']:.2f} / {found['rotation_error_mean_deg']:.2f}",
        f"{processor()}, {summary['n_threads']} threads, {summary['device']}",
    ]
    return table_row(cells)


if __name__ == "__main__":
    main()
