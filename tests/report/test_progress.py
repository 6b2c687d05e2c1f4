from dataclasses import asdict
from typing import Any

import numpy
import pytest
from matplotlib.axes import Axes

from cryogimbal.errors import InputError
from cryogimbal.inference.records import EpochRecord, StepRecord, SwitchRecord
from cryogimbal.report.history import RESIDUAL, run_history
from cryogimbal.report.progress import progress_figure

REASON = "poses have settled (median change 2.0° per epoch, below 30°)"


def epoch(stage: str, number: int, **measured: Any) -> dict[str, Any]:
    """As a line of metrics.jsonl: tuples have become lists."""
    fields = {"loss": 1.1 - number / 100, "resolution_angstrom": 40.0 - number, **measured}
    record = asdict(
        EpochRecord(
            stage=stage, epoch=number, n_epochs=9, images_total=50, radius=320 / 40, **fields
        )
    )
    return {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}


def step(stage: str, number: int) -> dict[str, Any]:
    record = StepRecord(
        stage=stage, epoch=number, n_epochs=9, images_done=10, images_total=50, loss=1.0
    )
    return asdict(record)


def whole_run() -> list[dict[str, Any]]:
    shares = [(0.5, 0.3, 0.2), (0.7, 0.2, 0.1), (1.0, 0.0, 0.0)]
    lines: list[dict[str, Any]] = []
    for i, usage in enumerate(shares):
        change = None if i == 0 else 80.0 / i
        lines += [step("auto_encoding", i)]
        lines += [epoch("auto_encoding", i, head_usage=usage, pose_change_median_deg=change)]
    switch = SwitchRecord(from_stage="auto_encoding", to_stage="auto_decoding", reason=REASON)
    lines.append(asdict(switch))
    for i in range(2):
        change, half = 4.0 * (1 - i), 30.0 - i
        measured = {"pose_change_median_deg": change, "half_map_resolution_angstrom": half}
        lines.append(epoch("auto_decoding", i, **measured))
    return lines


def panel_grid(records: list[dict[str, Any]], n_stages: int) -> list[list[Axes]]:
    axes = progress_figure(records).axes
    return [axes[i : i + n_stages] for i in range(0, len(axes), n_stages)]


def test_each_stage_has_a_column_with_its_own_numbers() -> None:
    loss, change, resolution, heads = panel_grid(whole_run(), 2)
    assert [axes.get_title() for axes in loss] == ["auto-encoding", "auto-decoding"]
    for axes, x, y in (
        (loss[0], [1, 2, 3], [1.1, 1.09, 1.08]),
        (loss[1], [1, 2], [1.1, 1.09]),
        (change[0], [1, 2, 3], [numpy.nan, 80, 40]),
        (change[1], [1, 2], [4, 0]),
        (resolution[0], [1, 2, 3], [40, 39, 38]),
        (resolution[1], [1, 2], [40, 39]),
    ):
        numpy.testing.assert_allclose(axes.lines[0].get_data(), [x, y])
    numpy.testing.assert_allclose(resolution[1].lines[1].get_data(), [[1, 2], [30, 29]])
    assert "poses: shared" in str(resolution[1].lines[1].get_label())
    assert len(resolution[0].lines) == 1
    assert heads[1].texts[0].get_text() == "no heads\nin this stage"


def test_a_change_of_zero_is_within_the_scale() -> None:
    _, change, _, _ = panel_grid(whole_run(), 2)
    for axes in change:
        low, high = axes.get_ylim()
        assert low <= 0
        assert high >= 80


def test_a_first_loss_far_above_the_others_leaves_the_scale_and_is_told() -> None:
    records = [epoch("posterior_search", i, loss=[5.08, 1.9, 1.5][i]) for i in range(3)]
    loss = panel_grid(records, 1)[0][0]
    assert loss.texts[0].get_text() == "↑ epoch 1: 5.08, off the scale"
    low, high = loss.get_ylim()
    assert 1.0 < low < 1.5 < 1.9 < high < 2.5


def test_a_usual_first_loss_stays_within_the_scale() -> None:
    loss = panel_grid(whole_run(), 2)[0]
    for axes in loss:
        assert len(axes.texts) == 0
        low, high = axes.get_ylim()
        assert low < 1.08 < 1.1 < high


