"""Figures made of grey images: a density from three sides, particles beside their predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.report.style import (
    INK,
    LABEL_SIZE,
    MUTED,
    TICK_SIZE,
    WIDTH_INCH,
    new_figure,
    require_finite,
    round_length,
)

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# Grey runs from black to white between these quantiles; a few hot voxels do not darken the rest.
DARK_QUANTILE, BRIGHT_QUANTILE = 0.005, 0.998
SCALE_BAR_FRACTION = 0.3
MAX_PARTICLES = 24
PARTICLES_IN_ONE_COLUMN = 2


@dataclass(frozen=True, kw_only=True)
class ParticlePicture:
    """One particle as observed, as the density predicts it at its pose, and what is left over."""

    name: str
    """Shown above the images, e.g. the row of the table."""
    loss: float
    """Mean residual per coefficient."""
    observed: Float[Tensor, "box box"]
    predicted: Float[Tensor, "box box"]
    residual: Float[Tensor, "box box"]


def map_figure(density: DensityMap) -> "matplotlib.figure.Figure":
    """Central sections (top) and projections (bottom) along x, y and z.

    The first array row is at the bottom, so that the axes are right-handed. All three panels of a
    row share one grey scale.

    Raises
    ------
    InputError
        If a voxel is not finite.
    """
    values = density.values.detach().float().cpu()
    require_finite(values, "density map")
    box, voxel = density.box, density.voxel_size_angstrom
    figure = new_figure(
        0.75 * WIDTH_INCH, f"Density map: {box}³ voxels of {voxel:.4g} Å, box {box * voxel:.4g} Å"
    )
    grid = figure.subplots(2, 3)
    # Array axis (z, y, x) that a view along x, y or z removes, and the axes left of it.
    views = {"x": (2, "y", "z"), "y": (1, "x", "z"), "z": (0, "x", "y")}
    for kind, panels, take in (
        ("central section", grid[0], lambda axis: values.select(axis, box // 2)),
        ("projection", grid[1], lambda axis: values.sum(axis)),
    ):
        images = [take(axis) for axis, _, _ in views.values()]
        limits = _grey_limits(torch.stack(images))
        for panel, image, (name, (_, across, up)) in zip(
            panels, images, views.items(), strict=True
        ):
            _show(panel, image, limits, voxel)
            normal = "normal to" if kind == "central section" else "along"
            panel.set_title(f"{kind} {normal} {name}", fontsize=LABEL_SIZE, color=INK)
            panel.set_xlabel(f"{across} →", fontsize=TICK_SIZE, color=MUTED)
            panel.set_ylabel(f"{up} →", fontsize=TICK_SIZE, color=MUTED)
        _draw_scale_bar(panels[0], box * voxel)
    return figure


def particles_figure(
    particles: Sequence[ParticlePicture],
) -> "matplotlib.figure.Figure":
    """A mosaic: one row per particle, two particles beside each other when there are many.

    Raises
    ------
    InputError
        If there is no particle, or more than 24, or an image is not finite.
    """
    if not 1 <= len(particles) <= MAX_PARTICLES:
        raise InputError(
            f"particle pictures: expected 1 to {MAX_PARTICLES} particles, found {len(particles)}; "
            "choose a few"
        )
    n_beside = 1 if len(particles) <= PARTICLES_IN_ONE_COLUMN else 2
    n_rows = -(-len(particles) // n_beside)
    panel_inch = WIDTH_INCH / (3 * n_beside) if n_beside > 1 else WIDTH_INCH / 3.2
    figure = new_figure(0.9 + n_rows * (panel_inch + 0.3), "Particles and their predictions")
    blocks = figure.subfigures(n_rows, n_beside, squeeze=False).ravel()
    for block, particle in zip(blocks, particles, strict=False):
        _draw_particle(block, particle)
    figure.supxlabel(
        "observed and residual share one grey scale (±3 σ of the observed); "
        "the prediction fills its own",
        fontsize=TICK_SIZE,
        color=MUTED,
    )
    return figure


def _draw_particle(block: "matplotlib.figure.SubFigure", particle: ParticlePicture) -> None:
    images = {
        kind: getattr(particle, kind).detach().float().cpu()
        for kind in ("observed", "predicted", "residual")
    }
    for kind, image in images.items():
        require_finite(image, f"{particle.name}, {kind}")
    observed = images["observed"]
    middle, spread = float(observed.mean()), 3 * float(observed.std())
    predicted = images["predicted"]
    limits = {
        "observed": (middle - spread, middle + spread),
        "predicted": (float(predicted.min()), float(predicted.max())),
        # What is left of a good fit is noise around zero.
        "residual": (-spread, spread),
    }
    panels = block.subplots(1, 3)
    for panel, (kind, image) in zip(panels, images.items(), strict=True):
        _show(panel, image, limits[kind], 1.0)
        panel.set_xlabel(kind, fontsize=TICK_SIZE, color=MUTED)
    panels[1].set_title(
        f"{particle.name}: loss {particle.loss:.3f}",
        fontsize=LABEL_SIZE,
        color=INK,
        parse_math=False,  # a name may be a path, whose dollar signs are no formula
    )


def _grey_limits(values: Tensor) -> tuple[float, float]:
    # torch.quantile refuses more than 16 million values, which six images never reach.
    ends = torch.quantile(values.flatten(), torch.tensor([DARK_QUANTILE, BRIGHT_QUANTILE]))
    return float(ends[0]), float(ends[1])


def _show(
    panel: "matplotlib.axes.Axes",
    image: Float[Tensor, "box box"],
    limits: tuple[float, float],
    pixel_size: float,
) -> None:
    """Draw an image, pixel ``box // 2`` at the origin of the panel's axes."""
    box = image.shape[-1]
    low = -(box // 2 + 0.5) * pixel_size
    high = low + box * pixel_size
    panel.imshow(
        image.numpy(),
        cmap="gray",
        vmin=limits[0],
        vmax=limits[1],
        origin="lower",
        extent=(low, high, low, high),
    )
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(False)


def _draw_scale_bar(panel: "matplotlib.axes.Axes", box_angstrom: float) -> None:
    from matplotlib.patheffects import withStroke

    length = round_length(SCALE_BAR_FRACTION * box_angstrom)
    margin = 0.06 * box_angstrom
    left, bottom = panel.get_xlim()[0] + margin, panel.get_ylim()[0] + margin
    outline = [withStroke(linewidth=5, foreground="black")]
    panel.plot(
        [left, left + length],
        [bottom, bottom],
        color="white",
        linewidth=3,
        solid_capstyle="butt",
        path_effects=outline,
    )
    panel.text(
        left + length / 2,
        bottom + 0.025 * box_angstrom,
        f"{length:g} Å",
        color="white",
        fontsize=TICK_SIZE,
        ha="center",
        va="bottom",
        path_effects=[withStroke(linewidth=2, foreground="black")],
    )
