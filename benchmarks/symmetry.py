"""Symmetric particles: poses modulo the group, and axes that RELION agrees with.

    python benchmarks/symmetry.py 20s --seeds 0 1 2 --work DIR --options "--shifts none --noise white"

``20s`` is the 20S proteasome (D7) and ``bgal`` the beta-galactosidase map (D2). The axes of the group
are found in the map of a search without it (``--from map``) or imposed from the start. RELION's program
``relion_image_handler --sym`` makes the map symmetric once more, under its own operators: the map and
that copy have a correlation of 1 where ours are the same. Beside it stands that of the map turned by 5
degrees first, which is what axes off by so much would give.
"""

import argparse
import math
import shutil
import subprocess
from datetime import date
from pathlib import Path

import torch
from cases import GROUPS, command, stack_folder
from records import append_rows, commit, processor, read_json, table_row

from cryogimbal.data.density import DensityMap
from cryogimbal.evaluation.alignment import Alignment, apply_alignment
from cryogimbal.io.mrc import read_density, write_density
from cryogimbal.rotations import rotvec_to_rotation

HEADING = "## Symmetric particles"
TURN_DEG = 5.0
RELION = "relion_image_handler"


def main() -> None:
    """Run what is asked for and record it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=GROUPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--from", dest="source", choices=("map", "start"), default="map")
    parser.add_argument("--options", default="", help="further options of cryogimbal reconstruct")
    parser.add_argument("--work", type=Path, required=True, help="folder for stacks and runs")
    arguments = parser.parse_args()
    data = stack_folder(arguments.case, arguments.work)
    options = (*arguments.options.split(), "--symmetry-from", arguments.source)
    for seed in arguments.seeds:
        row = record(arguments.case, options, data, seed)
        print(row)
        append_rows(HEADING, [row])


def record(case: str, options: tuple[str, ...], data: Path, seed: int) -> str:
    """One row of the table; a run that has been evaluated is not run again."""
    group = GROUPS[case]
    run = data.parent / "".join([f"{case}-{group}", *options, f"-{seed}"])
    if not (run / "evaluation.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        stack = str(data / "particles.star")
        settings = ("--symmetry", group, *options, "--seed", str(seed))
        command("reconstruct", stack, *settings, "--out", str(run))
        truth = ("--truth-star", str(data / "truth.star"), "--truth-map", str(data / "truth.mrc"))
        command("evaluate", str(run), *truth)
    found, summary = read_json(run / "evaluation.json"), read_json(run / "summary.json")
    agreement = summary["symmetry_agreement"]
    density = read_density(run / "map.mrc")
    cells = [
        date.today().isoformat(),
        commit(),
        f"{case}, {group}",
        " ".join(options),
        str(seed),
        "–" if agreement is None else f"{agreement:.2f}",
        f"{found['rotation_error_median_deg']:.2f} / {found['rotation_error_mean_deg']:.2f}",
        f"{found['shift_error_median_angstrom'] / summary['pixel_size_angstrom']:.2f}",
        f"{found['resolution_fsc05_angstrom']:.2f}"
        f" ({2 * summary['working_pixel_size_angstrom']:.2f})",
        f"{with_relions_copy(density, group, run):.4f}"
        f" ({with_relions_copy(turned(density), group, run):.4f})",
        f"{summary['seconds']:.0f}",
        f"{processor()}, {summary['n_threads']} threads",
    ]
    return table_row(cells)


def turned(density: DensityMap) -> DensityMap:
    """The map with its axes off by 5 degrees, about no axis of any group."""
    axis = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    turn = rotvec_to_rotation(math.radians(TURN_DEG) * axis / axis.norm())
    still = torch.zeros(3, dtype=torch.float64)
    frame = Alignment(rotation=turn, shift_angstrom=still, mirrored=False, score=1.0)
    return apply_alignment(density, frame)


def with_relions_copy(density: DensityMap, group: str, folder: Path) -> float:
    """Correlation of a map with what RELION makes of it under a group."""
    before, after = folder / "before_relion.mrc", folder / "after_relion.mrc"
    write_density(before, density)
    subprocess.run([RELION, "--i", before, "--o", after, "--sym", group], check=True)
    pair = torch.stack([density.values.flatten(), read_density(after).values.flatten()])
    for file in (before, after):
        file.unlink()
    return float(torch.corrcoef(pair.double())[0, 1])


if __name__ == "__main__":
    main()