def test_shares_of_the_heads_stack_to_one() -> None:
    heads = panel_grid(whole_run(), 2)[3][0]
    bars = [container.patches for container in heads.containers]
    heights = numpy.array([[bar.get_height() for bar in head] for head in bars]).T
    numpy.testing.assert_allclose(heights, [[0.5, 0.3, 0.2], [0.7, 0.2, 0.1], [1, 0, 0]])
    bottoms = numpy.array([[bar.get_y() for bar in head] for head in bars]).T
    numpy.testing.assert_allclose(bottoms, numpy.cumsum(heights, 1) - heights)
    assert [bar.get_x() + bar.get_width() / 2 for bar in bars[0]] == pytest.approx([1, 2, 3])


def test_the_switch_is_marked_and_explained() -> None:
    figure = progress_figure(whole_run())
    note = " ".join(figure.get_supxlabel().split())
    assert note == f"auto-encoding → auto-decoding after epoch 3: {REASON}"
    left, right = figure.axes[:2]
    assert left.spines["left"].get_linestyle() == "solid"
    assert right.spines["left"].get_linestyle() == (0, (4, 3))


def test_axes_are_named_with_their_units() -> None:
    rows = panel_grid(whole_run(), 2)
    assert [row[0].get_ylabel().replace("\n", " ") for row in rows] == [
        "loss (mean residual)",
        "median pose change (degrees)",
        "band limit (Å)",
        "share of images won by each head",
    ]
    # Four stages are too narrow for a name under each.
    assert [axes.get_xlabel() for axes in rows[-1]] == ["epoch of the stage", ""]


def test_without_heads_there_is_no_panel_for_them() -> None:
    records = [epoch("posterior_search", i) for i in range(3)]
    rows = panel_grid(records, 1)
    assert len(rows) == 3
    assert rows[1][0].texts[0].get_text() == "not measured\nin this stage"


def test_a_number_that_was_not_finite_leaves_a_gap() -> None:
    # The metrics hold null where a number was NaN or infinite.
    records = [epoch("auto_decoding", i) | {"loss": [1.0, None, 0.9][i]} for i in range(3)]
    loss = panel_grid(records, 1)[0][0]
    numpy.testing.assert_array_equal(loss.lines[0].get_ydata(), [1.0, numpy.nan, 0.9])


@pytest.mark.parametrize("n_kept", [2, 4, 7, 8])
def test_a_run_that_was_stopped_anywhere_has_a_figure(n_kept: int) -> None:
    records = whole_run()[:n_kept]
    epochs = [record for record in records if "radius" in record]
    figure = progress_figure(records)
    figure.canvas.draw()
    (loss, *_) = panel_grid(records, len({record["stage"] for record in epochs}))
    drawn = sum(len(numpy.asarray(axes.lines[0].get_ydata())) for axes in loss)
    assert drawn == len(epochs)


def test_a_switch_at_the_end_is_told_already() -> None:
    figure = progress_figure(whole_run()[:7])
    assert len(figure.axes) == 4
    assert "after epoch 3" in figure.get_supxlabel()


def test_a_run_without_a_finished_epoch_is_refused() -> None:
    with pytest.raises(InputError, match="at least one finished epoch among 1 records"):
        run_history([step("auto_encoding", 0)])
    with pytest.raises(InputError, match="among 0 records"):
        run_history([])


def test_a_line_of_another_kind_is_refused_with_its_number() -> None:
    strange = {"epoch": 3, "temperature": 2.0}
    with pytest.raises(InputError, match=r"record 2 .* \['epoch', 'temperature'\]"):
        progress_figure([epoch("auto_decoding", 0), strange])


def test_a_changing_number_of_heads_is_refused() -> None:
    records = [
        epoch("auto_encoding", 0, head_usage=(0.5, 0.5)),
        epoch("auto_encoding", 1, head_usage=(0.2, 0.3, 0.5)),
    ]
    with pytest.raises(InputError, match=r"auto_encoding.*found \[2, 3\]"):
        progress_figure(records)


def test_notices_are_passed_over_and_errors_of_heads_are_no_residuals() -> None:
    taught = {
        "stage": "head_training",
        "epoch": 0,
        "loss": 0.05,
        "resolution_angstrom": 20.0,
        "head_usage": [0.5, 0.5],
        "head_error_median_deg": 4.5,
    }
    history = run_history([{"text": "tiles are halved"}, *whole_run(), taught])
    assert history.stages[-1].name == "head_training"
    assert numpy.isnan(history.stages[-1].series(RESIDUAL)).all()
    assert numpy.isfinite(history.stages[0].series(RESIDUAL)).all()
    assert history.stages[-1].series("head_error_median_deg").tolist() == [4.5]
