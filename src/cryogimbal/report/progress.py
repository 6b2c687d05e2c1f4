"""Figure of a run's way: loss, pose change, band limit and heads, epoch by epoch."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy

from cryogimbal.report.history import RESIDUAL, RunHistory, StageHistory, run_history
from cryogimbal.report.style import (
    BLUE,
    GREEN,
    INK,
    LABEL_SIZE,
    MUTED,
    PURPLE,
    RED,
    TICK_SIZE,
    dress_axes,
    new_figure,
    series_colours,
)

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# Ten epochs beside a hundred steps stay readable.
LEAST_WIDTH_OF_A_STAGE = 0.35
# Below this a pose change is drawn on a linear scale, which has room for a change of zero.
LINEAR_BELOW_DEG = 0.01
WIDE_TICKS_DEG = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 90.0, 180.0)
FINE_TICKS_DEG = (
    0.0,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    180.0,
)
MOST_TICKS = 7
MOST_MARKERS = 40
NOTE_WIDTH = 115
ROW_NAMES = (
    "loss (mean residual)",
    "median pose\nchange (degrees)",
    "band limit (Å)",
    "share of images\nwon by each head",
)


def progress_figure(records: Sequence[Mapping[str, Any]]) -> "matplotlib.figure.Figure":
    """Loss, median pose change, band limit and head usage; one column of panels per stage.

    A dashed line marks each switch; the reasons stand below. The row of the heads is there only if
    a stage has several.

    Raises
    ------
    InputError
        If a record is none of a run's, if no epoch is finished, or if the number of heads changes
        within a stage.
    """
    history = run_history(records)
    lengths = [len(stage.epochs) for stage in history.stages]
    usages = [stage.head_usage() for stage in history.stages]
    n_rows = 3 if all(usage is None for usage in usages) else 4
    figure = new_figure(1.2 + 1.7 * n_rows, f"Progress over {sum(lengths)} epochs")
    panels = figure.subplots(
        n_rows,
        len(lengths),
        sharex="col",
        sharey="row",
        squeeze=False,
        width_ratios=[max(n, LEAST_WIDTH_OF_A_STAGE * max(lengths)) for n in lengths],
    )
    for column, (stage, usage) in enumerate(zip(history.stages, usages, strict=True)):
        _draw_series(panels[0, column], stage, RESIDUAL, BLUE)
        _draw_series(panels[1, column], stage, "pose_change_median_deg", RED)
        _draw_series(panels[2, column], stage, "resolution_angstrom", GREEN)
        if n_rows == 4:
            _draw_heads(panels[3, column], stage, usage, "left" if column == 0 else "right")
    _dress_panels(panels, history)
    _draw_half_map_resolution(panels[2], history)
    _scale_loss(panels[0], history)
    _scale_pose_change(panels[1], history)
    if history.switches:
        figure.supxlabel(_switch_notes(history), x=0.02, ha="left", fontsize=TICK_SIZE, color=MUTED)
    return figure


def _draw_series(
    panel: "matplotlib.axes.Axes", stage: StageHistory, field: str, colour: str
) -> None:
    values = stage.series(field)
    marker = "o" if len(values) <= MOST_MARKERS else None
    panel.plot(
        stage.epoch_number,
        values,
        color=colour,
        marker=marker,
        markersize=3,
        linewidth=1.5,
        label=field,
    )
    if not numpy.isfinite(values).any():
        _say(panel, (0.5, 0.5), "not measured\nin this stage")


def _draw_heads(
    panel: "matplotlib.axes.Axes",
    stage: StageHistory,
    usage: numpy.ndarray | None,
    legend_side: Literal["left", "right"],
) -> None:
    if usage is None:
        _say(panel, (0.5, 0.5), "no heads\nin this stage")
        return
    n_heads = usage.shape[1]
    bottom = numpy.zeros(len(usage))
    for head, colour in enumerate(series_colours(n_heads)):
        panel.bar(
            stage.epoch_number,
            usage[:, head],
            width=1.0,
            bottom=bottom,
            color=colour,
            edgecolor="white",
            linewidth=0.4 if len(usage) <= MOST_MARKERS else 0,
            label=f"{head + 1}",
        )
        bottom = bottom + usage[:, head]
    panel.set_ylim(0, 1)
    _legend_above(panel, legend_side)


def _draw_half_map_resolution(row: numpy.ndarray, history: RunHistory) -> None:
    drawn = None
    for panel, stage in zip(row, history.stages, strict=True):
        values = stage.series("half_map_resolution_angstrom")
        if numpy.isfinite(values).any():
            label = "half-maps at FSC 0.143 (poses: shared)"
            panel.plot(stage.epoch_number, values, ":", color=PURPLE, linewidth=2, label=label)
            drawn = panel
    if drawn is not None:
        drawn.lines[0].set_label("band limit")
        _legend_above(drawn, "right")


def _dress_panels(panels: numpy.ndarray, history: RunHistory) -> None:
    from matplotlib.ticker import MaxNLocator

    for column, stage in enumerate(history.stages):
        last = int(stage.epoch_number[-1])
        for row, panel in enumerate(panels[:, column]):
            dress_axes(panel, "", ROW_NAMES[row] if column == 0 else "")
            panel.set_xlim(0.5, last + 0.5)
            panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            if column > 0:
                panel.tick_params(left=False)
                panel.spines["left"].set(linestyle=(0, (4, 3)), color=INK, linewidth=1.2)
        panels[0, column].set_title(
            stage.name.replace("_", "-"), fontsize=LABEL_SIZE, color=INK, pad=10
        )
        panels[-1, column].set_xlabel(
            "epoch of the stage" if column == 0 else "", fontsize=LABEL_SIZE, color=INK
        )


def _scale_loss(row: numpy.ndarray, history: RunHistory) -> None:
    """Let the first epoch leave the scale, and say so, where it would flatten all others."""
    loss = numpy.concatenate([stage.series(RESIDUAL) for stage in history.stages])
    first, later = loss[0], loss[1:][numpy.isfinite(loss[1:])]
    if len(later) < 2:
        return
    lowest, highest = later.min(), later.max()
    spread = highest - lowest
    if spread == 0 or not first > highest + spread:
        return
    row[0].set_ylim(lowest - 0.08 * spread, highest + 0.25 * spread)
    _say(row[0], (0.35, 0.92), f"↑ epoch 1: {first:.4g}, off the scale")


def _scale_pose_change(row: numpy.ndarray, history: RunHistory) -> None:
    """A logarithmic scale that ends at round angles."""
    changes = [stage.series("pose_change_median_deg") for stage in history.stages]
    change = numpy.concatenate(changes)
    measured = change[numpy.isfinite(change)]
    low, high = (measured.min(), measured.max()) if len(measured) else (1.0, 90.0)
    ticks = _ticks_around(FINE_TICKS_DEG, low, high)
    if len(ticks) > MOST_TICKS:
        ticks = _ticks_around(WIDE_TICKS_DEG, low, high)
    for panel in row:
        panel.set_yscale("symlog", linthresh=LINEAR_BELOW_DEG)
        panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.set_yticks([], minor=True)
        panel.set_ylim(ticks[0], ticks[-1])


def _ticks_around(ticks: tuple[float, ...], low: float, high: float) -> list[float]:
    first = max((tick for tick in ticks if tick < low), default=0.0)
    last = next((tick for tick in ticks if tick > high), ticks[-1])
    return [tick for tick in ticks if first <= tick <= last]


def _switch_notes(history: RunHistory) -> str:
    notes = [
        f"{switch.from_stage} → {switch.to_stage}".replace("_", "-")
        + f" after epoch {switch.after_epoch}: {switch.reason}"
        for switch in history.switches
    ]
    return "\n".join(line for note in notes for line in textwrap.wrap(note, NOTE_WIDTH))


def _say(panel: "matplotlib.axes.Axes", place: tuple[float, float], text: str) -> None:
    """A remark at a place given as fractions of the panel."""
    panel.text(
        *place,
        text,
        transform=panel.transAxes,
        fontsize=TICK_SIZE,
        color=MUTED,
        ha="center",
        va="center",
    )


def _legend_above(panel: "matplotlib.axes.Axes", side: Literal["left", "right"]) -> None:
    """One line above the panel, from its left or right end; it may be wider than the panel."""
    legend = panel.legend(
        loc="lower left" if side == "left" else "lower right",
        bbox_to_anchor=(0 if side == "left" else 1, 0.98),
        ncols=len(panel.get_legend_handles_labels()[1]),
        fontsize=TICK_SIZE,
        frameon=False,
        handlelength=1.0,
        columnspacing=1.0,
        handletextpad=0.4,
        borderpad=0.1,
    )
    # An empty title keeps the line free; the legend's width must not push the columns apart.
    legend.set_in_layout(False)
    panel.set_title(" ", fontsize=TICK_SIZE, pad=4)
