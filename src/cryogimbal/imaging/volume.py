"""The explicit volume: Hartley mantissa times exp(exponent) on an oversampled grid.

Grid and density are two views of one thing. ``GridGeometry`` knows the way between them: padding,
the scale of an orthonormal slice, and the correction of the trilinear kernel. A trilinear slice of a
grid equals the slice of the density times ``sinc^2`` along each axis, so a density is divided by that
kernel on its way in and multiplied on its way out, always.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from cryogimbal.fourier.disc import Disc
from cryogimbal.fourier.resample import crop_centred, pad_centred, resize_centred
from cryogimbal.fourier.shells import radius_grid
from cryogimbal.fourier.transforms import density_to_hartley, hartley_to_density
from cryogimbal.imaging.slices import central_slices, pair_spectrum, paired_slices


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
class FixedSpectrum:
    """A decoder that does not change: a paired grid, made once and sliced many times."""

    paired: Complex[Tensor, "side side side"]
    oversampling: int

    @classmethod
    def of_grid(
        cls, grid: Float[Tensor, "side side side"], geometry: GridGeometry
    ) -> "FixedSpectrum":
        """Freeze a grid."""
        return cls(paired=pair_spectrum(grid.detach()), oversampling=geometry.oversampling)

    def slices(
        self, rotation: Float[Tensor, "*n 3 3"], disc: Disc
    ) -> Float[Tensor, "*n coefficient"]:
        """Central slices."""
        return paired_slices(self.paired, rotation, disc, self.oversampling)


@dataclass(frozen=True, kw_only=True)
class FixedFactors:
    """Mantissa and exponent that do not change, interpolated apart."""

    mantissa: FixedSpectrum
    exponent: FixedSpectrum

    def slices(
        self, rotation: Float[Tensor, "*n 3 3"], disc: Disc
    ) -> Float[Tensor, "*n coefficient"]:
        """Slices of the mantissa times the exponential of slices of the exponent."""
        return self.mantissa.slices(rotation, disc) * self.exponent.slices(rotation, disc).exp()


class HartleyVolume(nn.Module):
    """Learnable volume ``H = mantissa * exp(exponent)``; the product is interpolated.

    The product comes first so that slicing is linear in the spectrum: half the memory traffic, an
    exact adjoint, and matrix products for the posterior.
    """

    def __init__(self, geometry: GridGeometry) -> None:
        super().__init__()
        self.geometry = geometry
        side = geometry.side
        self.mantissa = nn.Parameter(torch.zeros(side, side, side))
        self.exponent = nn.Parameter(torch.zeros(side, side, side))

    def randomise(self, generator: torch.Generator, amplitude: float) -> None:
        """Mantissa from N(0, 1), exponent flat at ``log(amplitude)``."""
        with torch.no_grad():
            self.mantissa.copy_(torch.randn(self.mantissa.shape, generator=generator))
            self.exponent.fill_(math.log(amplitude))

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
        """Central slices of the product."""
        return central_slices(self.spectrum(), rotation, disc, self.geometry.oversampling)

    def frozen(self) -> Decoder:
        """The volume as it is now, without gradients: made once, sliced many times."""
        return FixedSpectrum.of_grid(self.spectrum(), self.geometry)


class FactoredHartleyVolume(HartleyVolume):
    """The paper authors' reading: mantissa and exponent are interpolated apart, then multiplied."""

    def randomise(self, generator: torch.Generator, amplitude: float) -> None:
        """Both factors from N(0, 1); the exponent is centred at ``log(amplitude)``."""
        super().randomise(generator, amplitude)
        with torch.no_grad():
            self.exponent.add_(torch.randn(self.exponent.shape, generator=generator))

    def slices(
        self, rotation: Float[Tensor, "*n 3 3"], disc: Disc
    ) -> Float[Tensor, "*n coefficient"]:
        """Slices of the mantissa times the exponential of slices of the exponent."""
        mantissa, exponent = (
            central_slices(factor, rotation, disc, self.geometry.oversampling)
            for factor in (self.mantissa, self.exponent)
        )
        return mantissa * exponent.exp()

    def frozen(self) -> Decoder:
        """Both factors as they are now, without gradients."""
        return FixedFactors(
            mantissa=FixedSpectrum.of_grid(self.mantissa, self.geometry),
            exponent=FixedSpectrum.of_grid(self.exponent, self.geometry),
        )
