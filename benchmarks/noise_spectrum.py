"""What it costs that the spectrum of the noise has to be found: the same run told the true one.

    python benchmarks/noise_spectrum.py --seeds 0 1 2 --work DIR

Centred images of the 70S in coloured noise, of the power ``1 / (1 + (40 Å s)^2) + floor``. The one run
normalises images and measures the noise as always. The other is given the images as they were simulated
and their noise's variance, shell by shell, and keeps to both. Neither teaches an encoder.
"""

import argparse
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch
from cases import simulate
from records import append_rows, commit, processor, table_row

from cryogimbal.data.particles import ParticleStack
from cryogimbal.evaluation.pose_error import PoseErrors, pose_errors
from cryogimbal.fourier.shells import shell_sum
from cryogimbal.imaging.image_rows import rows_of_images
from cryogimbal.imaging.noise import NoiseModel
from cryogimbal.imaging.spectra import READ_BATCH, ParticleSpectra, Preprocessing, read_spectra
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.config_heads import HeadTrainingConfig
from cryogimbal.inference.reconstruct import ReconstructionRun
from cryogimbal.inference.records import StepRecord
from cryogimbal.inference.start_and_result import StartingPoint
from cryogimbal.io.star import read_particles, read_poses
from cryogimbal.simulation.noise import noise_power

HEADING = "## Noise found and noise known"
CASE, LENGTH_ANGSTROM = "70s", 40.0


def main() -> None:
    """Run both for every seed and record them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--floor", type=float, default=0.1)
    parser.add_argument("--work", type=Path, required=True, help="folder for the stacks")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        data = arguments.work / f"{CASE}-coloured-{arguments.floor:g}-{seed}"
        if not (data / "truth.mrc").exists():
            coloured = ("--noise-length", LENGTH_ANGSTROM, "--noise-floor", arguments.floor)
            simulate(CASE, data, *map(str, coloured), "--seed", str(seed))
        stack, _ = read_particles(data / "particles.star")
        found = read_spectra(stack, stack.box, Preprocessing(noise="estimate"))
        known = with_true_noise(found, stack, arguments.floor)
        by_found, by_known = (errors_of(one, data, seed) for one in (found, known))
        ratio = by_found.rotation_error_deg.median() / by_known.rotation_error_deg.median()
        cells = [
            date.today().isoformat(),
            commit(),
            f"{CASE}, floor {arguments.floor:g}",
            str(seed),
            *(
                f"{float(one.rotation_error_deg.median()):.3f} / "
                f"{float(one.rotation_error_deg.mean()):.3f}"
                for one in (by_found, by_known)
            ),
            f"{float(ratio):.3f}",
            processor(),
        ]
        row = table_row(cells)
        print(row, flush=True)
        append_rows(HEADING, [row])


def with_true_noise(
    spectra: ParticleSpectra, stack: ParticleStack, floor: float
) -> ParticleSpectra:
    """The images as they were simulated, and the variance that their noise has been given."""
    rows = torch.empty_like(spectra.rows)
    for index in torch.arange(len(stack)).split(READ_BATCH):
        images, group = stack.images.read(index), stack.optics[0]
        rows[index] = rows_of_images(
            images, stack.ctf[index], group, spectra.disc, stack.width_angstrom
        )
    power = noise_power(stack.box, stack.pixel_size_angstrom, LENGTH_ANGSTROM, floor)
    n_in_shell = shell_sum(torch.ones_like(power), 2)
    noise = NoiseModel.white(len(stack), stack.box, stack.optics_index)
    noise.enter((shell_sum(power, 2) / n_in_shell)[None])
    return replace(spectra, rows=rows, noise=noise)


def errors_of(spectra: ParticleSpectra, data: Path, seed: int) -> PoseErrors:
    """Of a whole search."""
    config = ReconstructionConfig(
        shifts="none", seed=seed, head_training=HeadTrainingConfig(epochs=0)
    )
    run = ReconstructionRun(spectra, config, StartingPoint())
    for record in run.records():
        if not isinstance(record, StepRecord):
            print(record, flush=True)
    return pose_errors(run.result().poses, read_poses(data / "truth.star"))


if __name__ == "__main__":
    main()
