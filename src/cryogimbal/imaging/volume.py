"""The explicit volume: Hartley mantissa times exp(exponent) on an oversampled grid.

Grid and density are two views of one thing. ``GridGeometry`` knows the way between them: padding,
the scale of an orthonormal slice, and the correction of the trilinear kernel. A trilinear slice of a
grid equals the slice of the density times ``sinc^2`` along each axis, so a density is divided by that
kernel on its way in and multiplied on its way out, always.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryogimbal.fourier.disc import Disc
from cryogimbal.fourier.resample import crop_centred, pad_centred, resize_centred
from cryogimbal.fourier.shells import radius_grid
from cryogimbal.fourier.transforms import density_to_hartley, hartley_to_density
from cryogimbal.imaging.slices import PreparedGrid


@runtime_checkable
class Decoder(Protocol):
    """Whatever can be sliced: an explicit volume, a coordinate network, a heterogeneous model."""

    def slices(
        self, rotation: Float[Tensor, "*n 3 3"], disc: Disc
    ) -> Float[Tensor, "*n coefficient"]:
        """Hartley coefficients of the central slices at the given rotations."""
        ...


@dataclass(frozen=True, kw_only=True)
class GridGeometry:
    """A symmetric grid of Hartley coefficients and the density it stands for.

    Slices of the grid are orthonormal spectra of the density's projections (sums along z).
    """

    box: int
    """Voxels a side of the density, and pixels of the images."""
    radius: float
    """Highest frequency the grid can slice, in cycles per box; at most ``box / 2``."""
    oversampling: int
    """Grid samples per cycle per box; the density is zero-padded that many times."""

    @property
    def side(self) -> int:
        """Samples a side, always odd; ``box + 1`` for an even box in full without oversampling."""
        return 2 * math.ceil(self.oversampling * min(self.radius, self.box / 2)) + 1

    @property
    def padded_box(self) -> int:
        """Voxels a side of the zero-padded density whose spectrum has the grid's spacing."""
        return self.oversampling * self.box

    @property
    def scale(self) -> float:
        """Slice of the density over orthonormal spectrum of the padded density."""
        return self.padded_box**1.5 / self.box

    def kernel(self, device: torch.device | None = None) -> Float[Tensor, "box box box"]:
        """What trilinear slicing multiplies the density with: ``sinc^2(x / padded_box)`` per axis."""
        axis = (torch.arange(self.box, device=device) - self.box // 2) / self.padded_box
        line = torch.sinc(axis).square()
        return line[:, None, None] * line[:, None] * line

    def grid_of_density(
        self, density: Float[Tensor, "box box box"]
    ) -> Float[Tensor, "side side side"]:
        """Hartley grid whose slices are the spectra of the density's projections."""
        corrected = density / self.kernel(density.device)
        spectrum = density_to_hartley(pad_centred(corrected, self.padded_box, 3)) * self.scale
        return resize_centred(spectrum, self.side, 3)

    def density_of_grid(
        self, grid: Float[Tensor, "side side side"]
    ) -> Float[Tensor, "box box box"]:
        """Density whose projections the slices of the grid are; inverse within the box and band."""
        spectrum = resize_centred(grid, self.padded_box, 3)
        density = crop_centred(hartley_to_density(spectrum), self.box, 3) / self.scale
        return density * self.kernel(grid.device)


@dataclass(frozen=True, kw_only=True)
class FactorsDecoder:
    """Mantissa and exponent, interpolated apart."""

    mantissa: PreparedGrid
    exponent: PreparedGrid

    def slices(
        self, rotation: Float[Tensor, "*n 3 3"], disc: Disc
    ) -> Float[Tensor, "*n coefficient"]:
        """Slices of the mantissa times the exponential of slices of the exponent."""
        return self.mantissa.slices(rotation, disc) * self.exponent.slices(rotation, disc).exp()


Interpolation = Callable[[Tensor, Tensor, GridGeometry], Decoder]
"""How mantissa and exponent on the grid become slices."""


def interpolate_product(mantissa: Tensor, exponent: Tensor, geometry: GridGeometry) -> Decoder:
    """Interpolate ``mantissa * exp(exponent)``.

    The product comes first so that slicing is linear in the spectrum: half the memory traffic, an
    exact adjoint, and matrix products for the posterior.
    """
    return PreparedGrid.of(mantissa * exponent.exp(), geometry.oversampling)


def interpolate_factors(mantissa: Tensor, exponent: Tensor, geometry: GridGeometry) -> Decoder:
    """Interpolate mantissa and exponent apart, then multiply: the paper authors' reading."""
    return FactorsDecoder(
        mantissa=PreparedGrid.of(mantissa, geometry.oversampling),
        exponent=PreparedGrid.of(exponent, geometry.oversampling),
    )


class HartleyVolume(nn.Module):
    """Learnable volume ``H = mantissa * exp(exponent)`` (the paper's equation 9)."""

    def __init__(
        self, geometry: GridGeometry, interpolation: Interpolation = interpolate_product
    ) -> None:
        super().__init__()
        self.geometry = geometry
        self._interpolation = interpolation
        side = geometry.side
        self.mantissa = nn.Parameter(torch.zeros(side, side, side))
        self.exponent = nn.Parameter(torch.zeros(side, side, side))

    def randomise(
        self, generator: torch.Generator, *, amplitude: float, exponent_sd: float = 0.0
    ) -> None:
        """Mantissa from N(0, 1), exponent from N(log(amplitude), exponent_sd^2)."""
        mantissa, exponent = (
            torch.randn(self.mantissa.shape, generator=generator) for _ in range(2)
        )
        with torch.no_grad():
            self.mantissa.copy_(mantissa)
            self.exponent.copy_(math.log(amplitude) + exponent_sd * exponent)

    def spectrum(self) -> Float[Tensor, "side side side"]:
        """The Hartley grid."""
        return self.mantissa * self.exponent.exp()

    def set_spectrum(self, grid: Float[Tensor, "side side side"]) -> None:
        """Enter a spectrum found elsewhere: exponent the log of each shell's rms, mantissa the rest."""
        radius = radius_grid(grid.shape[-1], 3, device=grid.device).round().long().flatten()
        n_shells = int(radius.max()) + 1
        power = grid.new_zeros(n_shells).index_add(0, radius, grid.flatten().square())
        count = torch.bincount(radius, minlength=n_shells)
        rms = (power / count).sqrt()
        # Shells without signal (outside the band) stay finite and small beside the others.
        floor = 1e-6 * rms.max().clamp_min(torch.finfo(rms.dtype).tiny)
        exponent = torch.maximum(rms, floor).log()[radius].view_as(grid)
        with torch.no_grad():
            self.exponent.copy_(exponent)
            self.mantissa.copy_(grid / exponent.exp())

    def density(self) -> Float[Tensor, "box box box"]:
        """The density in real space, kernel corrected."""
        return self.geometry.density_of_grid(self.spectrum().detach())

    def slices(
        self, rotation: Float[Tensor, "*n 3 3"], disc: Disc
    ) -> Float[Tensor, "*n coefficient"]:
        """Central slices, differentiable in both factors and in the rotation."""
        decoder = self._interpolation(self.mantissa, self.exponent, self.geometry)
        return decoder.slices(rotation, disc)

    @torch.no_grad()
    def frozen(self) -> Decoder:
        """The volume as it is now, without gradients: made once, sliced many times."""
        return self._interpolation(self.mantissa.clone(), self.exponent.clone(), self.geometry)
