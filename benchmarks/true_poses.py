"""What the true poses of a simulated case give: the resolution that a search can at best come to.

    python benchmarks/true_poses.py realistic --work DIR

Half-maps of all images that are no junk, at their true poses and shifts; noise and sign are measured
as in a run.
"""

import argparse
from pathlib import Path

import torch
from cases import CASES, stack_folder
from records import read_json

from cryogimbal.data.particles import ParticleStack
from cryogimbal.imaging.contrast import contrast_to_sign, measure_contrast
from cryogimbal.imaging.spectra import Preprocessing, read_spectra
from cryogimbal.imaging.stack_sums import StackReading
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.final_maps import FinalMaps, FinalMapsSettings, reconstruct_final_maps
from cryogimbal.inference.half_sets import drawn_half_sets
from cryogimbal.io.mrc import read_density
from cryogimbal.io.run_folder import write_json
from cryogimbal.io.star import read_particles
from cryogimbal.io.star_junk import table_junk

RESOLUTION = "resolution_fsc0143_angstrom"


def main() -> None:
    """Reconstruct at the true poses and print how far that holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--work", type=Path, required=True, help="folder for stacks and runs")
    arguments = parser.parse_args()
    data = stack_folder(arguments.case, arguments.work)
    resolution, truth = resolution_at_true_poses(data), read_density(data / "truth.mrc")
    print(f"FSC 0.143, corrected: {at_shell(resolution, truth.box * truth.voxel_size_angstrom)}")


def resolution_at_true_poses(data: Path) -> float:
    """Where the corrected correlation of the half-maps falls below 0.143, in Å; measured once."""
    kept = data / "true_poses.json"
    if not kept.exists():
        fsc = maps_at_true_poses(true_particles(data / "truth.star")).fsc
        write_json(kept, {**fsc.to_dict(), RESOLUTION: fsc.corrected.resolution_angstrom(0.143)})
    return float(read_json(kept)[RESOLUTION])


def at_shell(resolution_angstrom: float, width_angstrom: float) -> str:
    """A resolution in Å with the number of its shell behind it."""
    return f"{resolution_angstrom:.2f} (shell {width_angstrom / resolution_angstrom:.1f})"


def true_particles(table_path: Path) -> ParticleStack:
    """The images that are no junk, with their true poses."""
    stack, table = read_particles(table_path)
    junk = table_junk(table)
    return stack if junk is None else stack[(~junk).nonzero()[:, 0]]


@torch.no_grad()
def maps_at_true_poses(stack: ParticleStack) -> FinalMaps:
    """Half-maps, joint map and their correlation."""
    assert stack.poses is not None
    sign = contrast_to_sign(measure_contrast(stack).contrast)
    how = Preprocessing(contrast_sign=sign, noise=ReconstructionConfig().noise)
    noise = read_spectra(stack, stack.box, how).noise
    reading = StackReading(box=stack.box, contrast_sign=sign, noise=noise)
    half_sets = drawn_half_sets(len(stack), 0, "independent")
    return reconstruct_final_maps(stack, stack.poses, half_sets, FinalMapsSettings(reading=reading))


if __name__ == "__main__":
    main()
