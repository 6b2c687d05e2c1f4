"""Quality of a reconstruction over seeds: simulate once, reconstruct and score per seed.

    python benchmarks/quality.py 70s --seeds 0 1 2 --work DIR

Prints a table and appends its rows to ``benchmarks/RECORDS.md``. A seed whose evaluation is in the
work folder already is not run again. Reference structures are found through CRYOGIMBAL_TEST_DATA
(default ``../shared/data``).
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
RECORDS = REPOSITORY / "benchmarks" / "RECORDS.md"
DATA = "$CRYOGIMBAL_TEST_DATA"
CASES = {
    "70s": f"{DATA}/atomic/4V5A_assembly1_70S.cif.gz --box 64 --pixel-size 5"
    " --n-particles 5000 --snr 0.1",
    "hsp90": f"{DATA}/atomic/2cg9.pdb.gz --box 64 --pixel-size 3 --n-particles 5000 --snr 0.1",
    "spike": f"{DATA}/atomic/6vyb.pdb.gz --box 64 --pixel-size 4.26 --n-particles 5000 --snr 0.1",
    "phantom": "asymmetric --box 32 --pixel-size 8 --n-particles 2000 --snr 0.1",
}


def main() -> None:
    """Run what is asked for and record it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", default="default")
    parser.add_argument("--work", type=Path, required=True, help="folder for stacks and runs")
    arguments = parser.parse_args()
    data = arguments.work / arguments.case
    if not (data / "truth.mrc").exists():
        folder = Path(os.environ.get("CRYOGIMBAL_TEST_DATA", REPOSITORY / "../shared/data"))
        source = CASES[arguments.case].replace(DATA, str(folder.resolve()))
        command("simulate", *source.split(), "--out", str(data))
    rows = [record(arguments.case, arguments.preset, data, seed) for seed in arguments.seeds]
    print("\n".join(rows))
    with RECORDS.open("a", encoding="utf-8") as file:
        file.write("\n".join(rows) + "\n")


def record(case: str, preset: str, data: Path, seed: int) -> str:
    """One row of the table."""
    run = data.parent / f"{case}-{preset}-{seed}"
    if not (run / "evaluation.json").exists():
        # A run that was cut off is begun anew, so that its time is that of one unbroken run.
        shutil.rmtree(run, ignore_errors=True)
        stack = str(data / "particles.star")
        command("reconstruct", stack, "--preset", preset, "--seed", str(seed), "--out", str(run))
        truth = ("--truth-star", str(data / "truth.star"), "--truth-map", str(data / "truth.mrc"))
        command("evaluate", str(run), *truth)
    found, summary = read_json(run / "evaluation.json"), read_json(run / "summary.json")
    nyquist = 2 * summary["working_pixel_size_angstrom"]
    cells = [
        date.today().isoformat(),
        commit(),
        case,
        preset,
        str(seed),
        f"{found['rotation_error_median_deg']:.2f} / {found['rotation_error_mean_deg']:.2f}",
        f"{found['resolution_fsc05_angstrom']:.2f} ({nyquist:.2f})",
        f"{summary['seconds']:.0f}",
        f"{summary['peak_memory_mib']}",
        f"{processor()}, {summary['n_threads']} threads, {summary['device']}",
    ]
    return "| " + " | ".join(cells) + " |"


def command(*arguments: str) -> None:
    """Run one command of cryogimbal and let it print."""
    subprocess.run([sys.executable, "-m", "cryogimbal.cli.main", *arguments], check=True)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object."""
    return json.loads(path.read_text(encoding="utf-8"))


def commit() -> str:
    """Short name of the commit that is checked out."""
    shown = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return shown.stdout.strip()


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
