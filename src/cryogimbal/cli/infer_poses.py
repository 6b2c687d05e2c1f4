"""``cryogimbal infer-poses``: poses of new images by the encoder of a finished run."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from cryogimbal.cli.aberrations import told_aberrations
from cryogimbal.cli.circumstances import told_of_images
from cryogimbal.cli.contrast import decide_contrast
from cryogimbal.cli.display import Display
from cryogimbal.cli.options import read_config
from cryogimbal.cli.prepare import FIELD_OF_VIEW_TOLERANCE, centring_shifts, device_named
from cryogimbal.cli.taught_encoder import TaughtEncoder, read_encoder
from cryogimbal.data.particles import ParticleStack
from cryogimbal.data.poses import PoseSet
from cryogimbal.errors import InputError
from cryogimbal.fourier.resample import resample_density
from cryogimbal.imaging.plane_symmetry import N_SYMMETRIES
from cryogimbal.imaging.spectra import Preprocessing, read_spectra
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.config_heads import PoseInferenceConfig
from cryogimbal.inference.pose_inference import InferredPoses, centring_by_mean_slice, infer_poses
from cryogimbal.inference.records import StepRecord
from cryogimbal.io.mrc import read_density
from cryogimbal.io.run_folder import RunFolder, open_run_folder
from cryogimbal.io.star import read_particles
from cryogimbal.io.star_write import write_particles
from cryogimbal.rotations import geodesic_distance_deg

STAGE = "pose_inference"


@dataclass(frozen=True, kw_only=True)
class InferPoses:
    """Poses of new images of a particle whose map is known: no training, no search."""

    input: Annotated[Path, tyro.conf.Positional]
    """Particles: a STAR file of RELION 3.0, 3.1, 4 or 5."""
    run_folder: Annotated[Path, tyro.conf.arg(name="run")]
    """Folder of a finished run that has an encoder."""
    out: Path
    """The input table with the poses found, made new."""
    image_root: Path | None = None
    """Where to look for image stacks beside the usual places."""
    direct_steps: int = PoseInferenceConfig.direct_steps
    """Gauss-Newton steps of each image after the encoder; 0: its best head as it is."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""

    def run(self) -> None:
        """Execute the command.

        Raises
        ------
        InputError
            If the run has no encoder or is not finished, the particles are not like its own, or the
            table to be written is there already.
        """
        began = time.monotonic()
        options = PoseInferenceConfig(direct_steps=self.direct_steps)
        run = _finished(self.run_folder)
        self._check_paths()
        taught = read_encoder(run)
        device = device_named(self.device)
        stack, table = read_particles(self.input, self.image_root)
        _require_same_width(self.input, stack, taught)
        config = read_config(run.config, ReconstructionConfig())
        aberrations = told_aberrations(table, stack, taught.encoder.disc.box, config)
        shift = centring_shifts(stack, self.input, config)
        contrast = decide_contrast(stack, config)
        spectra = read_spectra(
            stack,
            taught.encoder.disc.box,
            Preprocessing(
                particle_diameter_angstrom=taught.particle_diameter_angstrom,
                centring_shift_angstrom=shift if bool(shift.any()) else None,
                contrast_sign=contrast.sign,
                noise=config.noise,
            ),
            device,
        )
        density = _density_of(run, taught).to(device)
        console = Console(highlight=False, soft_wrap=True)
        _announce(console, stack, taught, run)
        warnings = (*aberrations, *contrast.warnings)
        for line in (contrast.sentence, *(f"warning: {text}" for text in warnings)):
            console.print(line, markup=False)
        taught.encoder.to(device)
        centring = None
        if config.shift_range_box > 0:
            centring = centring_by_mean_slice(
                taught.encoder, density, spectra, config.shift_range_box
            )
        inferred = infer_poses(taught.encoder, density, spectra, options, centring)
        found = _shown(console, inferred, len(spectra))
        if found.shift_box is not None:
            shift = shift + found.shift_box * taught.width_angstrom
        poses = PoseSet(rotation=found.rotation, shift_angstrom=shift)
        write_particles(self.out, table, poses)
        seconds = time.monotonic() - began
        console.print(
            f"{len(stack):,} poses in {seconds:.1f} s ({len(stack) / seconds:,.0f} images/s, reading "
            f"included); {_told(found, options)}",
            markup=False,
        )
        console.print(f"  {self.out}  the input table with the poses found", markup=False)

    def _check_paths(self) -> None:
        if self.out.exists():
            raise InputError(f"{self.out}: expected a new file, found one; choose another --out")
        if not self.out.absolute().parent.is_dir():
            raise InputError(
                f"{self.out}: the folder {self.out.absolute().parent} does not exist; create it first"
            )
        if not self.input.is_file():
            raise InputError(f"{self.input}: no such file; expected a STAR table of particles")


