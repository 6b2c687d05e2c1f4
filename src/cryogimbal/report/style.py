"""One look for every figure: size, colours, axes, and how a picture reaches the disk."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cryogimbal.errors import InputError
from cryogimbal.io.atomic import write_atomically

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

WIDTH_INCH = 8.0
DOTS_PER_INCH = 150
TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 12.0, 10.0, 9.0

# Okabe and Ito's palette, told apart with any kind of colour vision.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
PALETTE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
INK, MUTED, FAINT = "#222222", "#6b6b6b", "#e3e3e3"
COUNT_COLOURS = "cividis"


def new_figure(height_inch: float, title: str) -> "matplotlib.figure.Figure":
    """An empty figure of 1200 pixels width that belongs to no window and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCH, height_inch), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=TITLE_SIZE, color=INK)
    return figure


def dress_axes(axes: "matplotlib.axes.Axes", x_label: str, y_label: str) -> None:
    """Name the axes and leave of their frame what carries a scale."""
    axes.set_xlabel(x_label, fontsize=LABEL_SIZE, color=INK)
    axes.set_ylabel(y_label, fontsize=LABEL_SIZE, color=INK)
    axes.tick_params(labelsize=TICK_SIZE, color=MUTED, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def series_colours(n: int) -> list[str]:
    """Colours for ``n`` series; beyond the palette, steps from dark to light."""
    if n <= len(PALETTE):
        return list(PALETTE[:n])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in colormaps[COUNT_COLOURS](torch.linspace(0, 1, n).numpy())]


def round_length(at_most: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above ``at_most``."""
    power = 10.0 ** math.floor(math.log10(at_most))
    # A length of exactly 5 must not become 2 because its logarithm was rounded.
    return max(step * power for step in (1, 2, 5) if step * power <= at_most * (1 + 1e-9))


def require_finite(values: Tensor, name: str) -> None:
    """Refuse to draw what has gaps or no values at all.

    Raises
    ------
    InputError
        If there is no value, or one is NaN or infinite.
    """
    if values.numel() == 0:
        raise InputError(f"{name}: expected at least one value to draw, found none")
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise InputError(
            f"{name}: expected finite values, found {bad} of {values.numel()} NaN or infinite; "
            "nothing is drawn from it"
        )


def write_png(figure: "matplotlib.figure.Figure", path: Path) -> None:
    """Write a figure, whole or not at all.

    Raises
    ------
    InputError
        If the name does not end in ``.png`` or its folder does not exist.
    DiskFullError
        If it does not fit.
    """
    if path.suffix != ".png":
        raise InputError(f"{path}: pictures are written as PNG; choose a name that ends in .png")
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH, facecolor="white")
