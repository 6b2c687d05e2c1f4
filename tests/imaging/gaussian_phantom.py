"""A particle whose density, projections and Fourier transform are formulas: a sum of Gaussians."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GaussianPhantom:
    """Isotropic Gaussians of height ``weight``, in pixels from the origin, float64."""

    position: Tensor
    weight: Tensor
    sigma: float

    def turned(self, rotation: Tensor) -> "GaussianPhantom":
        """The same particle in the image frame: ``p -> A p``."""
        return GaussianPhantom(
            position=self.position @ rotation.double().T, weight=self.weight, sigma=self.sigma
        )

    def moved(self, shift: Tensor) -> "GaussianPhantom":
        """The same particle displaced by (x, y, z) pixels."""
        return GaussianPhantom(
            position=self.position + shift.double(), weight=self.weight, sigma=self.sigma
        )

    def density(self, box: int) -> Tensor:
        """Values on the voxels, axes (z, y, x)."""
        x, y, z = self._lines(box)
        return torch.einsum("n,nz,ny,nx->zyx", self.weight, z, y, x)

    def projection(self, box: int) -> Tensor:
        """Integral along z, on the pixels (y, x)."""
        x, y, _ = self._lines(box)
        along_z = math.sqrt(2 * math.pi) * self.sigma
        return along_z * torch.einsum("n,ny,nx->yx", self.weight, y, x)

    def hartley_slice(self, frequency: Tensor, box: int) -> Tensor:
        """Orthonormal Hartley spectrum of the projection at ``frequency`` (x, y) in cycles per box."""
        k = frequency.double() / box
        envelope = (
            2
            * math.pi
            * self.sigma**2
            * torch.exp(-2 * math.pi**2 * self.sigma**2 * k.square().sum(-1))
        )
        phase = 2 * math.pi * k @ self.position[:, :2].T
        along_z = math.sqrt(2 * math.pi) * self.sigma
        return along_z * envelope * ((phase.cos() + phase.sin()) @ self.weight) / box

    def _lines(self, box: int) -> Tensor:
        axis = torch.arange(box, dtype=torch.float64) - box // 2
        squared = (axis - self.position.T[..., None]).square()
        return torch.exp(-squared / (2 * self.sigma**2))


def random_phantom(
    generator: torch.Generator, *, n: int = 40, reach: float, sigma: float = 1.0
) -> GaussianPhantom:
    """Gaussians of random weights with centres in a ball of radius ``reach`` pixels."""
    direction = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
    radius = reach * torch.rand(n, 1, generator=generator) ** (1 / 3)
    weight = 0.3 + torch.rand(n, generator=generator)
    return GaussianPhantom(
        position=(direction * radius).double(), weight=weight.double(), sigma=sigma
    )
