"""Stacks of one particle, a formula in Å, in several boxes and pixel sizes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cryogimbal.data.optics import CtfParameters, OpticsGroup
from cryogimbal.data.particles import ArrayImages, ParticleStack
from cryogimbal.fourier.transforms import hartley_to_image, image_to_hartley
from cryogimbal.imaging.image_rows import square_transfer
from tests.imaging.gaussian_phantom import GaussianPhantom
from tests.small_particles import constant_ctf

SIGMA = 6.0


def group_of(box: int, pixel_size: float, treatment: str = "none") -> OpticsGroup:
    return OpticsGroup(
        name=f"{box} at {pixel_size:.2f}",
        voltage_kilovolt=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
        pixel_size_angstrom=pixel_size,
        box=box,
        treatment=treatment,  # pyright: ignore[reportArgumentType]
    )


@dataclass(frozen=True, kw_only=True)
class MixedImages:
    """Images of two boxes, as a table of two stacks gives them."""

    parts: tuple[Tensor, ...]

    @property
    def n_images(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def box(self) -> int:
        return self.parts[0].shape[-1]

    def read(self, index: Tensor) -> Tensor:
        every = [image for part in self.parts for image in part]
        return torch.stack([every[place] for place in index.tolist()])


def phantom_in_pixels(phantom: GaussianPhantom, pixel_size: float) -> GaussianPhantom:
    """A phantom in Å on other pixels; the same density has the same projected values."""
    return GaussianPhantom(
        position=phantom.position / pixel_size,
        weight=phantom.weight * pixel_size,
        sigma=phantom.sigma / pixel_size,
    )


def images_of(phantom: GaussianPhantom, rotation: Tensor, group: OpticsGroup) -> Tensor:
    found = [
        phantom_in_pixels(phantom.turned(one), group.pixel_size_angstrom).projection(group.box)
        for one in rotation
    ]
    return torch.stack(found).float()


def with_ctf(images: Tensor, ctf: CtfParameters, group: OpticsGroup) -> Tensor:
    transfer = square_transfer(ctf, group, group.box)
    return hartley_to_image(image_to_hartley(images) * transfer)


def mixed_stack(
    phantom: GaussianPhantom,
    rotation: Tensor,
    groups: tuple[OpticsGroup, ...],
    generator: torch.Generator,
) -> ParticleStack:
    """Half of the images of each group, with CTF and white noise of 1 per (4 Å)^2."""
    n = len(rotation) // len(groups)
    ctf, parts = constant_ctf(len(rotation), generator), []
    for number, group in enumerate(groups):
        index = torch.arange(number * n, (number + 1) * n)
        clean = with_ctf(images_of(phantom, rotation[index], group), ctf[index], group)
        noise = torch.randn(clean.shape, generator=generator)
        parts.append(clean + noise * 4.0 / group.pixel_size_angstrom)
    return ParticleStack(
        images=MixedImages(parts=tuple(parts)) if len(parts) > 1 else ArrayImages(values=parts[0]),
        ctf=ctf,
        optics=groups,
        optics_index=torch.arange(len(rotation)) // n,
    )
