"""A start goes to the planned band limit, and on for as long as images do not know their poses."""

import pytest

from cryogimbal.inference.config_posterior import PosteriorConfig
from cryogimbal.inference.search_schedule import AcceleratedSchedule, SearchSchedule

CONFIG = PosteriorConfig(
    iterations=50, start_radius=4.0, end_radius=8.0, largest_radius=14.0, start_sharing=100.0
)
SCHEDULE = SearchSchedule(config=CONFIG, highest_radius=31.0)


def test_the_band_limit_reaches_its_planned_end_and_waits_for_the_last_planned_step() -> None:
    assert SCHEDULE.radius(0) == 4.0
    assert SCHEDULE.radius(20) == pytest.approx(6.0)
    assert [SCHEDULE.radius(step) for step in (40, 45, 50)] == [8.0, 8.0, 8.0]


def test_beyond_the_planned_steps_it_grows_at_the_same_pace_to_the_largest() -> None:
    assert SCHEDULE.radius(60) == pytest.approx(9.0)
    assert SCHEDULE.radius(110) == 14.0
    assert SCHEDULE.radius(1000) == 14.0


@pytest.mark.parametrize("highest", [6.5, 11.0])
def test_no_step_goes_beyond_the_images(highest: float) -> None:
    schedule = SearchSchedule(config=CONFIG, highest_radius=highest)
    assert max(schedule.radius(step) for step in range(200)) == highest


def test_orientations_are_shared_by_fewer_and_fewer() -> None:
    sharing = [SCHEDULE.sharing(step, 1) for step in range(60)]
    assert sharing[0] == pytest.approx(100.0)
    assert sharing == sorted(sharing, reverse=True)
    assert set(sharing[40:]) == {1.0}
    # What a group makes equal is one orientation.
    assert SCHEDULE.sharing(0, 4) == pytest.approx(25.0)


def test_a_start_ends_once_images_know_their_orientations() -> None:
    assert not SCHEDULE.is_over(49, sharing=1.0)
    assert SCHEDULE.is_over(50, sharing=1.0)
    assert not SCHEDULE.is_over(50, sharing=30.0)
    assert SCHEDULE.is_over(70, sharing=2.0)


def test_a_start_that_never_knows_ends_after_a_step_at_the_largest_band_limit() -> None:
    n_steps = 1
    while not SCHEDULE.is_over(n_steps, sharing=1e3):
        n_steps += 1
    assert SCHEDULE.radius(n_steps - 1) == 14.0
    assert SCHEDULE.radius(n_steps - 2) < 14.0


ACCELERATED = AcceleratedSchedule(config=CONFIG, highest_radius=31.0)


def test_the_band_limit_of_an_accelerated_start_grows_in_half_cycles() -> None:
    radii = [ACCELERATED.radius(step) for step in range(CONFIG.accelerated_iterations)]
    assert (radii[0], radii[-1]) == (
        CONFIG.accelerated_start_radius,
        CONFIG.accelerated_end_radius,
    )
    assert radii == sorted(radii)
    # Tables of a band limit are kept for the next step: few of them are made.
    assert all((2 * radius).is_integer() for radius in radii)


def test_an_accelerated_start_does_not_go_beyond_the_images() -> None:
    schedule = AcceleratedSchedule(config=CONFIG, highest_radius=9.25)
    assert max(schedule.radius(step) for step in range(200)) == 9.25


def test_an_accelerated_start_keeps_the_temperature_of_the_images() -> None:
    assert {ACCELERATED.sharing(step, 1) for step in (0, 50, 149)} == {1.0}


def test_an_accelerated_start_ends_once_its_structure_has_come_through() -> None:
    n = CONFIG.accelerated_iterations
    assert ACCELERATED.is_over(n // 2, sharing=3.0)
    assert not ACCELERATED.is_over(n - 1, sharing=6.0)
    assert ACCELERATED.is_over(n, sharing=6.0)


def test_an_accelerated_start_does_not_end_before_its_band_limit_has_grown() -> None:
    n_steps = 0
    while not ACCELERATED.is_over(n_steps, sharing=1.0):
        n_steps += 1
    assert ACCELERATED.radius(n_steps) == CONFIG.accelerated_end_radius
