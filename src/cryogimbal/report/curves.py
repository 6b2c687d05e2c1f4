"""Figures of how good a result is: Fourier shell correlation and pose errors."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy
from jaxtyping import Float
from torch import Tensor

from cryogimbal.errors import InputError
from cryogimbal.evaluation.fsc import FscCurve
from cryogimbal.report.style import (
    BLUE,
    INK,
    LABEL_SIZE,
    MUTED,
    RED,
    SKY,
    TICK_SIZE,
    dress_axes,
    new_figure,
    require_finite,
    series_colours,
)

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

THRESHOLDS = (0.5, 0.143)
# Periods worth a tick, in Å, times powers of ten.
ROUND_PERIODS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
LARGEST_ERROR_DEG = 180.0
# float32 matrices turn 180 degrees into a little more.
ANGLE_TOLERANCE_DEG = 1e-3
SMALLEST_ERROR_DEG = 0.01
BINS_PER_DECADE = 20


def fsc_figure(curves: Mapping[str, FscCurve]) -> "matplotlib.figure.Figure":
    """FSC against frequency, from shell 1 on: shell 0 is only the mean density.

    The legend gives each curve's label, how its maps came by their poses, and its resolution at
    both thresholds, or up to which period it stays above one.

    Raises
    ------
    InputError
        If there is no curve, or one has no shell beyond 0 or values that are not finite.
    """
    if not curves:
        raise InputError("FSC figure: expected at least one curve, found none")
    for label, curve in curves.items():
        require_finite(curve.correlation[1:], f"FSC curve {label!r}")
    figure = new_figure(5.4, "Fourier shell correlation")
    axes = figure.subplots()
    highest = max(float(curve.frequency_per_angstrom[-1]) for curve in curves.values())
    for colour, (label, curve) in zip(series_colours(len(curves)), curves.items(), strict=True):
        axes.plot(
            curve.frequency_per_angstrom[1:].numpy(),
            curve.correlation[1:].numpy(),
            color=colour,
            linewidth=1.8,
            label=f"{label} (poses: {curve.poses}): {_resolutions(curve)}",
        )
        reached = [t for t in THRESHOLDS if curve.crosses(t)]
        crossings = [1 / curve.resolution_angstrom(t) for t in reached]
        axes.plot(crossings, reached, "o", color=colour, markersize=5, label="_crossings")
    _draw_thresholds(axes)
    dress_axes(axes, "spatial frequency (1/Å)", "FSC")
    lowest = min(float(curve.correlation[1:].min()) for curve in curves.values())
    axes.set(xlim=(0, highest), ylim=(min(-0.05, lowest - 0.03), 1.03))
    longest = max(1 / float(curve.frequency_per_angstrom[1]) for curve in curves.values())
    _draw_period_axis(axes, longest)
    legend = figure.legend(loc="outside lower center", fontsize=TICK_SIZE, frameon=False)
    for text in legend.get_texts():
        # Labels may be file names, whose dollar signs are no formula.
        text.set_parse_math(False)
    return figure


def pose_errors_figure(
    rotation_error_deg: Float[Tensor, " particle"],
) -> "matplotlib.figure.Figure":
    """Histogram of the rotation errors, bins equal in the logarithm, up to 180 degrees.

    Errors below 0.01 degrees, zero among them, are counted in the first bin.

    Raises
    ------
    InputError
        If there is no error, or one is not finite or outside 0 to 180 degrees.
    """
    from matplotlib.ticker import MaxNLocator

    require_finite(rotation_error_deg, "rotation errors")
    error = rotation_error_deg.detach().double().cpu().numpy()
    if error.min() < 0 or error.max() > LARGEST_ERROR_DEG + ANGLE_TOLERANCE_DEG:
        raise InputError(
            "rotation errors: expected angles from 0 to 180 degrees, found "
            f"{error.min():.4g} to {error.max():.4g}; are they in degrees?"
        )
    # At least the decade from 1 degree on, so that figures of different runs look alike.
    lowest = 10.0 ** math.floor(math.log10(min(1.0, max(SMALLEST_ERROR_DEG, error.min()))))
    n_bins = round(BINS_PER_DECADE * math.log10(LARGEST_ERROR_DEG / lowest))
    edges = numpy.geomspace(lowest, LARGEST_ERROR_DEG, n_bins + 1)
    counts, _ = numpy.histogram(error.clip(edges[0], edges[-1]), edges)
    figure = new_figure(4.4, f"Rotation error of {len(error):,} particles")
    axes = figure.subplots()
    axes.stairs(counts, edges, fill=True, color=SKY)
    for name, value, colour, style in (
        ("median", float(numpy.median(error)), BLUE, "-"),
        ("mean", float(error.mean()), RED, "--"),
    ):
        label = f"{name} {value:.2f}°"
        axes.axvline(max(value, lowest), color=colour, linestyle=style, label=label)
    axes.set(xscale="log", xlim=(lowest, LARGEST_ERROR_DEG))
    dress_axes(axes, "rotation error (degrees)", "particles per bin")
    ticks = [t for t in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 90, 180) if t >= lowest]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=LABEL_SIZE, frameon=False)
    return figure


def _resolutions(curve: FscCurve) -> str:
    parts = []
    for threshold in THRESHOLDS:
        period = f"{curve.resolution_angstrom(threshold):.3g} Å"
        crosses = curve.crosses(threshold)
        parts.append(
            f"{threshold:g} at {period}" if crosses else f"above {threshold:g} to {period}"
        )
    return ", ".join(parts)


def _draw_thresholds(axes: "matplotlib.axes.Axes") -> None:
    for threshold in THRESHOLDS:
        axes.axhline(threshold, color=MUTED, linewidth=1, linestyle="--", label="_threshold")
        axes.text(
            0.995,
            threshold,
            f"{threshold:g}",
            transform=axes.get_yaxis_transform(),
            fontsize=TICK_SIZE,
            color=MUTED,
            ha="right",
            va="bottom",
        )


def _draw_period_axis(axes: "matplotlib.axes.Axes", longest_angstrom: float) -> None:
    """A second scale in Å, with round periods where there is room for their labels."""
    highest = axes.get_xlim()[1]
    decade = math.floor(math.log10(1 / highest))
    candidates = [step * 10.0 ** (decade + i) for i in range(4) for step in ROUND_PERIODS]
    chosen: list[float] = []
    for period in candidates:
        room = highest if not chosen else 1 / chosen[-1] - 1 / period
        within = 1 / highest <= period * (1 + 1e-9) and period <= longest_angstrom * (1 + 1e-9)
        if within and room >= 0.06 * highest:
            chosen.append(period)
    top = axes.twiny()
    top.set_xlim(axes.get_xlim())
    top.set_xticks([1 / period for period in chosen], [f"{period:g}" for period in chosen])
    top.set_xlabel("period (Å)", fontsize=LABEL_SIZE, color=INK)
    top.tick_params(labelsize=TICK_SIZE, color=MUTED, labelcolor=INK)
    top.spines[["right", "left", "bottom"]].set_visible(False)
    top.spines["top"].set_color(MUTED)
