"""What the true poses of a simulated case give: the resolution that a search can at best come to.

    python benchmarks/true_poses.py realistic --work DIR [--runs RUN RUN ...]

Half-maps of all images that are no junk, at their true poses and shifts; noise and sign measured as in a
run. Runs of the same case that are named are compared shell by shell.
"""

import argparse
from pathlib import Path

import torch
from cases import CASES, stack_folder
from records import read_json

from cryogimbal.data.particles import ParticleStack
from cryogimbal.evaluation.fsc import FscCurve, fourier_shell_correlation
from cryogimbal.imaging.contrast import contrast_to_sign, measure_contrast
from cryogimbal.imaging.spectra import Preprocessing, read_spectra
from cryogimbal.imaging.stack_sums import StackReading
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.final_maps import FinalMaps, FinalMapsSettings, reconstruct_final_maps
from cryogimbal.inference.half_sets import drawn_half_sets
from cryogimbal.io.mrc import read_density
from cryogimbal.io.star import read_particles
from cryogimbal.io.star_junk import table_junk


def main() -> None:
    """Reconstruct at the true poses and print how far that holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--work", type=Path, required=True, help="folder for stacks and runs")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="runs to compare with")
    arguments = parser.parse_args()
    data = stack_folder(arguments.case, arguments.work)
    maps = maps_at_true_poses(true_particles(data / "truth.star"))
    corrected = maps.fsc.corrected
    against = fourier_shell_correlation(
        maps.density, read_density(data / "truth.mrc"), poses="truth"
    )
    print(
        f"true poses: corrected FSC 0.143 {place(corrected, corrected.resolution_angstrom(0.143))}"
    )
    print(
        f"true poses: FSC 0.5 with the true map {place(against, against.resolution_angstrom(0.5))}"
    )
    for run in arguments.runs:
        found = read_json(run / "summary.json")["half_map_resolution_fsc0143_angstrom"]
        print(f"{run}: corrected FSC 0.143 {place(corrected, found)}")


def place(curve: FscCurve, resolution_angstrom: float) -> str:
    """A resolution in Å and as the number of its shell."""
    shell = curve.box * curve.voxel_size_angstrom / resolution_angstrom
    return f"at {resolution_angstrom:.2f} Å, shell {shell:.1f}"


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
