"""Places of particles during a search: few are compared, around where each has been found."""

import pytest
import torch

from cryogimbal.imaging.centres import Centres
from cryogimbal.inference.followed_shifts import FollowedShifts
from tests.laws import relative_error
from tests.small_particles import blob_density, simulate_spectra

RANGE_BOX = 0.12
EVERYTHING = torch.arange(30)


@pytest.fixture
def shift_box(generator: torch.Generator) -> torch.Tensor:
    return 0.05 * torch.randn(30, 2, generator=generator)


def found(shift_box: torch.Tensor, deviation_box: float) -> Centres:
    return Centres(
        shift_box=shift_box, variance_box2=torch.full((len(shift_box),), deviation_box**2)
    )


def test_images_are_moved_back_by_all_that_has_been_found(
    box: int, generator: torch.Generator, shift_box: torch.Tensor
) -> None:
    density = blob_density(box, generator)
    state = generator.get_state()
    there, _ = simulate_spectra(density, 30, generator, signal_to_noise=1e6)
    generator.set_state(state)
    displaced, _ = simulate_spectra(
        density, 30, generator, signal_to_noise=1e6, shift_box=shift_box
    )
    places = FollowedShifts(30, RANGE_BOX, "cpu")
    batch, expected = (one.batch(EVERYTHING, 6.0) for one in (displaced, there))
    assert torch.equal(places.centred(batch).observed, batch.observed)
    places.follow(found(0.7 * shift_box, 0.02), EVERYTHING, 6.0)
    places.follow(found(0.3 * shift_box[4:], 0.02), EVERYTHING[4:], 6.0)
    moved = places.centred(batch).observed
    assert relative_error(moved[4:], expected.observed[4:]) < 0.01
    assert relative_error(moved[:4], expected.observed[:4]) > 0.01


def test_the_more_is_known_the_fewer_are_compared(generator: torch.Generator) -> None:
    places = FollowedShifts(30, RANGE_BOX, "cpu")
    numbers = []
    for deviation in (0.06, 0.03, 0.01, 0.0):
        places.follow(found(torch.zeros(30, 2), deviation), EVERYTHING, 10.0)
        shifts = places.shifts(10.0)
        assert shifts is not None
        assert float(shifts.norm(dim=1).max()) <= RANGE_BOX + 1e-6
        numbers.append(len(shifts))
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > numbers[-1]
    # The neighbours of no displacement are always among them.
    assert numbers[-1] >= 5


def test_the_prior_is_that_of_the_first_centres(
    generator: torch.Generator, shift_box: torch.Tensor
) -> None:
    spectra, _ = simulate_spectra(blob_density(16, generator), 30, generator, signal_to_noise=1.0)
    places = FollowedShifts(30, RANGE_BOX, "cpu")
    places.follow(found(shift_box, 0.02), EVERYTHING, 6.0)
    index = torch.tensor([7, 2])
    displacements = places.displacements(spectra.batch(index, 6.0))
    assert displacements is not None
    # Half the range is the standard deviation per axis.
    from_first = shift_box[index, None] + displacements.shift_box
    expected = torch.distributions.Normal(0.0, RANGE_BOX / 2).log_prob(from_first).sum(2)
    prior = displacements.log_prior
    torch.testing.assert_close(prior - prior[:, :1], expected - expected[:, :1])


def test_centred_particles_stay_where_they_are(generator: torch.Generator) -> None:
    spectra, _ = simulate_spectra(blob_density(16, generator), 30, generator, signal_to_noise=1.0)
    places = FollowedShifts(30, 0.0, "cpu")
    batch = spectra.batch(EVERYTHING, 6.0)
    assert places.centred(batch) is batch
    assert places.displacements(batch) is None


def test_a_checkpoint_has_all_and_a_reset_nothing(shift_box: torch.Tensor) -> None:
    places, again = FollowedShifts(30, RANGE_BOX, "cpu"), FollowedShifts(30, RANGE_BOX, "cpu")
    fresh = places.state_dict()
    places.follow(found(shift_box, 0.02), EVERYTHING, 6.0)
    again.load_state_dict(places.state_dict())
    assert torch.equal(again.state_dict()["centre_box"], shift_box)
    assert again.state_dict()["deviation_box"] == places.state_dict()["deviation_box"]
    again.reset()
    assert torch.equal(again.state_dict()["centre_box"], fresh["centre_box"])
    assert again.state_dict()["deviation_box"] == fresh["deviation_box"]
