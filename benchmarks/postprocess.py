"""Whether RELION's PostProcess finds the resolution that a run tells, from the run's own files.

    python benchmarks/postprocess.py NAME RUN

``relion_postprocess`` takes the half-maps and the mask of a finished run as they are. Both resolutions
are told with the number of their shell; RELION names the last shell above 0.143, we the place between
two shells where the curve crosses it.
"""

import argparse
import subprocess
import tempfile
from datetime import date
from pathlib import Path

from records import append_rows, commit, read_json, table_row
from true_poses import at_shell

from cryogimbal.io.run_folder import RunFolder

HEADING = "## Resolution beside RELION's"
RESOLUTION = "_rlnFinalResolution"


def main() -> None:
    """Measure and record one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="what the run is, for the record")
    parser.add_argument("run", type=Path, help="folder of a finished run")
    arguments = parser.parse_args()
    summary = read_json(arguments.run / "summary.json")
    width = summary["map_box"] * summary["map_voxel_size_angstrom"]
    own = summary["half_map_resolution_fsc0143_angstrom"]
    relions = relions_resolution(RunFolder(path=arguments.run.resolve()))
    cells = [
        date.today().isoformat(),
        commit(),
        arguments.name,
        summary["half_map_poses"],
        at_shell(own, width),
        at_shell(relions, width),
        f"{width / own - width / relions:+.1f}",
    ]
    row = table_row(cells)
    print(row)
    append_rows(HEADING, [row])


def relions_resolution(run: RunFolder) -> float:
    """The final resolution of ``relion_postprocess``, in Å."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "post"
        files = ("--i", run.half_map(1), "--i2", run.half_map(2), "--mask", run.mask)
        subprocess.run(["relion_postprocess", *files, "--o", out], check=True)
        lines = out.with_suffix(".star").read_text(encoding="utf-8").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(RESOLUTION)))


if __name__ == "__main__":
    main()
