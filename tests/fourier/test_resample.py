import math

import pytest
import torch
from torch import Tensor

from cryogimbal.fourier.resample import (
    crop_centred,
    pad_centred,
    resample_density,
    resize_centred,
)
from tests.laws import assert_adjoint

BOXES = [(6, 9), (6, 10), (7, 10), (7, 11), (8, 8), (9, 9)]


def wave(box: int, k: tuple[int, int, int]) -> Tensor:
    """``cos(2 pi k.x + 0.3)`` with x in boxes from the origin: the same field at any sampling."""
    axis = (torch.arange(box, dtype=torch.float64) - box // 2) / box
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.cos(2 * math.pi * (k[0] * x + k[1] * y + k[2] * z) + 0.3)


@pytest.mark.parametrize(("small", "large"), BOXES)
@pytest.mark.parametrize("n_axes", [1, 2, 3])
def test_cropping_and_padding_keep_the_centre(small: int, large: int, n_axes: int) -> None:
    centre = torch.zeros([large] * n_axes)
    centre[(large // 2,) * n_axes] = 1
    cropped = crop_centred(centre, small, n_axes)
    assert cropped.shape == (small,) * n_axes
    assert cropped.nonzero().tolist() == [[small // 2] * n_axes]
    assert torch.equal(pad_centred(cropped, large, n_axes), centre)


@pytest.mark.parametrize(("small", "large"), BOXES)
def test_padding_is_adjoint_and_right_inverse_of_cropping(
    small: int, large: int, generator: torch.Generator
) -> None:
    x = torch.randn(2, large, large, generator=generator, dtype=torch.float64)
    y = torch.randn(2, small, small, generator=generator, dtype=torch.float64)
    assert torch.equal(crop_centred(pad_centred(y, large, 2), small, 2), y)
    assert_adjoint(lambda a: crop_centred(a, small, 2), lambda a: pad_centred(a, large, 2), x, y)
    assert torch.equal(resize_centred(x, small, 2), crop_centred(x, small, 2))
    assert torch.equal(resize_centred(y, large, 2), pad_centred(y, large, 2))


def test_cropping_does_not_enlarge_and_padding_does_not_shrink() -> None:
    with pytest.raises(ValueError, match="cannot crop 8 samples to 9"):
        crop_centred(torch.zeros(8, 8), 9, 2)
    with pytest.raises(ValueError, match="cannot pad 8 samples to 7"):
        pad_centred(torch.zeros(8, 8), 7, 2)


@pytest.mark.parametrize("old", [12, 13])
@pytest.mark.parametrize("new", [10, 11, 12, 16, 17])
def test_a_wave_is_the_same_field_at_every_sampling(old: int, new: int) -> None:
    for k in ((0, 0, 0), (1, 0, 0), (2, -3, 1), (0, 4, -4)):
        torch.testing.assert_close(
            resample_density(wave(old, k), new), wave(new, k), atol=1e-12, rtol=0
        )
