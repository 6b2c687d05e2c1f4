"""In-plane displacement of an image, applied to its disc row."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.fourier.disc import Disc, mirror_row


def shift_row(
    rows: Float[Tensor, "*batch coefficient"],
    shift_box: Float[Tensor, "*batch 2"],
    disc: Disc,
) -> Float[Tensor, "*batch coefficient"]:
    """Move the content of images by ``shift_box`` (x, y), in fractions of the box.

    ``H'(k) = cos(2 pi k.t) H(k) + sin(2 pi k.t) H(-k)``.
    """
    phase = 2 * math.pi * (shift_box @ disc.frequency_index.T)
    return torch.cos(phase) * rows + torch.sin(phase) * mirror_row(rows)
