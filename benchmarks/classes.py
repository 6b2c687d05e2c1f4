"""Share of images in the right class: the 70S ribosome and its 50S part, mixed half and half.

    python benchmarks/classes.py centred --seed 0 --work DIR

``centred`` is white noise and particles in the middle of their boxes, ``displaced`` has shifts of two
pixels (standard deviation), ``coloured`` coloured noise as well. Both structures are in one scale, so
that images of the smaller one have the weaker signal. Data are made once for a case, the run anew for
each seed.
"""

import argparse
import gzip
import os
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from records import append_rows, commit, processor, read_json, table_row

from cryogimbal.data.particles import ParticleStack
from cryogimbal.io.mrc import write_image_stack
from cryogimbal.io.star_columns import read_columns
from cryogimbal.io.star_table import read_table
from cryogimbal.io.star_write import write_simulated_particles
from cryogimbal.simulation.particles import SimulatedImages, chunks_of, simulate_particles
from cryogimbal.simulation.settings import SimulationSettings
from cryogimbal.simulation.sources import source_to_density

HEADING = "## Several classes"
DATA = Path(os.environ.get("CRYOGIMBAL_TEST_DATA", "../shared/data"))
MODEL = DATA / "atomic" / "4V5A_assembly1_70S.cif.gz"
CHAIN_COLUMN = 6
BOX, PIXEL_SIZE, N_OF_EACH, SNR = 48, 7.2, 2000, 0.1
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "centred": ({}, ("--shifts", "none", "--noise", "white")),
    "displaced": ({"shift_sd": 2 * PIXEL_SIZE}, ()),
    "coloured": ({"shift_sd": 2 * PIXEL_SIZE, "noise_length": 40.0, "noise_floor": 0.2}, ()),
}


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--machine", default=processor())
    arguments = parser.parse_args()
    simulated, options = CASES[arguments.case]
    data, run = (arguments.work / f"{arguments.case}{end}" for end in ("", f"-{arguments.seed}"))
    if not (data / "particles.star").exists():
        simulate(data, simulated)
    command = [sys.executable, "-m", "cryogimbal.cli.main", "reconstruct"]
    command += [str(data / "particles.star"), "--out", str(run), "--n-classes", "2"]
    subprocess.run([*command, "--seed", str(arguments.seed), *options], check=True)
    summary = read_json(run / "summary.json")
    resolutions = [
        f"{one['half_map_resolution_fsc0143_angstrom']:.1f}" for one in summary["classes"]
    ]
    cells = [
        date.today().isoformat(),
        commit(),
        arguments.case,
        f"{2 * N_OF_EACH} × {BOX}²",
        str(arguments.seed),
        f"{share_of_right(run / 'particles.star'):.1%}",
        " and ".join(resolutions),
        f"{summary['seconds']:.0f}",
        arguments.machine,
    ]
    row = table_row(cells)
    print(row)
    append_rows(HEADING, [row])


def share_of_right(table: Path) -> float:
    """Share of images whose class is that of their structure; classes come in any order."""
    star = read_table(table)
    number = read_columns(star, ("rlnClassNumber",)).find("rlnClassNumber")
    assert number is not None
    right = float(((number == 1) == (torch.arange(star.n_particles) < N_OF_EACH).numpy()).mean())
    return max(right, 1 - right)


def simulate(folder: Path, simulated: dict[str, Any]) -> None:
    """Images of either structure in one file, first those of the whole."""
    folder.mkdir(parents=True)
    large = folder / "50S.cif"
    large.write_text("".join(_lines_of_50s()))
    parts: list[tuple[SimulatedImages, ParticleStack]] = []
    for seed, source in enumerate((MODEL, large)):
        settings = SimulationSettings(
            box=BOX, pixel_size=PIXEL_SIZE, n_particles=N_OF_EACH, snr=SNR, seed=seed, **simulated
        )
        density = source_to_density(str(source), settings)
        made = simulate_particles(density, settings, torch.Generator().manual_seed(seed))
        # One scale for both, that of the first.
        scale = made.images.scale if seed == 0 else parts[0][0].scale
        parts.append((replace(made.images, scale=scale), made.stack))
    file = folder / "particles.mrcs"
    images = (one.read(index) for one, _ in parts for index in chunks_of(N_OF_EACH))
    write_image_stack(file, images, PIXEL_SIZE)
    write_simulated_particles(folder / "particles.star", _joined(*(p[1] for p in parts)), file)


def _joined(first: ParticleStack, second: ParticleStack) -> ParticleStack:
    """CTF values of both, without poses."""
    ctf = {
        name: torch.cat([values, getattr(second.ctf, name)])
        for name, values in vars(first.ctf).items()
    }
    index = torch.zeros(2 * N_OF_EACH, dtype=torch.long)
    return replace(first, ctf=replace(first.ctf, **ctf), optics_index=index, poses=None)


def _lines_of_50s() -> list[str]:
    """The model without the atoms of other chains than those named B*."""
    with gzip.open(MODEL, "rt", encoding="utf-8") as file:
        return [
            line
            for line in file
            if not line.startswith(("ATOM", "HETATM")) or line.split()[CHAIN_COLUMN].startswith("B")
        ]


if __name__ == "__main__":
    main()
