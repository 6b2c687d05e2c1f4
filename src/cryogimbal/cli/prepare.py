"""From files to what the search takes: spectra at the working box and a starting point."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.cli.aberrations import told_aberrations
from cryogimbal.cli.contrast import ContrastDecision, decide_contrast
from cryogimbal.cli.half_sets import given_mask, half_sets_of
from cryogimbal.data.density import DensityMap
from cryogimbal.data.half_sets import HalfSets
from cryogimbal.data.particles import ParticleStack
from cryogimbal.data.poses import PoseSet
from cryogimbal.errors import InputError
from cryogimbal.fourier.resample import resample_density
from cryogimbal.imaging.spectra import ParticleSpectra, Preprocessing, read_spectra, working_box_for
from cryogimbal.inference.centring import centred
from cryogimbal.inference.class_sorting import LEAST_IMAGES_OF_A_CLASS
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.start_and_result import StartingPoint
from cryogimbal.io.mrc import read_density
from cryogimbal.io.star import read_particles, read_poses
from cryogimbal.io.star_table import StarTable

NYQUIST_TARGET_ANGSTROM = 8.0
FIELD_OF_VIEW_TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class PreparedInput:
    """The input of a run, read and checked."""

    stack: ParticleStack
    table: StarTable
    spectra: ParticleSpectra
    """Of all particles; where the halves are searched apart, of those of half 1."""
    start: StartingPoint
    contrast: ContrastDecision
    preprocessing: Preprocessing
    """How all particles are read."""
    shift_angstrom: Float[Tensor, "particle 2"]
    """Displacements the images were centred by beforehand; zero where none were given."""
    half_sets: HalfSets
    mask: DensityMap | None
    """What half-maps are compared in; none: made from the map."""

    @property
    def searched(self) -> Int[Tensor, " chosen"]:
        """Particles that the spectra are of."""
        if self.half_sets.poses == "independent":
            return self.half_sets.index(1)
        return torch.arange(len(self.stack))


def prepare(
    table_path: Path, image_root: Path | None, config: ReconstructionConfig
) -> PreparedInput:
    """Read the table, the images, and what is given to start from.

    Raises
    ------
    InputError
        If anything in them cannot be used.
    """
    device = device_named(config.device)
    stack, table = read_particles(table_path, image_root)
    require_images_for_classes(table, config.n_classes)
    half_sets, told = half_sets_of(table, config)
    mask = given_mask(config.mask, stack)
    _require_final_box(config.final.box, stack)
    box = config.working_box
    if box is None:
        box = working_box_for(stack.box, stack.pixel_size_angstrom, NYQUIST_TARGET_ANGSTROM)
    aberrations = told_aberrations(table, stack, box, config)
    shift = centring_shifts(stack, table_path, config)
    contrast = decide_contrast(stack, config)
    how = Preprocessing(
        particle_diameter_angstrom=config.particle_diameter,
        centring_shift_angstrom=shift if bool(shift.any()) else None,
        contrast_sign=contrast.sign,
        noise=config.noise,
    )
    if config.half_sets == "independent":
        spectra = read_part(stack, half_sets.index(1), box, how, device)
    else:
        spectra = read_spectra(stack, box, how, device)
    if is_to_be_centred(config):
        spectra = centred(spectra, config.shift_range_box)
    start = StartingPoint(
        density=_initial_density(config.initial_map, spectra),
        poses=_initial_poses(config.initial_poses, len(stack)),
    )
    return PreparedInput(
        stack=stack,
        table=replace(table, warnings=(*table.warnings, *told, *aberrations)),
        spectra=spectra,
        start=start,
        contrast=contrast,
        preprocessing=how,
        shift_angstrom=shift,
        half_sets=half_sets,
        mask=mask,
    )


def is_to_be_centred(config: ReconstructionConfig) -> bool:
    """Whether images are centred by their average before the search."""
    return config.shift_range_box > 0 and config.initial_poses is None


def read_part(
    stack: ParticleStack,
    index: Int[Tensor, " chosen"],
    box: int,
    how: Preprocessing,
    device: torch.device,
) -> ParticleSpectra:
    """Spectra of some particles, with the noise that these alone show.

    Raises
    ------
    InputError
        If an image cannot be used.
    """
    shift = how.centring_shift_angstrom
    part = replace(how, centring_shift_angstrom=None if shift is None else shift[index])
    return read_spectra(stack[index], box, part, device)


def device_named(name: str) -> torch.device:
    """The device of that name; ``auto`` is a GPU where torch can use one, else the CPU.

    Raises
    ------
    InputError
        If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device: expected auto, cpu, cuda or cuda:N, found {name}") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device: expected auto, cpu, cuda or cuda:N, found {name}")
    n_gpus = torch.cuda.device_count()
    if device.type == "cuda" and n_gpus == 0:
        raise InputError(f"--device: found {name}, but torch sees no GPU here; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= n_gpus:
        raise InputError(f"--device: expected cuda:0 to cuda:{n_gpus - 1}, found {name}")
    return device


def centring_shifts(
    stack: ParticleStack, table_path: Path, config: ReconstructionConfig
) -> Float[Tensor, "particle 2"]:
    """Displacements that are known and that the images are to be centred by; zeros where none are.

    Raises
    ------
    InputError
        If they are to be those of the table and it has none.
    """
    if config.shifts != "given":
        return torch.zeros(len(stack), 2)
    if stack.given_shift_angstrom is None:
        raise InputError(
            f"{table_path}: --shifts given expects columns of origins in the table, found none; "
            "use --shifts estimate"
        )
    return stack.given_shift_angstrom


def require_images_for_classes(table: StarTable, n_classes: int) -> None:
    """Refuse more classes than the images can fill.

    Raises
    ------
    InputError
        If there are fewer than 100 images for each of several classes.
    """
    n, least = table.n_particles, LEAST_IMAGES_OF_A_CLASS
    if n_classes == 1 or n >= n_classes * least:
        return
    most = max(1, n // least)
    raise InputError(
        f"{table.path}: --n-classes {n_classes}: expected at least {least} images for each class, "
        f"{n_classes * least} in all, found {n}; add particles or use --n-classes {most}"
    )


def _require_final_box(box: int | None, stack: ParticleStack) -> None:
    if box is not None and box > stack.box:
        raise InputError(
            f"--final.box: expected at most the images' {stack.box} pixels, found {box}; choose a "
            "smaller one"
        )


def _initial_density(
    path: Path | None, spectra: ParticleSpectra
) -> Float[Tensor, "box box box"] | None:
    if path is None:
        return None
    density = read_density(path)
    expected = spectra.disc.box * spectra.pixel_size_angstrom
    found = density.box * density.voxel_size_angstrom
    if abs(found / expected - 1) > FIELD_OF_VIEW_TOLERANCE:
        raise InputError(
            f"{path}: expected a map as wide as the images ({expected:.5g} Å), found {found:.5g} Å "
            f"({density.box} voxels of {density.voxel_size_angstrom:.5g} Å); crop or pad it, or "
            "correct its voxel size"
        )
    return resample_density(density.values, spectra.disc.box).to(spectra.device)


def _initial_poses(path: Path | None, n_particles: int) -> PoseSet | None:
    if path is None:
        return None
    poses = read_poses(path)
    if len(poses) != n_particles:
        raise InputError(
            f"{path}: expected poses of the {n_particles} particles of the input, in the same "
            f"order, found {len(poses)}"
        )
    return poses
