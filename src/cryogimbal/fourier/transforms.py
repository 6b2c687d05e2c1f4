"""Between real space and centred orthonormal spectra. The only module that reorders frequencies.

Discrete spectra have their zero frequency at ``box // 2`` on every axis, like images and densities
have their origin there. The Hartley transform of a real signal is ``H = Re F - Im F``, that is
``H(k) = sum_x f(x) cas(2 pi k.x / box) / sqrt(n)`` with ``cas = cos + sin``; it is its own inverse.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

IMAGE_AXES = (-2, -1)
DENSITY_AXES = (-3, -2, -1)


def image_to_hartley(image: Float[Tensor, "*batch box box"]) -> Float[Tensor, "*batch box box"]:
    """Centred orthonormal Hartley transform of images."""
    return fourier_to_hartley(_centred_dft(image, IMAGE_AXES))


def hartley_to_image(spectrum: Float[Tensor, "*batch box box"]) -> Float[Tensor, "*batch box box"]:
    """Real-space images of centred Hartley spectra (the transform is an involution)."""
    return image_to_hartley(spectrum)


def density_to_hartley(
    density: Float[Tensor, "*batch box box box"],
) -> Float[Tensor, "*batch box box box"]:
    """Centred orthonormal Hartley transform of densities."""
    return fourier_to_hartley(_centred_dft(density, DENSITY_AXES))


def hartley_to_density(
    spectrum: Float[Tensor, "*batch box box box"],
) -> Float[Tensor, "*batch box box box"]:
    """Real-space densities of centred Hartley spectra (the transform is an involution)."""
    return density_to_hartley(spectrum)


def image_to_fourier(image: Float[Tensor, "*batch box box"]) -> Complex[Tensor, "*batch box box"]:
    """Centred orthonormal discrete Fourier transform of images, in full (no half planes)."""
    return _centred_dft(image, IMAGE_AXES)


def density_to_fourier(
    density: Float[Tensor, "*batch box box box"],
) -> Complex[Tensor, "*batch box box box"]:
    """Centred orthonormal discrete Fourier transform of densities, in full."""
    return _centred_dft(density, DENSITY_AXES)


def fourier_to_density(
    spectrum: Complex[Tensor, "*batch box box box"],
) -> Float[Tensor, "*batch box box box"]:
    """Real part of the inverse of :func:`density_to_fourier`."""
    corner = torch.fft.ifftshift(spectrum, dim=DENSITY_AXES)
    signal = torch.fft.ifftn(corner, dim=DENSITY_AXES, norm="ortho")
    return torch.fft.fftshift(signal.real, dim=DENSITY_AXES)


def fourier_to_hartley(spectrum: Complex[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``H = Re F - Im F``."""
    return spectrum.real - spectrum.imag


def hartley_to_fourier(spectrum: Float[Tensor, "..."], n_axes: int) -> Complex[Tensor, "..."]:
    """Discrete Fourier transform of the real signal whose Hartley spectrum is given.

    ``F(k) = (H(k) + H(-k)) / 2 - i (H(k) - H(-k)) / 2`` over the last ``n_axes`` axes.
    """
    mirrored = mirror_spectrum(spectrum, n_axes)
    return torch.complex((spectrum + mirrored) / 2, (mirrored - spectrum) / 2)


def mirror_spectrum(spectrum: Tensor, n_axes: int) -> Tensor:
    """``H(-k)`` over the last ``n_axes`` axes of a centred spectrum (likewise ``f(-x)``).

    An even box has a lone Nyquist row at index 0 that is its own mirror image; flipping alone
    would move it, hence the roll.
    """
    axes = tuple(range(-n_axes, 0))
    mirrored = torch.flip(spectrum, axes)
    shifts = tuple(1 - spectrum.shape[axis] % 2 for axis in axes)
    return torch.roll(mirrored, shifts, axes) if any(shifts) else mirrored


def _centred_dft(signal: Tensor, axes: tuple[int, ...]) -> Tensor:
    corner = torch.fft.ifftshift(signal, dim=axes)
    return torch.fft.fftshift(torch.fft.fftn(corner, dim=axes, norm="ortho"), dim=axes)
