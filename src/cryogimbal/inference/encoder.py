"""The pose network: an image in, M rotations out (the paper's equations 4 and 5)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryogimbal.data.poses import PoseHypotheses
from cryogimbal.fourier.disc import make_disc
from cryogimbal.fourier.transforms import hartley_to_image
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.inference.config import EncoderConfig
from cryogimbal.inference.precision import network_precision
from cryogimbal.rotations import six_d_to_rotation

# Convolutions per block of VGG-16 (Simonyan and Zisserman 2014, configuration D).
VGG16_BLOCKS = (2, 2, 3, 3, 3)
SMALLEST_FEATURE_MAP = 2
ROTATION_NUMBERS = 6
ROTATION_OFFSET = 0.1


class PoseEncoder(nn.Module):
    """Gaussian pyramid, VGG-16 backbone shared by all heads, and M three-layer heads to 6-D."""

    def __init__(self, config: EncoderConfig, box: int) -> None:
        super().__init__()
        self.box = box
        disc = make_disc(box)
        self.pyramid: Tensor
        self.register_buffer(
            "pyramid", _pyramid_transfer(disc.radius_per_coefficient, box, config.pyramid_levels)
        )
        self.square_index: Tensor
        self.register_buffer("square_index", disc.square_index, persistent=False)
        backbone, n_features = _vgg16(config.pyramid_levels, config.channels, box)
        # Channels last is the layout in which convolutions are fastest, on CPUs and GPUs.
        self.backbone = backbone.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.heads = nn.ModuleList(_head(n_features, config.hidden) for _ in range(config.n_heads))

    @property
    def n_heads(self) -> int:
        """Rotations proposed for each image."""
        return len(self.heads)

    @property
    def n_coefficients(self) -> int:
        """How many leading coefficients of a row the network sees."""
        return self.square_index.shape[0]

    @property
    def radius(self) -> float:
        """Highest frequency that the network sees, in cycles per box."""
        return self.box / 2

    def propose(self, batch: ParticleBatch) -> PoseHypotheses:
        """One rotation per head for each image; the network sees no CTF."""
        return self(batch.observed[:, : self.n_coefficients])

    def forward(self, rows: Float[Tensor, "batch coefficient"]) -> PoseHypotheses:
        """One rotation per head for each row, particles taken as centred."""
        levels = self._levels(rows)
        with network_precision(rows.device):
            features = self.backbone(levels)
            six_d = torch.stack([head(features) for head in self.heads], dim=1)
        return PoseHypotheses(rotation=six_d_to_rotation(six_d.float()))

    def _levels(self, rows: Tensor) -> Float[Tensor, "batch level box box"]:
        """Smoother and smoother copies, each with mean 0 and standard deviation 1 over the image.

        Smoothing removes most of the noise; without the scaling the smooth levels would be so weak
        beside the first that the network could not see them at the start.
        """
        smoothed = rows[:, None] * self.pyramid
        spectrum = smoothed.new_zeros(*smoothed.shape[:2], self.box * self.box)
        spectrum[..., self.square_index] = smoothed
        images = hartley_to_image(spectrum.unflatten(-1, (self.box, self.box)))
        normalised = nn.functional.instance_norm(images)
        return normalised.contiguous(memory_format=torch.channels_last)


def _pyramid_transfer(
    radius: Float[Tensor, " coefficient"], box: int, n_levels: int
) -> Float[Tensor, "level coefficient"]:
    """Gaussian transfer functions; the first level is the image itself, then widths double.

    Level i blurs with a standard deviation of ``2**(i - 1) * box / 128`` pixels, at least half a
    pixel more than nothing.
    """
    frequency = radius / box
    transfer = [torch.ones_like(frequency)]
    for level in range(1, n_levels):
        width = max(2.0 ** (level - 1) * box / 128, 0.5 * level)
        transfer.append(torch.exp(-2 * (math.pi * width * frequency).square()))
    return torch.stack(transfer)


def _vgg16(n_inputs: int, channels: tuple[int, ...], box: int) -> tuple[nn.Sequential, int]:
    """Backbone and its number of features; a small image is pooled fewer times."""
    layers: list[nn.Module] = []
    size, before = box, n_inputs
    for n_convolutions, width in zip(VGG16_BLOCKS, channels, strict=True):
        for _ in range(n_convolutions):
            layers += [
                nn.Conv2d(before, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            before = width
        if size // 2 >= SMALLEST_FEATURE_MAP:
            layers.append(nn.MaxPool2d(2))
            size //= 2
    layers.append(nn.Flatten())
    return nn.Sequential(*layers), before * size * size


def _head(n_features: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_features, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, ROTATION_NUMBERS),
    )


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Fresh weights from a generator: He's rule; offsets only where rotations come out.

    The rotations must differ from image to image from the first step on. Were they nearly constant,
    the volume would learn the mean image at a few fixed poses, and the network would follow it.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                # Heads differ from the start, and no image can give the rotation of a zero vector.
                spread = ROTATION_OFFSET if layer.bias.numel() == ROTATION_NUMBERS else 0.0
                nn.init.normal_(layer.bias, std=spread, generator=generator)
