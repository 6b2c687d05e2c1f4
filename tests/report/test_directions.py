import math

import numpy
import pytest
import torch
from matplotlib.figure import Figure

from cryogimbal.errors import InputError
from cryogimbal.report.directions import (
    n_side_for,
    view_directions_figure,
    view_directions_per_bin,
)
from cryogimbal.rotations import euler_zyz_deg_to_rotation, random_rotations, sphere_grid


def looking_along(view: torch.Tensor) -> torch.Tensor:
    """Rotations with given third rows, from the angles rot and tilt of those rows."""
    x, y, z = view.double().unbind(-1)
    rot, tilt = torch.rad2deg(torch.atan2(y, x)), torch.rad2deg(torch.acos(z.clamp(-1, 1)))
    return euler_zyz_deg_to_rotation(torch.stack([rot, tilt, 37 * torch.ones_like(rot)], -1))


def value_at(figure: Figure, rot_deg: float, tilt_deg: float) -> float:
    """What the picture shows at a view direction, by Newton's solution of Mollweide's equation."""
    latitude = math.radians(90 - tilt_deg)
    t = latitude
    for _ in range(100):
        step = (2 * t + math.sin(2 * t) - math.pi * math.sin(latitude)) / (2 + 2 * math.cos(2 * t))
        t -= step
    x, y = 2 * math.radians(rot_deg) / math.pi * math.cos(t), math.sin(t)
    picture = numpy.ma.asarray(figure.axes[0].images[0].get_array())
    n_rows, n_columns = picture.shape
    return float(picture[int((y + 1) / 2 * n_rows), int((x + 2) / 4 * n_columns)])


@pytest.mark.parametrize("n_side", [1, 2, 4])
def test_a_view_along_each_pixel_fills_each_pixel_once(n_side: int) -> None:
    counts = view_directions_per_bin(looking_along(sphere_grid(n_side)), n_side)
    assert counts.tolist() == [1] * (12 * n_side**2)


def test_the_in_plane_angle_does_not_matter() -> None:
    psi = torch.arange(0, 360, 10.0)
    angles = torch.stack([torch.full_like(psi, 20), torch.full_like(psi, 50), psi], -1)
    counts = view_directions_per_bin(euler_zyz_deg_to_rotation(angles), 4)
    assert sorted(counts.tolist())[-2:] == [0, 36]


def test_bins_have_equal_areas(generator: torch.Generator) -> None:
    counts = view_directions_per_bin(random_rotations(48_000, generator), 2)
    # 1000 per bin with a Poisson spread of 32.
    assert (counts - 1000).abs().max() < 5 * 32


def test_the_map_has_equal_areas() -> None:
    # One particle in one of twelve bins: its colour covers a twelfth of the ellipse.
    for axis in torch.eye(3):
        (image,) = view_directions_figure(looking_along(axis[None])).axes[0].images
        assert float(numpy.ma.mean(image.get_array())) == pytest.approx(1 / 12, rel=0.01)


@pytest.mark.parametrize(
    ("rot", "tilt"), [(5, 80), (80, 95), (-120, 60), (45, 150), (10, 8), (-170, 172)]
)
def test_a_view_is_shown_at_its_angles(rot: int, tilt: int) -> None:
    angles = torch.tensor([[rot, tilt, 0.0]]).repeat(3000, 1)
    rotation = euler_zyz_deg_to_rotation(angles)
    figure = view_directions_figure(rotation)
    assert value_at(figure, rot, tilt) == 3000
    # Half a turn around the axis no bin reaches.
    assert value_at(figure, rot - math.copysign(180, rot), tilt) == 0


def test_bins_are_as_fine_as_the_particles_allow() -> None:
    assert [n_side_for(n) for n in (1, 959, 960, 3840, 61440, 10**7)] == [1, 1, 2, 4, 16, 16]


def test_the_figure_tells_counts_and_units(generator: torch.Generator) -> None:
    rotation = random_rotations(1000, generator)
    figure = view_directions_figure(rotation)
    counts = view_directions_per_bin(rotation, 2)
    assert figure.get_suptitle() == (
        "View directions of 1,000 particles\n48 bins of equal area: 20.8 particles a bin on "
        f"average, from {counts.min()} to {counts.max()}"
    )
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("rot (degrees)", "tilt (degrees)")
    assert bar.get_ylabel() == "particles per bin"
    assert axes.images[0].get_clim() == (0, counts.max())


def test_what_is_no_rotation_is_refused() -> None:
    rotation = torch.eye(3).repeat(4, 1, 1)
    rotation[2] *= 1.5
    with pytest.raises(InputError, match=r"length 1\.5 for particle 2"):
        view_directions_figure(rotation)
    rotation[2, 2] = math.nan
    with pytest.raises(InputError, match="3 of 12 NaN"):
        view_directions_figure(rotation)
    with pytest.raises(InputError, match="found none"):
        view_directions_figure(torch.zeros(0, 3, 3))
