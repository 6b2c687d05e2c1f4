import pytest
import torch
from torch import Tensor

from cryogimbal.fourier.disc import Disc, make_disc
from cryogimbal.fourier.transforms import hartley_to_image, image_to_hartley
from cryogimbal.imaging.shifts import shift_row
from tests.imaging.gaussian_phantom import random_phantom
from tests.laws import relative_error


def rows_of(image: Tensor, disc: Disc) -> Tensor:
    return disc.gather(image_to_hartley(image))


@pytest.mark.parametrize("pixels", [(1, 0), (0, 1), (-3, 2), (5, 7)])
def test_whole_pixels_roll_the_image(
    pixels: tuple[int, int], box: int, generator: torch.Generator
) -> None:
    disc = make_disc(box)
    image = torch.randn(box, box, generator=generator, dtype=torch.float64)
    x, y = pixels
    moved = torch.roll(image, (y, x), dims=(0, 1))
    shift = torch.tensor([x / box, y / box], dtype=torch.float64)
    found = shift_row(rows_of(image, disc).float(), shift.float(), disc)
    assert relative_error(found, rows_of(moved, disc).float()) < 2e-6


def test_content_moves_right_and_down(box: int) -> None:
    disc = make_disc(box)
    image = torch.zeros(box, box)
    image[box // 2, box // 2] = 1
    row = shift_row(rows_of(image, disc), torch.tensor([3.0, 2.0]) / box, disc)
    moved = hartley_to_image(disc.scatter(row))
    assert divmod(int(moved.argmax()), box) == (box // 2 + 2, box // 2 + 3)


def test_fractions_of_a_pixel_move_a_known_image(box: int, generator: torch.Generator) -> None:
    phantom = random_phantom(generator, n=10, reach=box / 6)
    disc = make_disc(box, 0.8 * box / 2)
    shift_px = torch.tensor([0.37, -1.61])
    moved = phantom.moved(torch.tensor([0.37, -1.61, 0.0])).projection(box)
    found = shift_row(rows_of(phantom.projection(box).float(), disc), shift_px / box, disc)
    assert relative_error(found.double(), rows_of(moved, disc)) < 5e-3


def test_shifts_add_up_and_keep_the_norm(box: int, generator: torch.Generator) -> None:
    disc = make_disc(box)
    rows = torch.randn(5, 3, disc.n_coefficients, generator=generator)
    first, second = torch.randn(2, 5, 3, 2, generator=generator) / 10
    both = shift_row(shift_row(rows, first, disc), second, disc)
    torch.testing.assert_close(both, shift_row(rows, first + second, disc), atol=2e-5, rtol=0)
    torch.testing.assert_close(both.norm(dim=-1), rows.norm(dim=-1))
    back = shift_row(shift_row(rows, first, disc), -first, disc)
    torch.testing.assert_close(back, rows, atol=2e-5, rtol=0)


def test_a_shift_of_nothing_or_of_the_whole_box_changes_nothing(
    box: int, generator: torch.Generator
) -> None:
    disc = make_disc(box)
    rows = torch.randn(disc.n_coefficients, generator=generator)
    assert torch.equal(shift_row(rows, torch.zeros(2), disc), rows)
    around = shift_row(rows, torch.tensor([1.0, -1.0]), disc)
    torch.testing.assert_close(around, rows, atol=5e-5, rtol=0)
