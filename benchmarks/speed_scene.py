"""Images, poses and a volume to time the steps of the search on."""

import math
from dataclasses import dataclass

import torch

from cryogimbal.data.optics import CtfParameters
from cryogimbal.fourier.disc import Disc, make_disc
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.noise import NoiseModel
from cryogimbal.imaging.slices import central_slices
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.rotations import random_rotations, rotvec_to_rotation

OVERSAMPLING = 2
PIXEL_SIZE_ANGSTROM = 5.0
START_ERROR_RAD = 0.05
NOISE = 3.0


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is done at a time."""

    box: int = 64
    batch: int = 256
    encoder_batch: int = 64
    search_images: int = 5000
    search_orientations: int = 12_288
    obvious_search_images: int = 50


QUICK = Sizes(
    box=32, batch=64, search_images=500, search_orientations=2048, obvious_search_images=20
)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A random volume, images of it with a CTF and noise, and poses near the true ones."""

    sizes: Sizes
    device: torch.device
    geometry: GridGeometry
    grid: torch.Tensor
    disc: Disc
    rotation: torch.Tensor
    """True poses of the batch."""
    start: torch.Tensor
    """Poses three degrees or so beside them."""
    batch: ParticleBatch
    spectra: ParticleSpectra
    """A whole stack; what its images show matters to no timing."""
    orientations: torch.Tensor
    """To search over."""


def make_scene(sizes: Sizes, device: torch.device) -> Scene:
    """The scene of a size."""
    generator = torch.Generator().manual_seed(0)
    geometry = GridGeometry(box=sizes.box, radius=sizes.box / 2, oversampling=OVERSAMPLING)
    disc, n = make_disc(sizes.box), sizes.batch
    n_images = max(sizes.search_images, n)
    grid = torch.randn((geometry.side,) * 3, generator=generator)
    rotation = random_rotations(n, generator)
    turn = rotvec_to_rotation(START_ERROR_RAD * torch.randn(n, 3, generator=generator))
    spectra = ParticleSpectra(
        disc=disc,
        rows=torch.randn(n_images, disc.n_coefficients, generator=generator),
        ctf=_microscope(n_images, generator),
        pixel_size_angstrom=PIXEL_SIZE_ANGSTROM,
        noise=NoiseModel.white(n_images, sizes.box, torch.zeros(n_images, dtype=torch.long)),
    )
    ctf = spectra.batch(torch.arange(n), sizes.box / 2).ctf
    slices = central_slices(grid, rotation, disc, OVERSAMPLING)
    noise = torch.randn(slices.shape, generator=generator)
    return Scene(
        sizes=sizes,
        device=device,
        geometry=geometry,
        grid=grid.to(device),
        disc=disc.to(device),
        rotation=rotation.to(device),
        start=(turn @ rotation).to(device),
        batch=ParticleBatch(
            disc=disc.to(device),
            observed=(ctf * slices + NOISE * noise).to(device),
            ctf=ctf.to(device),
            index=torch.arange(n, device=device),
        ),
        spectra=ParticleSpectra(
            disc=disc.to(device),
            rows=spectra.rows.to(device),
            ctf=spectra.ctf.to(device),
            pixel_size_angstrom=PIXEL_SIZE_ANGSTROM,
            noise=spectra.noise.to(device),
        ),
        orientations=random_rotations(sizes.search_orientations, generator).to(device),
    )


def _microscope(n: int, generator: torch.Generator) -> CtfParameters:
    """300 kV, and a defocus of 1 to 2 micrometres."""
    defocus = 1e4 * (1 + torch.rand(n, generator=generator))
    return CtfParameters(
        defocus_u_angstrom=defocus,
        defocus_v_angstrom=defocus - 200,
        defocus_angle_rad=math.pi * torch.rand(n, generator=generator),
        phase_shift_rad=torch.zeros(n),
        voltage_kilovolt=torch.full((n,), 300.0),
        spherical_aberration_mm=torch.full((n,), 2.7),
        amplitude_contrast=torch.full((n,), 0.1),
        bfactor_angstrom2=torch.zeros(n),
        scale=torch.ones(n),
    )
