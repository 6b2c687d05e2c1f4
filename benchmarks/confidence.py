"""Whether widths and scores of particles are what they claim to be.

    python benchmarks/confidence.py CASE --work DIR [--options "--n-particles 2000 ..."]

Simulates a case twice and reconstructs both. In the first every image gets more noise, of a standard
deviation drawn from 0 to 2 beside its own of 1 (so that the SNR differs from image to image by 5 times);
of it the share of true errors within the widths is told for each quartile of width, and the rank
correlation of the two. In the second 10 % are junk of four kinds; of it the area under the ROC curve
that the score has for each. Prints two rows and appends them to ``benchmarks/RECORDS.md``.
"""

import argparse
from datetime import date
from pathlib import Path

import scipy.stats
import torch
from cases import CASES, command, simulate
from records import append_rows, commit, processor, read_json, table_row

from cryogimbal.evaluation.detection import roc_area
from cryogimbal.evaluation.pose_error import pose_errors
from cryogimbal.io.mrc import write_image_stack
from cryogimbal.io.star import read_particles, read_poses
from cryogimbal.io.star_confidence import SHIFT_WIDTH_PX, WIDTH_DEG, table_scores
from cryogimbal.io.star_document import number_columns, text_rows
from cryogimbal.io.star_junk import JUNK_KIND
from cryogimbal.io.star_table import read_table
from cryogimbal.simulation.junk import JUNK_KINDS, NO_JUNK
from cryogimbal.symmetry import SymmetryGroup, symmetry_group

HEADING = "## Widths and scores of particles"
MOST_ADDED_NOISE = 2.0
JUNK_FRACTION = 0.1
READ_BATCH = 256


def main() -> None:
    """Run both stacks and record what they say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--work", type=Path, required=True, help="folder for stacks and runs")
    parser.add_argument("--options", default="", help="options of the simulation, over the case's")
    parser.add_argument("--reconstruct", default="", help="options of the reconstruction")
    parser.add_argument("--symmetry", default="C1", help="group that poses are compared modulo")
    arguments = parser.parse_args()
    group = symmetry_group(arguments.symmetry)
    options = arguments.options.split()
    mixed = arguments.work / f"{arguments.case}-mixed-snr"
    if not (mixed / "data" / "truth.mrc").exists():
        simulate(arguments.case, mixed / "data", *options, "--junk-fraction", "0")
        add_noise(mixed / "data")
    junk = arguments.work / f"{arguments.case}-junk"
    if not (junk / "data" / "truth.mrc").exists():
        some = ("--junk-fraction", str(JUNK_FRACTION))
        simulate(arguments.case, junk / "data", *options, *some)
    for folder in (mixed, junk):
        reconstruct(folder, arguments.reconstruct.split())
    cells = [
        date.today().isoformat(),
        commit(),
        " ".join((arguments.case, *options)),
        *calibration_cells(mixed, group),
        *detection_cells(junk),
        f"{processor()}, {read_json(mixed / 'run' / 'summary.json')['device']}",
    ]
    row = table_row(cells)
    print(row)
    append_rows(HEADING, [row])


def add_noise(folder: Path) -> None:
    """Give each image of a simulation more noise, of a strength of its own; in place."""
    stack, _ = read_particles(folder / "particles.star")
    generator = torch.Generator().manual_seed(0)
    deviation = MOST_ADDED_NOISE * torch.rand(len(stack), generator=generator)
    noisy = folder / "noisy.mrcs"
    write_image_stack(
        noisy,
        (
            images + deviation[index, None, None] * torch.randn(images.shape, generator=generator)
            for index, images in (
                (index, stack.images.read(index))
                for index in torch.arange(len(stack)).split(READ_BATCH)
            )
        ),
        stack.pixel_size_angstrom,
    )
    noisy.replace(folder / "particles.mrcs")


def reconstruct(folder: Path, options: list[str]) -> None:
    """Reconstruct a stack, unless that is done."""
    if not (folder / "run" / "summary.json").exists():
        stack = str(folder / "data" / "particles.star")
        command("reconstruct", stack, "--out", str(folder / "run"), *options)


def calibration_cells(folder: Path, group: SymmetryGroup) -> list[str]:
    """Coverage in quartiles and rank correlation, of rotations and of shifts."""
    table = read_table(folder / "run" / "particles.star")
    stack, _ = read_particles(folder / "data" / "particles.star")
    found = read_poses(folder / "run" / "particles.star")
    errors = pose_errors(found, read_poses(folder / "data" / "truth.star"), group=group)
    names = [name for name in (WIDTH_DEG, SHIFT_WIDTH_PX) if table.has((name,))]
    widths = number_columns(table.document, table.particles, names)
    in_pixels = errors.shift_error_angstrom / stack.pixel_size_angstrom
    cells = []
    for name, error in ((WIDTH_DEG, errors.rotation_error_deg), (SHIFT_WIDTH_PX, in_pixels)):
        if name not in widths:
            cells += ["", ""]
            continue
        width = torch.from_numpy(widths[name])
        inside = (error < width).double()
        quartiles = width.argsort().tensor_split(4)
        shares = " / ".join(f"{100 * float(inside[part].mean()):.0f}" for part in quartiles)
        medians = " / ".join(f"{float(width[part].median()):.2f}" for part in quartiles)
        rank, _ = scipy.stats.spearmanr(width, error)
        cells += [f"{shares} ({medians})", f"{rank:.2f}"]
    return cells


def detection_cells(folder: Path) -> list[str]:
    """Area under the ROC curve of each kind of junk against the particles."""
    scores = torch.from_numpy(table_scores(read_table(folder / "run" / "particles.star")))
    truth = read_table(folder / "data" / "truth.star")
    kinds = [row[0] for row in text_rows(truth.document, truth.particles, [JUNK_KIND])]
    cells = []
    for kind in JUNK_KINDS:
        chosen = torch.tensor([one in (kind, NO_JUNK) for one in kinds])
        is_junk = torch.tensor([one == kind for one in kinds])
        cells.append(f"{roc_area(-scores[chosen], is_junk[chosen]):.3f}")
    return cells


if __name__ == "__main__":
    main()