def _finished(path: Path) -> RunFolder:
    run = open_run_folder(path)
    if not run.summary.exists():
        raise InputError(
            f"{run.path}: expected a finished run, found no {run.summary.name}; "
            f"cryogimbal resume {run.path} finishes it"
        )
    return run


def _require_same_width(path: Path, stack: ParticleStack, taught: TaughtEncoder) -> None:
    box, expected = taught.encoder.disc.box, taught.width_angstrom
    found = stack.box * stack.pixel_size_angstrom
    if abs(found / expected - 1) > FIELD_OF_VIEW_TOLERANCE:
        wanted = round(expected / stack.pixel_size_angstrom)
        raise InputError(
            f"{path}: expected images as wide as the run's ({expected:.5g} Å), found {found:.5g} Å "
            f"({stack.box} pixels of {stack.pixel_size_angstrom:.5g} Å); extract the particles anew "
            f"with a box of {wanted} pixels"
        )
    if stack.box < box:
        raise InputError(
            f"{path}: expected images of at least the run's working box of {box} pixels, found "
            f"{stack.box}; extract the particles anew with less binning"
        )


def _density_of(run: RunFolder, taught: TaughtEncoder) -> Float[Tensor, "box box box"]:
    if not run.density.is_file():
        raise InputError(f"{run.path}: expected a finished run, found no {run.density.name}")
    density = read_density(run.density)
    box, width = taught.encoder.disc.box, density.box * density.voxel_size_angstrom
    if density.box < box or abs(width / taught.width_angstrom - 1) > FIELD_OF_VIEW_TOLERANCE:
        raise InputError(
            f"{run.density}: expected a map of at least {box}³ voxels and {taught.width_angstrom:.5g} "
            f"Å as the encoder was taught with, found {density.box}³ and {width:.5g} Å; the file was "
            "changed"
        )
    # Projections, sums over voxels, keep the scale of the images where there are fewer voxels.
    return resample_density(density.values, box) * (density.box / box) ** 2


def _announce(
    console: Console, stack: ParticleStack, taught: TaughtEncoder, run: RunFolder
) -> None:
    encoder = taught.encoder
    lines = [
        *told_of_images(stack),
        f"encoder of {run.path}: {encoder.config.n_heads} heads for each of {N_SYMMETRIES} turned and "
        f"mirrored copies of an image, seen to {taught.width_angstrom / encoder.disc.radius:.3g} Å",
    ]
    for line in lines:
        console.print(line, markup=False)


def _shown(console: Console, inferred: Iterator[InferredPoses], n_images: int) -> InferredPoses:
    """Poses of all images on the CPU, with a line of progress while they are found."""
    parts: list[InferredPoses] = []
    done, loss_sum = 0, 0.0
    with Display(console) as display:
        for batch in inferred:
            parts.append(batch)
            done += len(batch.index)
            loss_sum += float(batch.residual.sum())
            display.show(
                StepRecord(
                    stage=STAGE,
                    epoch=0,
                    n_epochs=1,
                    images_done=done,
                    images_total=n_images,
                    loss=loss_sum / done,
                )
            )
    shifts = [part.shift_box for part in parts if part.shift_box is not None]
    return InferredPoses(
        index=torch.cat([part.index for part in parts]).cpu(),
        rotation=torch.cat([part.rotation for part in parts]).cpu(),
        shift_box=torch.cat(shifts).cpu() if shifts else None,
        residual=torch.cat([part.residual for part in parts]).cpu(),
        head_rotation=torch.cat([part.head_rotation for part in parts]).cpu(),
    )


def _told(found: InferredPoses, options: PoseInferenceConfig) -> str:
    turned = float(geodesic_distance_deg(found.rotation, found.head_rotation).median())
    return (
        f"{options.direct_steps} direct steps turned them by {turned:.1f}° (median) from the best "
        f"head; mean residual {float(found.residual.mean()):.4f} (pure noise: 1)"
    )
