"""What lies outside the particles of images: their normalisation, and the spectrum of their noise."""

import math

import scipy.ndimage
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryogimbal.data.optics import OpticsGroup
from cryogimbal.data.particles import PIXEL_SIZE_TOLERANCE, ParticleStack
from cryogimbal.errors import InputError
from cryogimbal.fourier.shells import radius_grid
from cryogimbal.imaging.image_rows import square_transfer
from cryogimbal.imaging.noise import BackgroundSpectrum

# Least deviation of the background beside that of the whole image; real ones are near 1.
FAINTEST_BACKGROUND = 1e-6
WINDOW_EDGE_PX = 4.0


class Backgrounds:
    """What lies outside the particles, for images of each box and pixel size."""

    def __init__(self, stack: ParticleStack, diameter_angstrom: float | None) -> None:
        self._stack = stack
        self._diameter = diameter_angstrom
        self._masks: dict[OpticsGroup, Tensor] = {}
        self._spectra: dict[OpticsGroup, BackgroundSpectrum] = {}

    def normalised(self, images: Tensor, group: OpticsGroup, index: Tensor) -> Tensor:
        """Background of mean 0 and standard deviation 1."""
        return normalise_background(images, self._mask(group, images.shape[-1]), index=index)

    def add(self, images: Tensor, group: OpticsGroup, index: Tensor) -> None:
        """Take in normalised images."""
        if group not in self._spectra:
            window = background_window(self._mask(group, images.shape[-1]))
            self._spectra[group] = BackgroundSpectrum(window, len(self._stack.optics))
        filtered = None
        if group.treatment == "multiplied":
            power = square_transfer(self._stack.ctf[index], group, images.shape[-1]).square()
            filtered = power / power.mean((-2, -1), keepdim=True)
        self._spectra[group].add(images, self._stack.optics_index[index], filtered)

    def variance(self, n_shells: int) -> Float[Tensor, "group shell"]:
        """Of each optics group, in shells of the common field of view."""
        if len(self._spectra) == 1:
            seen = next(iter(self._spectra.values()))
            if self._stack.has_one_sampling:
                return seen.variance(n_shells)
        found = torch.ones(len(self._stack.optics), n_shells)
        for first, seen in self._spectra.items():
            own = seen.variance(first.box // 2 + 1)
            place = torch.arange(n_shells) * (first.width_angstrom / self._stack.width_angstrom)
            below = place.long().clamp(max=own.shape[1] - 1)
            above = (below + 1).clamp(max=own.shape[1] - 1)
            common = torch.lerp(own[:, below], own[:, above], (place - below).clamp(max=1.0))
            for number in self._stack.optics_index.unique().tolist():
                group = self._stack.optics[number]
                if group.box == first.box and group.treatment == first.treatment:
                    same = group.pixel_size_angstrom / first.pixel_size_angstrom
                    if abs(same - 1) <= PIXEL_SIZE_TOLERANCE:
                        found[number] = common[number]
        return found

    def _mask(self, group: OpticsGroup, box: int) -> Tensor:
        if group not in self._masks:
            self._masks[group] = background_mask(box, group.pixel_size_angstrom, self._diameter)
        return self._masks[group]


def background_mask(
    box: int, pixel_size_angstrom: float, particle_diameter_angstrom: float | None
) -> Bool[Tensor, "box box"]:
    """Pixels outside the particle's circle.

    Raises
    ------
    InputError
        If the circle leaves fewer than 2 % of the pixels as background.
    """
    diameter = box * pixel_size_angstrom
    if particle_diameter_angstrom is not None:
        diameter = particle_diameter_angstrom
    mask = radius_grid(box, 2) > diameter / pixel_size_angstrom / 2
    if mask.double().mean() < 0.02:
        raise InputError(
            f"--particle-diameter: expected less than the box ({box * pixel_size_angstrom:.1f} Å), "
            f"found {diameter:.1f} Å; no background is left to normalise by"
        )
    return mask


def background_window(background: Bool[Tensor, "box box"]) -> Float[Tensor, "box box"]:
    """The background with a soft inner edge, so that its power does not leak over the spectrum."""
    distance = scipy.ndimage.distance_transform_edt(background.numpy())
    way = (torch.from_numpy(distance).float() / WINDOW_EDGE_PX).clamp(max=1.0)
    return (1 - torch.cos(math.pi * way)) / 2


def normalise_background(
    images: Float[Tensor, "batch box box"],
    background: Bool[Tensor, "box box"],
    *,
    index: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch box box"]:
    """Subtract the background's mean and divide by its standard deviation, image by image.

    Raises
    ------
    InputError
        If the background of an image is constant; ``index`` are the images' places in the stack.
    """
    ring = images[:, background]
    deviation = ring.std(dim=1)
    # Rounding leaves something on a constant background; magnified to 1 it would drown the particle.
    constant = deviation <= FAINTEST_BACKGROUND * images.flatten(1).std(dim=1)
    if bool(constant.any()):
        bad = int(constant.nonzero()[0])
        bad = bad if index is None else int(index[bad])
        raise InputError(
            f"particle {bad + 1}: expected a background with noise, found a constant one; "
            "remove the particle or give a smaller --particle-diameter"
        )
    return (images - ring.mean(dim=1)[:, None, None]) / deviation[:, None, None]
