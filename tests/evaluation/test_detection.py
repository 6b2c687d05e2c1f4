"""The area under the ROC curve, against counting pairs."""

import pytest
import torch

from cryogimbal.evaluation.detection import roc_area


def test_it_is_the_share_of_pairs_in_the_right_order(generator: torch.Generator) -> None:
    values = torch.randint(0, 9, (60,), generator=generator).float()
    positive = torch.rand(60, generator=generator) < 0.3
    one, other = values[positive][:, None], values[~positive][None]
    pairs = ((one > other).double() + 0.5 * (one == other).double()).mean()
    assert roc_area(values, positive) == pytest.approx(float(pairs))


def test_a_perfect_number_has_1_and_its_opposite_0() -> None:
    positive = torch.arange(10) < 3
    assert roc_area(positive.float(), positive) == 1.0
    assert roc_area(-positive.float(), positive) == 0.0


def test_one_kind_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="two kinds"):
        roc_area(torch.ones(3), torch.ones(3, dtype=torch.bool))
