"""The sign of the images: whether particles are light on a dark background, measured with the CTF.

A table does not say it and a declaration may be wrong, but an image does: whatever the particle, its
projection is positive, so freed of the CTF's phase it looks like a blob. Each image H with CTF C is
correlated with a blob B moved over a small disc of shifts t,

``c(t) = sum_k C(k) B(k) / P(k) * H(k) cas(2 pi k.t)``

(P is the mean power of a shell, so that coloured noise counts for what it is), and the sign of c where
``|c|`` is largest is the image's vote. Votes rather than values are counted: a few images that hold
something very bright weigh no more than as many others.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.particles import ParticleStack
from cryogimbal.fourier.disc import Disc, make_disc, mirror_row
from cryogimbal.imaging.ctf import transfer_function
from cryogimbal.imaging.image_rows import places_of_one_kind, rows_of_images

Contrast = Literal["light", "dark"]
"""Of the particles against their background."""

MOST_IMAGES = 2000
READ_BATCH = 256
# By chance alone a sign beyond this comes up once in two million stacks.
CERTAIN_Z = 5.0
# In fractions of the box: boxes are about half as wide again as particles, which pickers centre so well.
BLOB_RADIUS = 0.35
SHIFT_RANGE = 0.1
SHIFT_STEP = 0.04
# A ball of radius R has a projection of standard deviation R / sqrt(5) along each axis.
DEVIATION_PER_RADIUS = 5**-0.5
# In cycles per box: the blob has nothing beyond.
BAND_LIMIT = 8.0


@dataclass(frozen=True, kw_only=True)
class ContrastMeasurement:
    """What the images vote for."""

    n_images: int
    n_light: int
    """How many of them look like light particles."""

    @property
    def z(self) -> float:
        """Excess of light over dark in standard deviations of chance, ``(light - dark) / sqrt(n)``."""
        return (2 * self.n_light - self.n_images) / math.sqrt(self.n_images)

    @property
    def contrast(self) -> Contrast:
        """The sign that has the majority."""
        return "light" if self.z >= 0 else "dark"

    @property
    def is_certain(self) -> bool:
        """Whether chance is ruled out."""
        return abs(self.z) > CERTAIN_Z


def contrast_to_sign(contrast: Contrast) -> float:
    """The factor that makes particles light, as the CTF expects them: 1 or -1."""
    return 1.0 if contrast == "light" else -1.0


def measure_contrast(
    stack: ParticleStack, particle_diameter_angstrom: float | None = None
) -> ContrastMeasurement:
    """The sign of a stack from up to 2000 of its images, evenly spread.

    Parameters
    ----------
    particle_diameter_angstrom
        Sets the blob; 0.7 of the box where none is given.
    """
    n = min(len(stack), MOST_IMAGES)
    chosen = torch.linspace(0, len(stack) - 1, n, dtype=torch.float64).round().long()
    width_angstrom = stack.box * stack.pixel_size_angstrom
    disc = make_disc(stack.box, BAND_LIMIT)
    radius = BLOB_RADIUS
    if particle_diameter_angstrom is not None:
        radius = min(particle_diameter_angstrom / 2 / width_angstrom, BLOB_RADIUS)
    rows, ctf = torch.empty(n, disc.n_coefficients), torch.empty(n, disc.n_coefficients)
    for place in torch.arange(n).split(READ_BATCH):
        index = chosen[place]
        for group, part in places_of_one_kind(stack, index):
            images, values = stack.images.read(index[part]), stack.ctf[index[part]]
            rows[place[part]] = rows_of_images(images, values, group, disc, width_angstrom)
        ctf[place] = transfer_function(stack.ctf[index], disc.frequency_index / width_angstrom)
    peaks = blob_peaks(rows, ctf, disc, radius)
    return ContrastMeasurement(n_images=n, n_light=int((peaks > 0).sum()))


def blob_peaks(
    rows: Float[Tensor, "particle coefficient"],
    ctf: Float[Tensor, "particle coefficient"],
    disc: Disc,
    radius_box: float,
) -> Float[Tensor, " particle"]:
    """The largest correlation, by size, of each image with a blob near its centre, with its sign.

    Parameters
    ----------
    radius_box
        Radius of the blob as a fraction of the box.
    """
    deviation = radius_box * DEVIATION_PER_RADIUS
    spread = 2 * math.pi**2 * deviation**2 * disc.radius_per_coefficient.square()
    # The zero frequency is whatever was added to the image, and its scale changes no sign.
    blob = torch.exp(-spread) * (disc.radius_per_coefficient > 0)
    rows = torch.nn.functional.normalize(rows * (blob > 0))
    weight = ctf * blob / _mean_power(rows, disc)
    phase = 2 * math.pi * (disc.frequency_index @ _shifts().T)
    correlation = (weight * rows) @ phase.cos() - (weight * mirror_row(rows)) @ phase.sin()
    peak = correlation.abs().argmax(dim=1, keepdim=True)
    return correlation.gather(1, peak)[:, 0]


def _mean_power(
    rows: Float[Tensor, "particle coefficient"], disc: Disc
) -> Float[Tensor, " coefficient"]:
    shell = disc.shell_per_coefficient
    n_shells = int(shell.max()) + 1
    power = rows.new_zeros(n_shells).index_add(0, shell, rows.square().mean(0))
    count = torch.bincount(shell, minlength=n_shells)
    return (power / count).clamp_min(torch.finfo(rows.dtype).tiny)[shell]


def _shifts() -> Float[Tensor, "shift 2"]:
    """Shifts (x, y) in fractions of the box within the disc that is searched."""
    n = math.floor(SHIFT_RANGE / SHIFT_STEP)
    axis = SHIFT_STEP * torch.arange(-n, n + 1)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x.flatten(), y.flatten()], dim=1)
    return grid[grid.norm(dim=1) <= SHIFT_RANGE]
