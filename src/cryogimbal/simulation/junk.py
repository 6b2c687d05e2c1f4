"""Images that are no single particle, as pickers find them: four kinds, labelled.

Noise alone is an image without signal; two particles in one box are both there, half way off its
centre each. The edge of a frame and a bright contaminant are put onto the finished image: beyond the
edge there is nothing, not even noise, and a contaminant scatters so strongly that it is seen in
amplitude rather than through the CTF.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryogimbal.data.poses import PoseSet
from cryogimbal.fourier.shells import radius_grid
from cryogimbal.rotations import random_rotations

JunkKind = Literal["noise", "edge", "contaminant", "pair"]
JUNK_KINDS: tuple[JunkKind, ...] = get_args(JunkKind)
NO_JUNK = "none"

# In fractions of the box: how far the two particles of a pair are apart.
PAIR_DISTANCE = (0.35, 0.5)
# Share of the box beyond the edge of a frame, and what it is filled with in deviations of the noise.
EDGE_SHARE = (0.3, 0.7)
EDGE_LEVEL = (-1.5, 1.5)
# Contaminants: radius and offset in fractions of the box, brightness in deviations of the noise.
CONTAMINANT_RADIUS = (0.06, 0.14)
CONTAMINANT_OFFSET_SD = 0.08
CONTAMINANT_BRIGHTNESS = (5.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Junk:
    """Which images of a stack are junk, and of what kind."""

    kind: Int[Tensor, " particle"]
    """0 for a particle, else its kind's place in ``JUNK_KINDS`` counted from 1."""
    second: PoseSet
    """Poses of the second particle of pairs; of no meaning for other images."""

    @property
    def is_junk(self) -> Bool[Tensor, " particle"]:
        """Whether each image is junk."""
        return self.kind > 0

    def of_kind(self, kind: JunkKind) -> Bool[Tensor, " particle"]:
        """Whether each image is junk of this kind."""
        return self.kind == JUNK_KINDS.index(kind) + 1

    @property
    def names(self) -> list[str]:
        """Kind of each image in words; ``none`` for a particle."""
        words = (NO_JUNK, *JUNK_KINDS)
        return [words[number] for number in self.kind.tolist()]


def no_junk(n_images: int) -> Junk:
    """Every image is a particle."""
    return Junk(
        kind=torch.zeros(n_images, dtype=torch.int64),
        second=PoseSet(
            rotation=torch.eye(3).repeat(n_images, 1, 1), shift_angstrom=torch.zeros(n_images, 2)
        ),
    )


def draw_junk(
    poses: PoseSet,
    fraction: float,
    kinds: tuple[JunkKind, ...],
    width_angstrom: float,
    generator: torch.Generator,
) -> tuple[Junk, PoseSet]:
    """The given share of images, rounded, chosen at random and of the kinds in equal shares.

    Also the poses, where the particle of a pair has moved to one side of where it was, and the second
    stands on the other; ``width_angstrom`` is the box's.
    """
    n = len(poses)
    chosen = torch.randperm(n, generator=generator)[: round(fraction * n)]
    numbers = torch.tensor([JUNK_KINDS.index(kind) + 1 for kind in kinds])
    kind = torch.zeros(n, dtype=torch.int64)
    kind[chosen] = numbers[torch.arange(len(chosen)) % len(kinds)]
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    half = _uniform(PAIR_DISTANCE, n, generator) * width_angstrom / 2
    aside = half[:, None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    second = PoseSet(
        rotation=random_rotations(n, generator), shift_angstrom=poses.shift_angstrom + aside
    )
    junk = Junk(kind=kind, second=second)
    pair = junk.of_kind("pair")[:, None]
    shift = torch.where(pair, poses.shift_angstrom - aside, poses.shift_angstrom)
    return junk, PoseSet(rotation=poses.rotation, shift_angstrom=shift)


def with_edge(
    image: Float[Tensor, "box box"], generator: torch.Generator
) -> Float[Tensor, "box box"]:
    """The image beyond one of whose sides the frame ends: one grey value and no noise there."""
    box = image.shape[-1]
    share, level = (float(_uniform(r, 1, generator)) for r in (EDGE_SHARE, EDGE_LEVEL))
    side = int(torch.randint(4, (), generator=generator))
    outside = torch.arange(box) < share * box
    if side % 2:
        outside = outside.flip(0)
    mask = outside[:, None].expand(box, box) if side < 2 else outside.expand(box, box)
    return torch.where(mask, level, image)


def with_contaminant(
    image: Float[Tensor, "box box"], sign: float, generator: torch.Generator
) -> Float[Tensor, "box box"]:
    """The image with a bright round spot near its centre, of the sign that particles have."""
    box = image.shape[-1]
    radius, height = (
        float(_uniform(r, 1, generator)) for r in (CONTAMINANT_RADIUS, CONTAMINANT_BRIGHTNESS)
    )
    offset = CONTAMINANT_OFFSET_SD * torch.randn(2, generator=generator)
    row, column = (offset * box).round().long().tolist()
    distance = radius_grid(box, 2).roll((row, column), (0, 1))
    # An edge as wide as a pixel: 1 inside, 0 outside.
    spot = (radius * box - distance + 0.5).clamp(0, 1).float()
    return image + sign * height * spot


def _uniform(
    limits: tuple[float, float], n: int, generator: torch.Generator
) -> Float[Tensor, " n"]:
    low, high = limits
    return low + (high - low) * torch.rand(n, generator=generator)
