import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cryogimbal.fourier.transforms import (
    density_to_fourier,
    density_to_hartley,
    fourier_to_density,
    fourier_to_hartley,
    hartley_to_density,
    hartley_to_fourier,
    hartley_to_image,
    image_to_fourier,
    image_to_hartley,
    mirror_spectrum,
)
from tests.laws import assert_adjoint, relative_error
from tests.reference.hartley_sum import hartley_by_sums

Transform = Callable[[Tensor], Tensor]


@pytest.mark.parametrize("tiny_box", [4, 5])
def test_transforms_equal_direct_sums(tiny_box: int, generator: torch.Generator) -> None:
    density = torch.randn((tiny_box,) * 3, generator=generator, dtype=torch.float64)
    expected = hartley_by_sums(density[0])
    assert relative_error(image_to_hartley(density[0]), expected) < 1e-13
    assert relative_error(density_to_hartley(density), hartley_by_sums(density)) < 1e-13


@pytest.mark.parametrize(
    ("forward", "inverse", "n_axes"),
    [(image_to_hartley, hartley_to_image, 2), (density_to_hartley, hartley_to_density, 3)],
)
def test_hartley_is_its_own_inverse_orthonormal_and_symmetric(
    forward: Transform, inverse: Transform, n_axes: int, box: int, generator: torch.Generator
) -> None:
    signal, other = torch.randn(2, *[box] * n_axes, generator=generator, dtype=torch.float64)
    assert relative_error(forward(forward(signal)), signal) < 1e-13
    assert relative_error(inverse(forward(signal)), signal) < 1e-13
    assert float(forward(signal).norm()) == pytest.approx(float(signal.norm()), rel=1e-12)
    assert_adjoint(forward, forward, signal, other, tolerance=1e-12)


@pytest.mark.parametrize(
    ("to_hartley", "to_fourier", "n_axes"),
    [(image_to_hartley, image_to_fourier, 2), (density_to_hartley, density_to_fourier, 3)],
)
def test_hartley_and_fourier_spectra_tell_the_same(
    to_hartley: Transform, to_fourier: Transform, n_axes: int, box: int, generator: torch.Generator
) -> None:
    signal = torch.randn([box] * n_axes, generator=generator, dtype=torch.float64)
    hartley, fourier = to_hartley(signal), to_fourier(signal)
    torch.testing.assert_close(fourier.real - fourier.imag, hartley, atol=1e-12, rtol=0)
    torch.testing.assert_close(hartley_to_fourier(hartley, n_axes), fourier, atol=1e-12, rtol=0)
    torch.testing.assert_close(fourier_to_hartley(fourier), hartley, atol=1e-12, rtol=0)


def test_fourier_spectra_of_densities_go_back(box: int, generator: torch.Generator) -> None:
    density = torch.randn(box, box, box, generator=generator, dtype=torch.float64)
    assert relative_error(fourier_to_density(density_to_fourier(density)), density) < 1e-13


def test_sign_and_centre_of_the_transform(box: int) -> None:
    # F(k) = exp(-2 pi i k.x0 / box) / box for one point at x0 = (column, row) = (3, -2).
    image = torch.zeros(box, box, dtype=torch.float64)
    image[box // 2 - 2, box // 2 + 3] = 1
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    phase = 2 * math.pi * (axis[None, :] * 3 + axis[:, None] * -2) / box
    fourier = torch.complex(phase.cos(), -phase.sin()) / box
    torch.testing.assert_close(image_to_fourier(image), fourier, atol=1e-13, rtol=0)


@pytest.mark.parametrize("n_axes", [1, 2, 3])
def test_mirror_looks_up_the_opposite_frequency(
    n_axes: int, box: int, generator: torch.Generator
) -> None:
    spectrum = torch.randn(2, *[box] * n_axes, generator=generator)
    opposite = (2 * (box // 2) - torch.arange(box)) % box
    expected = spectrum
    for axis in range(1, n_axes + 1):
        expected = expected.index_select(axis, opposite)
    assert torch.equal(mirror_spectrum(spectrum, n_axes), expected)
    assert torch.equal(mirror_spectrum(expected, n_axes), spectrum)


def test_mirrored_spectrum_is_the_spectrum_of_the_inverted_density(
    box: int, generator: torch.Generator
) -> None:
    density = torch.randn(box, box, box, generator=generator, dtype=torch.float64)
    inverted = density_to_hartley(mirror_spectrum(density, 3))
    mirrored = mirror_spectrum(density_to_hartley(density), 3)
    torch.testing.assert_close(inverted, mirrored, atol=1e-12, rtol=0)


def test_spectra_keep_batch_axes_and_white_noise(box: int, generator: torch.Generator) -> None:
    noise = torch.randn(3, 100, box, box, generator=generator)
    spectrum = image_to_hartley(noise)
    torch.testing.assert_close(spectrum[2, 17], image_to_hartley(noise[2, 17]))
    deviation = spectrum.std(dim=(0, 1))
    # 300 draws a coefficient: the deviation's own error is 1 / sqrt(600) = 4 %.
    torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=0.25, rtol=0)
    assert float(spectrum.std()) == pytest.approx(1, abs=0.01)
