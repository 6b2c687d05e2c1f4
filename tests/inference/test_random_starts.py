"""When a search has had enough random starts, and which of them goes on."""

import torch

from cryogimbal.inference.random_starts import (
    Start,
    best_start,
    one_stands_out,
    two_best_agree,
    wants_momentum,
)

AGREEMENT = 0.04


def start(explained: float, *, is_accelerated: bool = False, is_settled: bool = False) -> Start:
    return Start(
        densities=torch.zeros(1, 4, 4, 4),
        radius=8.0,
        is_settled=is_settled,
        is_accelerated=is_accelerated,
        loss=1.2 - explained,
        explained=explained,
    )


def test_the_best_start_leaves_the_smallest_residual() -> None:
    starts = [start(0.05), start(0.07), start(0.06)]
    assert best_start(starts) is starts[1]


def test_the_two_best_must_explain_the_same_whatever_the_others_do() -> None:
    assert not two_best_agree([start(0.1)], AGREEMENT)
    assert not two_best_agree([start(0.1), start(0.05)], AGREEMENT)
    assert two_best_agree([start(0.1), start(0.05), start(0.097)], AGREEMENT)


def test_accelerated_starts_take_no_part_in_agreement() -> None:
    accelerated = [start(0.1, is_accelerated=True), start(0.1, is_accelerated=True)]
    assert not two_best_agree([start(0.1), *accelerated], AGREEMENT)
    assert two_best_agree([start(0.08), *accelerated, start(0.08)], AGREEMENT)


def test_an_accelerated_start_stands_out_if_it_explains_more_than_chance_does() -> None:
    unsettled = [start(0.100), start(0.102)]
    assert not one_stands_out(unsettled, AGREEMENT)
    assert not one_stands_out([*unsettled, start(0.104, is_accelerated=True)], AGREEMENT)
    found = start(0.12, is_accelerated=True)
    assert one_stands_out([*unsettled, found], AGREEMENT)
    # Other accelerated starts do not count against it: they may have found the same.
    assert one_stands_out([*unsettled, start(0.119, is_accelerated=True), found], AGREEMENT)


def test_before_any_start_has_ended_none_stands_out() -> None:
    assert not one_stands_out([], AGREEMENT)


def test_momentum_is_wanted_where_starts_have_ended_and_none_has_settled() -> None:
    assert not wants_momentum([], 2)
    assert not wants_momentum([start(0.1, is_settled=True)], 2)
    assert wants_momentum([start(0.1)], 2)
    assert not wants_momentum([start(0.1)], 0)


def test_only_so_many_starts_have_momentum() -> None:
    starts = [start(0.1), start(0.1, is_accelerated=True)]
    assert wants_momentum(starts, 2)
    assert not wants_momentum([*starts, start(0.1, is_accelerated=True)], 2)
