import math
from collections.abc import Callable
from itertools import pairwise

import numpy
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from cryogimbal.errors import InputError
from cryogimbal.evaluation.fsc import FscCurve, PoseOrigin
from cryogimbal.report.curves import fsc_figure, pose_errors_figure

VOXEL_SIZE_ANGSTROM = 2.5


def straight_curve(box: int, poses: PoseOrigin = "truth", *, last: float = 0.0) -> FscCurve:
    """Falls linearly from 1 at shell 0 to ``last``, so that crossings are known."""
    return FscCurve(
        box=box,
        voxel_size_angstrom=VOXEL_SIZE_ANGSTROM,
        correlation=torch.linspace(1, last, box // 2 + 1),
        poses=poses,
    )


def line_named(axes: Axes, start: str) -> Line2D:
    (line,) = [line for line in axes.lines if str(line.get_label()).startswith(start)]
    return line


def test_the_fsc_is_drawn_shell_by_shell(box: int) -> None:
    axes = fsc_figure({"maps": straight_curve(box)}).axes[0]
    shells = numpy.arange(1, box // 2 + 1)
    x, y = line_named(axes, "maps").get_data()
    numpy.testing.assert_allclose(x, shells / (box * VOXEL_SIZE_ANGSTROM))
    numpy.testing.assert_allclose(y, 1 - shells / (box // 2), atol=1e-6)


def test_both_thresholds_are_drawn() -> None:
    axes = fsc_figure({"maps": straight_curve(16)}).axes[0]
    heights = [tuple(line.get_ydata()) for line in axes.lines if line.get_label() == "_threshold"]
    assert heights == [(0.5, 0.5), (0.143, 0.143)]


def test_crossings_stand_where_a_straight_curve_crosses(box: int) -> None:
    axes = fsc_figure({"maps": straight_curve(box)}).axes[0]
    x, y = line_named(axes, "_crossings").get_data()
    last = (box // 2) / (box * VOXEL_SIZE_ANGSTROM)
    numpy.testing.assert_allclose(y, [0.5, 0.143])
    numpy.testing.assert_allclose(x, [0.5 * last, (1 - 0.143) * last], rtol=1e-5)


def test_the_legend_tells_pose_origin_and_resolution_of_every_curve() -> None:
    figure = fsc_figure(
        {
            "half-maps": straight_curve(16, "shared"),
            "to the truth": straight_curve(20, "truth"),
            "gold": straight_curve(24, "independent", last=0.9),
        }
    )
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    # A straight curve crosses 0.5 at half of the last frequency, 1 / (2 voxels): 4 voxels = 10 Å;
    # 0.143 at 0.857 of it: 5 Å / 0.857 = 5.83 Å.
    assert texts == [
        "half-maps (poses: shared): 0.5 at 10 Å, 0.143 at 5.83 Å",
        "to the truth (poses: truth): 0.5 at 10 Å, 0.143 at 5.83 Å",
        "gold (poses: independent): above 0.5 to 5 Å, above 0.143 to 5 Å",
    ]


def test_the_upper_scale_gives_periods(box: int) -> None:
    below, above = fsc_figure({"maps": straight_curve(box)}).axes
    assert below.get_xlim() == above.get_xlim()
    labels = [float(text.get_text()) for text in above.get_xticklabels()]
    assert len(labels) >= 4
    numpy.testing.assert_allclose(1 / above.get_xticks(), labels)
    assert max(labels) <= box * VOXEL_SIZE_ANGSTROM


def test_no_curve_is_cut_off() -> None:
    curve = straight_curve(16, last=-0.6)
    fine = FscCurve(box=32, voxel_size_angstrom=1.0, correlation=torch.ones(17), poses="shared")
    axes = fsc_figure({"sinks": curve, "fine": fine}).axes[0]
    assert axes.get_ylim()[0] < -0.6
    assert axes.get_xlim()[1] >= 0.5


def test_a_label_with_dollar_signs_is_no_formula() -> None:
    figure = fsc_figure({r"$\a$.mrc": straight_curve(16)})
    figure.canvas.draw()
    assert r"$\a$.mrc" in figure.legends[0].get_texts()[0].get_text()


def test_an_fsc_figure_needs_curves_with_numbers() -> None:
    with pytest.raises(InputError, match="at least one curve"):
        fsc_figure({})
    torn = FscCurve(
        box=4, voxel_size_angstrom=1.0, correlation=torch.tensor([1, math.nan, 0]), poses="truth"
    )
    with pytest.raises(InputError, match=r"'torn'.*1 of 2 NaN"):
        fsc_figure({"torn": torn})


@pytest.fixture
def errors(generator: torch.Generator) -> torch.Tensor:
    good = torch.randn(900, 3, generator=generator).norm(dim=-1)
    return torch.cat([good, 180 * torch.rand(100, generator=generator)])


def test_median_and_mean_of_the_errors_are_marked(errors: torch.Tensor) -> None:
    axes = pose_errors_figure(errors).axes[0]
    median, mean = sorted(errors.tolist())[499:501], errors.double().mean()
    assert line_named(axes, "median").get_xdata()[0] == pytest.approx(sum(median) / 2)
    assert line_named(axes, "mean").get_xdata()[0] == pytest.approx(float(mean))
    assert line_named(axes, "mean").get_label() == f"mean {float(mean):.2f}°"


@pytest.mark.parametrize(
    "special", [[], [0.0, 0.0, 1e-9], [180.0, 180.0005]], ids=["usual", "zero", "turned over"]
)
def test_every_error_is_counted_once(errors: torch.Tensor, special: list[float]) -> None:
    every = torch.cat([errors, torch.tensor(special)])
    axes = pose_errors_figure(every).axes[0]
    counts, edges, _ = axes.patches[0].get_data()
    assert counts.sum() == len(every)
    inner = slice(1, -1)
    expected = [int(((every >= a) & (every < b)).sum()) for a, b in pairwise(edges)]
    assert counts[inner].tolist() == expected[inner]
    assert axes.get_xscale() == "log"
    assert edges[-1] == 180


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "found none"),
        ([1.0, math.nan], "1 of 2 NaN"),
        ([-1.0, 2.0], "from 0 to 180 degrees, found -1 to 2"),
        ([1.0, 200.0], "found 1 to 200"),
    ],
)
def test_impossible_errors_are_refused(bad: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pose_errors_figure(torch.tensor(bad))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: fsc_figure({"maps": straight_curve(16)}),
        lambda: pose_errors_figure(torch.tensor([1.0, 2.0, 30.0])),
    ],
)
def test_axes_are_named_with_their_units(draw: Callable[[], object]) -> None:
    axes = draw().axes  # pyright: ignore
    names = [name for each in axes for name in (each.get_xlabel(), each.get_ylabel()) if name]
    assert names in (
        ["spatial frequency (1/Å)", "FSC", "period (Å)"],
        ["rotation error (degrees)", "particles per bin"],
    )
