import math
from dataclasses import replace

import numpy
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.report.images import ParticlePicture, map_figure, particles_figure
from cryogimbal.report.style import round_length

VOXEL_SIZE_ANGSTROM = 3.0


def density_with_point(box: int, x: int, y: int, z: int) -> DensityMap:
    """One bright voxel at a distance (x, y, z) in voxels from the origin, ``box // 2``."""
    values = torch.zeros(box, box, box)
    values[box // 2 + z, box // 2 + y, box // 2 + x] = 1.0
    return DensityMap(values=values, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)


def shown_at(axes: Axes, x_angstrom: float, y_angstrom: float) -> float:
    """Value of the picture at a point of its own axes."""
    (image,) = axes.images
    left, right, bottom, top = image.get_extent()
    array = numpy.asarray(image.get_array())
    assert image.origin == "lower"
    assert (left, right, bottom, top) == (*axes.get_xlim(), *axes.get_ylim())
    column = (x_angstrom - left) / (right - left) * array.shape[1]
    row = (y_angstrom - bottom) / (top - bottom) * array.shape[0]
    return float(array[math.floor(row), math.floor(column)])


def test_every_view_shows_a_point_at_its_coordinates_in_angstrom(box: int) -> None:
    position = {"x": 2, "y": -3, "z": 5}
    projections = map_figure(density_with_point(box, **position)).axes[3:]
    for axes, (across, up) in zip(projections, ("yz", "xz", "xy"), strict=True):
        assert (axes.get_xlabel(), axes.get_ylabel()) == (f"{across} →", f"{up} →")
        x, y = (VOXEL_SIZE_ANGSTROM * position[name] for name in (across, up))
        # A pixel's middle is its coordinate: it reaches half a pixel to either side.
        for offset in (-0.4, 0.4):
            near = offset * VOXEL_SIZE_ANGSTROM
            assert shown_at(axes, x + near, y + near) == 1
        assert float(axes.images[0].get_array().sum()) == 1


@pytest.mark.parametrize("normal", ["x", "y", "z"])
def test_a_section_shows_what_lies_in_its_plane_alone(box: int, normal: str) -> None:
    position = {"x": 2, "y": -3, "z": 5, normal: 0}
    sections = map_figure(density_with_point(box, **position)).axes[:3]
    totals = {axes.get_title(): float(axes.images[0].get_array().sum()) for axes in sections}
    assert totals == {f"central section normal to {n}": float(n == normal) for n in "xyz"}


def test_the_scale_bar_is_as_long_as_it_says(box: int) -> None:
    sections = map_figure(density_with_point(box, 0, 0, 0)).axes
    for axes in (sections[0], sections[3]):
        (bar,) = axes.lines
        (text,) = axes.texts
        (left, right), (bottom, _) = bar.get_data()
        assert text.get_text() == f"{right - left:g} Å"
        assert axes.get_xlim()[0] < left < right < axes.get_xlim()[1]
        assert axes.get_ylim()[0] < bottom < text.get_position()[1]


def test_views_of_one_kind_share_their_greys(generator: torch.Generator, box: int) -> None:
    values = torch.rand(box, box, box, generator=generator)
    values[0, 0, 0] = 1000
    density = DensityMap(values=values, voxel_size_angstrom=1.0)
    limits = [axes.images[0].get_clim() for axes in map_figure(density).axes]
    assert limits[0] == limits[1] == limits[2]
    assert limits[3] == limits[4] == limits[5]
    # One hot voxel outside the sections' planes and within 0.2 % of the projections' pixels.
    assert limits[0][1] <= 1
    assert limits[0][0] < limits[0][1]


def test_a_flat_map_is_drawn_too(box: int) -> None:
    flat = DensityMap(values=torch.zeros(box, box, box), voxel_size_angstrom=1.0)
    figure = map_figure(flat)
    figure.canvas.draw()
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 6
    for panel in panels:
        assert bool((panel.images[0].get_array() == 0).all())


def test_a_map_with_holes_is_refused(box: int) -> None:
    density = density_with_point(box, 0, 0, 0)
    density.values[0, 0, :2] = torch.tensor([math.nan, math.inf])
    with pytest.raises(InputError, match=f"2 of {box**3} NaN or infinite"):
        map_figure(density)


@pytest.mark.parametrize(
    ("at_most", "length"),
    [(1.0, 1), (1.99, 1), (2.0, 2), (4.99, 2), (5.0, 5), (96.0, 50), (0.3, 0.2), (1000.0, 1000)],
)
def test_scale_bars_have_round_lengths(at_most: float, length: float) -> None:
    assert round_length(at_most) == pytest.approx(length)


@pytest.fixture
def particle(box: int, generator: torch.Generator) -> ParticlePicture:
    observed, predicted = torch.randn(2, box, box, generator=generator)
    return ParticlePicture(
        name="row 7",
        loss=1.0234,
        observed=5 + observed,
        predicted=0.1 * predicted,
        residual=observed - 0.1 * predicted,
    )


def panels_of(figure: Figure) -> list[Axes]:
    return [axes for block in figure.subfigs for axes in block.axes]


@pytest.mark.parametrize("n", [1, 2, 7])
def test_each_particle_has_three_panels_and_its_loss(particle: ParticlePicture, n: int) -> None:
    particles = [replace(particle, name=f"row {i}", loss=1 + i / 100) for i in range(n)]
    panels = panels_of(particles_figure(particles))
    titles = [axes.get_title() for axes in panels if axes.get_title()]
    assert titles == [f"row {i}: loss {1 + i / 100:.3f}" for i in range(n)]
    assert [axes.get_xlabel() for axes in panels] == ["observed", "predicted", "residual"] * n


def test_the_panels_show_the_particle(particle: ParticlePicture) -> None:
    for axes in panels_of(particles_figure([particle])):
        expected = getattr(particle, axes.get_xlabel())
        numpy.testing.assert_array_equal(axes.images[0].get_array(), expected.numpy())


def test_observed_and_residual_share_their_contrast(particle: ParticlePicture) -> None:
    observed, predicted, residual = (
        axes.images[0].get_clim() for axes in panels_of(particles_figure([particle]))
    )
    assert observed[1] - observed[0] == pytest.approx(residual[1] - residual[0])
    assert sum(observed) / 2 == pytest.approx(float(particle.observed.mean()))
    assert sum(residual) == 0
    assert predicted == pytest.approx(
        (float(particle.predicted.min()), float(particle.predicted.max()))
    )


def test_pictures_that_do_not_fit_are_refused(particle: ParticlePicture, box: int) -> None:
    with pytest.raises(InputError, match="1 to 24 particles, found 0"):
        particles_figure([])
    with pytest.raises(InputError, match="found 25"):
        particles_figure([particle] * 25)
    holes = replace(particle, predicted=torch.full((box, box), math.nan))
    with pytest.raises(InputError, match=rf"row 7, predicted.*{box**2} of {box**2}"):
        particles_figure([holes])
