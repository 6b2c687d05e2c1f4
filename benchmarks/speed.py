"""Rates of every step of the search, each beside the obvious way in the same run.

    python benchmarks/speed.py [--quick] [--only NAME ...] [--device cuda] [--threads 2] [--box 128]

The obvious way is ``torch.nn.functional.grid_sample`` and autograd in float32 with the same disc,
batch and threads, not compiled (``obvious_way.py``). Both ways take turns, so that what else the
machine does slows both; times are medians. *Of ceiling* sets the work against what a large matrix
product, or a copy past all caches, does in the same run: operations for the encoder and the
posterior, else the bytes that are asked for, of which caches answer many, so that it may pass 100 %.

Prints a table and appends its rows to ``benchmarks/RECORDS.md``.
"""

import argparse
import os
from datetime import date

import torch
from records import append_rows, commit, processor, table_row
from rich.console import Console
from rich.table import Table
from speed_measures import Measure, all_measures
from speed_scene import QUICK, Sizes, make_scene
from timing import Ceilings, bfloat16_hardware, interleaved_medians, measure_ceilings

from cryogimbal.imaging.kernels.choice import kernels_for

HEADING = "## Speed of the steps"
COLUMNS = (
    "step",
    "images per call",
    "images/s",
    "Msamples/s",
    "of ceiling",
    "obvious, images/s",
    "times faster",
    "must show",
)
# Sides of the matrices of the ceiling.
GEMM_SIZE = {"cpu": 2048, "cuda": 8192}
QUICK_GEMM_SIZE = 1024
TABLE_WIDTH = 140


def main() -> None:
    """Measure what is asked for and record it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes; nothing is recorded")
    parser.add_argument("--box", type=int, default=Sizes.box)
    parser.add_argument("--batch", type=int, default=Sizes.batch, help="images per step")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="steps whose names begin so")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    size = QUICK_GEMM_SIZE if given.quick else GEMM_SIZE[device.type]
    ceilings = measure_ceilings(device, given.repeats, size)
    sizes = QUICK if given.quick else Sizes(box=given.box, batch=given.batch)
    rows = []
    for measure in all_measures(make_scene(sizes, device)):
        if given.only is None or measure.name.startswith(tuple(given.only)):
            rows.append(cells_of(measure, ceilings, given.repeats, device))
    machine = machine_of(device, ceilings)
    show(rows, machine)
    if not given.quick:
        before = (date.today().isoformat(), commit(), f"{sizes.box}²")
        append_rows(HEADING, [table_row((*before, *cells, machine)) for cells in rows])


def cells_of(
    measure: Measure, ceilings: Ceilings, repeats: int, device: torch.device
) -> tuple[str, ...]:
    """Time a step in both ways; what a row says of it."""
    ways = (measure.ours, measure.obvious)
    seconds, obvious_seconds = interleaved_medians(ways, repeats, device)
    rate, obvious_rate = measure.images / seconds, measure.obvious_images / obvious_seconds
    wanted = ""
    if measure.least_ratio is not None:
        wanted = f"at least {measure.least_ratio:g} times"
    elif measure.most_seconds is not None:
        wanted = f"at most {measure.most_seconds:g} s (took {seconds:.2f} s)"
    return (
        measure.name,
        f"{measure.images}",
        f"{rate:,.0f}",
        f"{rate * measure.samples / 1e6:,.1f}",
        f"{100 * rate * measure.work / getattr(ceilings, measure.bound):.0f} %",
        f"{obvious_rate:,.0f}",
        f"{rate / obvious_rate:.1f}",
        wanted,
    )


def machine_of(device: torch.device, ceilings: Ceilings) -> str:
    """What it ran on, and the ceilings of the run."""
    name = processor() if device.type == "cpu" else torch.cuda.get_device_name(device)
    return (
        f"{name} ({bfloat16_hardware(device)}), {torch.get_num_threads()} of {os.cpu_count()} "
        f"threads, {kernels_for(device).NAME} kernels, torch {torch.__version__}; matrix product "
        f"{ceilings.gemm_float32 / 1e9:,.0f} GFLOP/s in float32, "
        f"{ceilings.gemm_bfloat16 / 1e9:,.0f} in bfloat16; copy {ceilings.bandwidth / 1e9:.1f} GB/s"
    )


def show(rows: list[tuple[str, ...]], machine: str) -> None:
    """Print the table."""
    table = Table(caption=machine)
    for place, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if place in (0, len(COLUMNS) - 1) else "right")
    for cells in rows:
        table.add_row(*cells)
    # A pipe would squeeze it to 80 columns.
    Console(width=max(TABLE_WIDTH, Console().width)).print(table)


if __name__ == "__main__":
    main()
