import math

import pytest
import torch

from cryogimbal.fourier.disc import make_disc, mirror_row
from cryogimbal.fourier.resample import crop_centred
from cryogimbal.fourier.transforms import image_to_hartley, mirror_spectrum
from tests.laws import assert_adjoint
from tests.reference.hartley_sum import frequencies_by_sorting


@pytest.mark.parametrize("radius", [None, 0.5, 1.0, 3.0, 5.3, 7.99, 1000.0])
def test_order_of_a_row(box: int, radius: float | None) -> None:
    found = [tuple(k) for k in make_disc(box, radius).frequency_index.long().tolist()]
    assert found == frequencies_by_sorting(box, math.inf if radius is None else radius)


def test_a_row_is_the_zero_frequency_and_then_pairs_by_radius(box: int) -> None:
    disc = make_disc(box)
    k = disc.frequency_index
    assert k[0].tolist() == [0, 0]
    assert torch.equal(k[1::2], -k[2::2])
    assert bool((disc.radius_per_coefficient.diff() >= 0).all())
    assert torch.equal(disc.radius_per_coefficient, torch.hypot(k[:, 0], k[:, 1]))
    expected = [round(math.hypot(*pair)) for pair in k.tolist()]
    assert disc.shell_per_coefficient.tolist() == expected


def test_a_full_disc_stays_below_nyquist(box: int) -> None:
    axis = range(-box, box + 1)
    inside = sum(2 * math.hypot(x, y) < box for x in axis for y in axis)
    assert make_disc(box).n_coefficients == inside


@pytest.mark.parametrize("radius", [0.0, 1.0, 2.5, 4.0, 5.0, 100.0])
def test_a_band_limit_is_a_prefix(box: int, radius: float) -> None:
    disc = make_disc(box)
    smaller = disc.truncate(radius)
    assert smaller.n_coefficients == disc.prefix(radius)
    assert smaller.n_coefficients == int((disc.radius_per_coefficient <= radius).sum())
    assert torch.equal(smaller.frequency_index, make_disc(box, radius).frequency_index)
    square = torch.arange(float(box * box)).view(box, box)
    assert torch.equal(smaller.gather(square), disc.gather(square)[: smaller.n_coefficients])


@pytest.mark.parametrize("small_box", [8, 9, 15, 16])
def test_rows_of_a_cropped_spectrum_are_prefixes(
    box: int, small_box: int, generator: torch.Generator
) -> None:
    square = torch.randn(2, box, box, generator=generator)
    small, large = make_disc(small_box), make_disc(box)
    row = small.gather(crop_centred(square, small_box, 2))
    assert torch.equal(row, large.gather(square)[:, : small.n_coefficients])


def test_a_row_names_x_before_y(box: int) -> None:
    disc = make_disc(box)
    axis = torch.arange(box) - box // 2
    ky, kx = torch.meshgrid(axis, axis, indexing="ij")
    found = torch.stack([disc.gather(kx.float()), disc.gather(ky.float())], dim=-1)
    assert torch.equal(found, disc.frequency_index)


def test_scatter_is_adjoint_and_right_inverse_of_gather(
    box: int, generator: torch.Generator
) -> None:
    disc = make_disc(box, 0.4 * box)
    square = torch.randn(2, 3, box, box, generator=generator, dtype=torch.float64)
    rows = torch.randn(2, 3, disc.n_coefficients, generator=generator, dtype=torch.float64)
    assert torch.equal(disc.gather(disc.scatter(rows)), rows)
    assert_adjoint(disc.gather, disc.scatter, square, rows, tolerance=1e-14)


def test_scatter_keeps_the_square_inside_and_clears_it_outside(
    box: int, generator: torch.Generator
) -> None:
    disc = make_disc(box, 5.0)
    square = torch.randn(box, box, generator=generator)
    axis = torch.arange(box) - box // 2
    inside = axis.square()[:, None] + axis.square() <= 25
    assert torch.equal(disc.scatter(disc.gather(square)), torch.where(inside, square, 0.0))


def test_mirrored_rows_are_rows_of_the_mirrored_spectrum(
    box: int, generator: torch.Generator
) -> None:
    disc = make_disc(box)
    spectrum = image_to_hartley(torch.randn(4, box, box, generator=generator))
    assert torch.equal(mirror_row(disc.gather(spectrum)), disc.gather(mirror_spectrum(spectrum, 2)))


@pytest.mark.parametrize(("small_box", "radius"), [(1, None), (8, -1.0)])
def test_impossible_discs_are_refused(small_box: int, radius: float | None) -> None:
    with pytest.raises(ValueError, match=f"box={small_box}, radius={radius}"):
        make_disc(small_box, radius)
