"""Tiles cover the whole matrix, fit the budget, and say what they would need."""

import pytest
import torch

from cryogimbal.errors import InputError
from cryogimbal.inference.memory_budget import MIB, MemoryBudget


@pytest.mark.parametrize("mebibytes", [1, 3, 1000])
@pytest.mark.parametrize(("n_images", "n_orientations"), [(5, 7), (700, 4608), (5000, 300)])
def test_tiles_cover_every_pair_once(mebibytes: int, n_images: int, n_orientations: int) -> None:
    seen = torch.zeros(n_images, n_orientations, dtype=torch.int)
    for tile in MemoryBudget.of_mebibytes(mebibytes).tiles(n_images, n_orientations, 197):
        seen[tile.images, tile.orientations] += 1
    assert bool((seen == 1).all())


@pytest.mark.parametrize("mebibytes", [1, 2, 64])
def test_a_tile_fits(mebibytes: int) -> None:
    budget = MemoryBudget.of_mebibytes(mebibytes)
    images, orientations = budget.edges(5000, 36864, 197)
    rows = 4 * (images + orientations) * 197
    assert 4 * (rows + 3 * images * orientations) <= mebibytes * MIB


def test_all_at_once_where_there_is_room() -> None:
    assert MemoryBudget.of_mebibytes(100).edges(50, 60, 10) == (50, 60)


def test_a_budget_below_one_tile_is_refused_with_the_number_needed() -> None:
    with pytest.raises(
        InputError, match="expected at least 1 MiB for one tile of 20 images x 18 orientations"
    ):
        MemoryBudget(n_bytes=1000).edges(5000, 36864, 197)


def test_images_beside_all_orientations() -> None:
    budget = MemoryBudget.of_mebibytes(100)
    fitting = budget.images_at_once(10**6, 4608, 197)
    each = 4 * (4 * 197 + 3 * 4608)
    assert (100 * MIB - 4 * 4 * 4608 * 197) // each == fitting
    with pytest.raises(InputError, match="for one image x 36864 orientations"):
        MemoryBudget.of_mebibytes(10).images_at_once(5, 36864, 197)


def test_a_device_out_of_memory_gets_half_and_a_line() -> None:
    budget = MemoryBudget.of_mebibytes(64)
    tries: list[int] = []

    def work() -> torch.Tensor:
        tries.append(budget.n_bytes)
        if len(tries) < 3:
            raise torch.cuda.OutOfMemoryError("no room")
        return torch.ones(1)

    assert float(budget.until_it_fits(work)) == 1
    assert tries == [64 * MIB, 32 * MIB, 16 * MIB]
    told = budget.take_notices()
    assert len(told) == 2
    assert "halved to 16 MiB" in told[1]
    assert budget.take_notices() == []
