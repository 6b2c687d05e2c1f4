"""Poses of images that a run has never seen, by its encoder.

    python benchmarks/unseen.py 70s --seed 0 --work DIR

Takes the run that ``quality.py CASE --seeds SEED --work DIR`` left, simulates other images of the same
particle, and scores what ``cryogimbal infer-poses`` says of them: the best head alone, and after its
direct steps. Times include reading and writing, but not Python's own start.
"""

import argparse
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

from cases import CASES, simulate
from records import append_rows, commit, processor, read_json, table_row

from cryogimbal.evaluation.pose_error import pose_errors
from cryogimbal.io.star import read_poses

HEADING = "## Images that a run has not seen"
N_IMAGES = 2000
OTHER_SEED = 1


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="auto")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--work", type=Path, required=True, help="the folder of quality.py")
    arguments = parser.parse_args()
    data = arguments.work / f"{arguments.case}-unseen"
    if not (data / "truth.mrc").exists():
        simulate(arguments.case, data, "--n-particles", str(N_IMAGES), "--seed", str(OTHER_SEED))
    run = arguments.work / f"{arguments.case}-{arguments.preset}-{arguments.seed}"
    found = [infer(run, data, steps) for steps in (0, arguments.steps)]
    own = read_json(run / "evaluation.json")["rotation_error_median_deg"]
    cells = [
        date.today().isoformat(),
        commit(),
        arguments.case,
        str(arguments.seed),
        f"{found[0][0]:.2f}",
        f"{found[1][0]:.2f} ({arguments.steps})",
        f"{own:.2f}",
        f"{found[1][1]:,.0f}",
        processor(),
    ]
    row = table_row(cells)
    print(row)
    append_rows(HEADING, [row])


def infer(run: Path, data: Path, steps: int) -> tuple[float, float]:
    """Median error in degrees and images per second after so many direct steps."""
    out = run / f"unseen-{steps}.star"
    out.unlink(missing_ok=True)
    options = ("--run", str(run), "--out", str(out), "--direct-steps", str(steps))
    program = [sys.executable, "-m", "cryogimbal.cli.main", "infer-poses"]
    said = subprocess.run(
        [*program, str(data / "particles.star"), *options],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    print(said)
    rate = re.search(r"\(([\d,]+) images/s", said)
    assert rate is not None
    errors = pose_errors(read_poses(out), read_poses(data / "truth.star"))
    return float(errors.rotation_error_deg.median()), float(rate[1].replace(",", ""))


if __name__ == "__main__":
    main()
