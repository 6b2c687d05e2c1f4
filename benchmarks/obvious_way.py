"""The obvious way of every step: ``grid_sample`` and autograd, float32, not compiled.

What a good programmer writes first: every coefficient of the disc is looked up by
``torch.nn.functional.grid_sample``, everything is differentiated by autograd, every head is rendered
with gradients, and optimisers are torch's own.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cryogimbal.fourier.disc import Disc
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.plane_symmetry import plane_symmetries
from cryogimbal.inference.config import EncoderConfig
from cryogimbal.inference.row_encoder import RowEncoder
from cryogimbal.rotations import rotvec_to_rotation, six_d_to_rotation

VGG16_BLOCKS = (2, 2, 3, 3, 3)
BLUR_REACH = 4


def sampled_slices(grid: Tensor, rotation: Tensor, disc: Disc, oversampling: int) -> Tensor:
    """Central slices (n, coefficient) of a grid."""
    reach = grid.shape[-1] // 2
    place = (disc.frequency_index @ rotation[:, :2]) * (oversampling / reach)
    volume, points = grid[None, None], place[None, :, None]
    taken = nn.functional.grid_sample(volume, points, mode="bilinear", align_corners=True)
    return taken[0, 0, :, 0]


class PoseStep:
    """Adam on the rotation vectors of a batch."""

    def __init__(self, grid: Tensor, rotation: Tensor, batch: ParticleBatch, oversampling: int):
        self._grid, self._rotation, self._batch = grid, rotation, batch
        self._oversampling = oversampling
        self._rotvec = torch.zeros(len(rotation), 3, device=grid.device, requires_grad=True)
        self._optimiser = torch.optim.Adam([self._rotvec], lr=1e-3)

    def __call__(self) -> None:
        """One step."""
        turned = rotvec_to_rotation(self._rotvec) @ self._rotation
        taken = sampled_slices(self._grid, turned, self._batch.disc, self._oversampling)
        loss = (self._batch.ctf * taken - self._batch.observed).square().sum()
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()


class VolumeStep:
    """Adam on mantissa and exponent, from the images of a batch at known poses."""

    def __init__(self, grid: Tensor, rotation: Tensor, batch: ParticleBatch, oversampling: int):
        self._rotation, self._batch, self._oversampling = rotation, batch, oversampling
        self._mantissa = grid.clone().requires_grad_()
        self._exponent = torch.zeros_like(grid).requires_grad_()
        self._optimiser = torch.optim.Adam([self._mantissa, self._exponent], lr=1e-3)

    def __call__(self) -> None:
        """One step."""
        grid = self._mantissa * self._exponent.exp()
        taken = sampled_slices(grid, self._rotation, self._batch.disc, self._oversampling)
        loss = (self._batch.ctf * taken - self._batch.observed).square().sum(1).mean()
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()


class PlainEncoder(nn.Module):
    """The pose network's layers in float32: blurred copies, VGG-16, one head per hypothesis."""

    def __init__(self, config: EncoderConfig, box: int) -> None:
        super().__init__()
        self.blur: Tensor
        self.register_buffer("blur", _gaussians(config.pyramid_levels))
        layers: list[nn.Module] = []
        size, before = box, config.pyramid_levels
        for n_convolutions, width in zip(VGG16_BLOCKS, config.channels, strict=True):
            for _ in range(n_convolutions):
                convolution = nn.Conv2d(before, width, 3, padding=1, bias=False)
                layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            if size // 2 >= 2:
                layers.append(nn.MaxPool2d(2))
                size //= 2
        self.backbone = nn.Sequential(*layers, nn.Flatten())
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Linear(before * size * size, config.hidden),
                nn.ReLU(),
                nn.Linear(config.hidden, config.hidden),
                nn.ReLU(),
                nn.Linear(config.hidden, 6),
            )
            for _ in range(config.n_heads)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Rotations (batch, head, 3, 3)."""
        levels = nn.functional.conv2d(images[:, None], self.blur, padding=BLUR_REACH)
        features = self.backbone(nn.functional.instance_norm(levels))
        return six_d_to_rotation(torch.stack([head(features) for head in self.heads], dim=1))


class PlainRowEncoder(nn.Module):
    """The network on rows in float32, copies one after the other."""

    def __init__(self, encoder: RowEncoder) -> None:
        super().__init__()
        self.network = copy.deepcopy(encoder.network)
        self.places = encoder.places
        self.symmetries = plane_symmetries(encoder.places.device)

    def forward(self, rows: Tensor) -> Tensor:
        """Rotations (batch, copy x head, 3, 3)."""
        proposed = []
        for places, symmetry in zip(self.places, self.symmetries, strict=True):
            six_d = self.network(rows[:, places]).unflatten(1, (-1, 6))
            proposed.append(symmetry.T @ six_d_to_rotation(six_d))
        return torch.cat(proposed, dim=1)


@dataclass(frozen=True, kw_only=True)
class PlainPosterior:
    """Posterior of some images over orientations by residuals, orientation block by block."""

    batch: ParticleBatch
    slices: Tensor
    block: int = 64

    def __call__(self) -> Tensor:
        """``softmax(-1/2 |C S - H|^2)`` (batch, orientation)."""
        parts = []
        for some in self.slices.split(self.block):
            residual = self.batch.ctf[:, None] * some - self.batch.observed[:, None]
            parts.append(residual.square().sum(-1))
        return torch.softmax(torch.cat(parts, dim=1) / -2, dim=1)


class AutoEncodingStep:
    """One step of encoder and volume: all heads rendered with gradients, the least residual counts."""

    def __init__(self, encoder: nn.Module, grid: Tensor, seen: Tensor, batch: ParticleBatch):
        """``seen`` is what the encoder takes: images or rows."""
        self._encoder, self._seen, self._batch = encoder, seen, batch
        self._mantissa = grid.clone().requires_grad_()
        self._exponent = torch.zeros_like(grid).requires_grad_()
        self._encoder_optimiser = torch.optim.Adam(encoder.parameters(), lr=5e-4)
        self._volume_optimiser = torch.optim.Adam([self._mantissa, self._exponent], lr=5e-3)

    def __call__(self) -> None:
        """One step."""
        rotation = self._encoder(self._seen)
        grid = self._mantissa * self._exponent.exp()
        taken = sampled_slices(grid, rotation.flatten(0, 1), self._batch.disc, oversampling=1)
        predicted = taken.unflatten(0, rotation.shape[:2]) * self._batch.ctf[:, None]
        residual = (predicted - self._batch.observed[:, None]).square().sum(-1)
        self._encoder_optimiser.zero_grad()
        self._volume_optimiser.zero_grad()
        residual.min(dim=1).values.mean().backward()
        self._encoder_optimiser.step()
        self._volume_optimiser.step()


def _gaussians(n_levels: int) -> Tensor:
    """Kernels (level, 1, y, x): none for the first level, then wider and wider ones."""
    axis = torch.arange(-BLUR_REACH, BLUR_REACH + 1).float()
    distance = axis.square() + axis.square()[:, None]
    kernels = [(distance == 0).float()]
    for level in range(1, n_levels):
        kernel = torch.exp(-distance / (2 * (0.5 * level) ** 2)) / (2 * math.pi * level**2)
        kernels.append(kernel / kernel.sum())
    return torch.stack(kernels)[:, None]
