"""Figure of the directions from which the particles are seen, on an equal-area map."""

import math
from typing import TYPE_CHECKING

import numpy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.errors import InputError
from cryogimbal.report.style import (
    COUNT_COLOURS,
    LABEL_SIZE,
    MUTED,
    TICK_SIZE,
    dress_axes,
    new_figure,
    require_finite,
)

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

FINEST_N_SIDE = 16
# Chance alone then varies a bin by about a fifth, so that what stands out is a preference.
PARTICLES_PER_BIN = 20
UNIT_TOLERANCE = 1e-3
PICTURE_HEIGHT = 600


def view_directions_figure(
    rotation: Float[Tensor, "particle 3 3"],
) -> "matplotlib.figure.Figure":
    """Particles per HEALPix pixel of the view direction (third row of the rotation).

    Both the bins and the Mollweide map keep areas, so that uniform views look uniform. The
    coordinates are the angles rot and tilt, ZYZ.

    Raises
    ------
    InputError
        If there is no particle, or a rotation is not one.
    """
    n_side = n_side_for(len(rotation))
    counts = view_directions_per_bin(rotation, n_side)
    n_bins = len(counts)
    figure = new_figure(
        4.6,
        f"View directions of {len(rotation):,} particles\n"
        f"{n_bins} bins of equal area: {len(rotation) / n_bins:.3g} particles a bin on average, "
        f"from {int(counts.min())} to {int(counts.max())}",
    )
    axes = figure.subplots()
    dress_axes(axes, "rot (degrees)", "tilt (degrees)")
    shown = axes.imshow(
        _mollweide_picture(counts, n_side),
        extent=(-2, 2, -1, 1),
        origin="lower",
        cmap=COUNT_COLOURS,
        vmin=0,
        vmax=max(1, int(counts.max())),
        interpolation="nearest",
    )
    _draw_graticule(axes)
    bar = figure.colorbar(shown, ax=axes, shrink=0.75, pad=0.03)
    bar.set_label("particles per bin", fontsize=LABEL_SIZE)
    bar.ax.tick_params(labelsize=TICK_SIZE, color=MUTED)
    bar.outline.set_visible(False)
    return figure


def n_side_for(n_particles: int) -> int:
    """The finest HEALPix division, up to 16, that leaves 20 particles a bin on average."""
    n_side = 1
    while n_side < FINEST_N_SIDE and 12 * (2 * n_side) ** 2 * PARTICLES_PER_BIN <= n_particles:
        n_side *= 2
    return n_side


def view_directions_per_bin(
    rotation: Float[Tensor, "particle 3 3"], n_side: int
) -> Int[Tensor, " bin"]:
    """Number of particles whose view direction lies in each HEALPix pixel (ring order).

    Raises
    ------
    InputError
        If there is no particle, or a rotation's third row is no unit vector.
    """
    view = rotation[:, 2].detach().double().cpu()
    require_finite(view, "view directions")
    off = ((view.norm(dim=-1) - 1).abs() > UNIT_TOLERANCE).nonzero()
    if len(off):
        row = int(off[0])
        raise InputError(
            f"view directions: expected unit vectors, found one of length "
            f"{float(view[row].norm()):.4g} for particle {row} (counted from 0); "
            "are these rotation matrices?"
        )
    x, y, z = view.unbind(-1)
    latitude = torch.atan2(z, torch.hypot(x, y))
    pixel = _healpix_pixel(torch.atan2(y, x).numpy(), latitude.numpy(), n_side)
    return torch.bincount(torch.from_numpy(pixel), minlength=12 * n_side**2)


def _healpix_pixel(
    longitude_rad: numpy.ndarray, latitude_rad: numpy.ndarray, n_side: int
) -> numpy.ndarray:
    from astropy import units
    from astropy_healpix import lonlat_to_healpix

    pixel = lonlat_to_healpix(longitude_rad * units.rad, latitude_rad * units.rad, n_side)
    return numpy.asarray(pixel).astype(numpy.int64)


def _mollweide_picture(counts: Int[Tensor, " bin"], n_side: int) -> numpy.ma.MaskedArray:
    """The count at each point of the ellipse |x| < 2, |y| < 1; outside it is masked.

    ``sin(latitude) = (2 t + sin 2 t) / pi`` with ``t = asin y``, ``longitude = pi x / (2 cos t)``.
    """
    middles = (numpy.arange(PICTURE_HEIGHT) + 0.5) / PICTURE_HEIGHT * 2 - 1
    y, x = numpy.meshgrid(middles, 2 * numpy.repeat(middles, 2), indexing="ij")
    x += numpy.tile([-1.0, 1.0], PICTURE_HEIGHT) / PICTURE_HEIGHT
    t = numpy.arcsin(y)
    latitude = numpy.arcsin((2 * t + numpy.sin(2 * t)) / math.pi)
    longitude = math.pi * x / (2 * numpy.cos(t))
    inside = numpy.abs(longitude) <= math.pi
    pixel = _healpix_pixel(numpy.where(inside, longitude, 0.0), latitude, n_side)
    return numpy.ma.masked_where(~inside, counts.numpy()[pixel])


def _mollweide_y(latitude_rad: float) -> float:
    """Height of a parallel: ``2 t + sin 2 t = pi sin(latitude)`` solved for ``y = sin t``."""
    t = numpy.linspace(-math.pi / 2, math.pi / 2, 10_001)
    return math.sin(numpy.interp(math.pi * math.sin(latitude_rad), 2 * t + numpy.sin(2 * t), t))


def _draw_graticule(axes: "matplotlib.axes.Axes") -> None:
    fine = numpy.linspace(-math.pi / 2, math.pi / 2, 181)
    lines = {"color": "white", "linewidth": 0.6, "alpha": 0.55}
    tilts = (0, 30, 60, 90, 120, 150, 180)
    heights = [_mollweide_y(math.radians(90) - math.radians(tilt)) for tilt in tilts]
    for y in heights[1:-1]:
        half = 2 * math.sqrt(1 - y * y)
        axes.plot([-half, half], [y, y], **lines)
    rots = (-180, -120, -60, 0, 60, 120, 180)
    for rot in rots[1:-1]:
        axes.plot(rot / 90 * numpy.cos(fine), numpy.sin(fine), **lines)
    axes.plot(2 * numpy.cos(2 * fine), numpy.sin(2 * fine), color=MUTED, linewidth=1)
    axes.set(xlim=(-2.02, 2.02), ylim=(-1.02, 1.02))
    # Along the equator, where the scale of rot is even.
    axes.set_xticks([rot / 90 for rot in rots], [f"{rot:d}" for rot in rots])
    axes.set_yticks(heights, [f"{tilt:d}" for tilt in tilts])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
