import itertools
import math

import pytest
import torch

from cryogimbal.fourier.shells import radius_grid, shell_index, shell_sum
from tests.reference.hartley_sum import shell_sums_by_loop


@pytest.mark.parametrize("n_axes", [2, 3])
def test_shell_sums_equal_a_loop(n_axes: int, box: int, generator: torch.Generator) -> None:
    values = torch.randn([box] * n_axes, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(shell_sum(values, n_axes), shell_sums_by_loop(values))


@pytest.mark.parametrize("n_axes", [2, 3])
def test_radius_and_shell_of_every_sample(n_axes: int) -> None:
    for box in (6, 7):
        radius, shell = radius_grid(box, n_axes), shell_index(box, n_axes)
        for place in itertools.product(range(box), repeat=n_axes):
            expected = math.sqrt(sum((i - box // 2) ** 2 for i in place))
            assert float(radius[place]) == pytest.approx(expected, rel=1e-15)
            assert int(shell[place]) == math.floor(expected + 0.5)


def test_the_origin_is_shell_zero_alone(box: int) -> None:
    place = (shell_index(box, 3) == 0).nonzero()
    assert place.tolist() == [[box // 2] * 3]
