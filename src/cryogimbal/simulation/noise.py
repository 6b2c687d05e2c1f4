"""Noise with a power spectrum: ``1 / (1 + (s L)^2) + floor``, scaled to a standard deviation of 1."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.fourier.shells import radius_grid
from cryogimbal.fourier.transforms import hartley_to_image, image_to_hartley


def noise_power(
    box: int, pixel_size_angstrom: float, length_angstrom: float, floor: float
) -> Float[Tensor, "box box"]:
    """Power at every frequency of a centred spectrum, its mean 1: what an image's pixels vary by.

    Parameters
    ----------
    length_angstrom
        L: the power has fallen to a half (but for the floor) at a period of ``L``.
    floor
        Added everywhere, beside 1 at frequency 0.
    """
    frequency = radius_grid(box, 2) / (box * pixel_size_angstrom)
    power = 1 / (1 + (frequency * length_angstrom).square()) + floor
    return (power / power.mean()).float()


def colour(
    white: Float[Tensor, "batch box box"], power: Float[Tensor, "box box"]
) -> Float[Tensor, "batch box box"]:
    """White noise of standard deviation 1 given a power spectrum."""
    return hartley_to_image(image_to_hartley(white) * power.sqrt())


def white_noise(seeds: list[int], box: int) -> Float[Tensor, "batch box box"]:
    """One image of normal numbers for each seed, so that none depends on the others."""
    noise = torch.empty(len(seeds), box, box)
    for image, seed in zip(noise, seeds, strict=True):
        image.normal_(generator=torch.Generator().manual_seed(seed))
    return noise
