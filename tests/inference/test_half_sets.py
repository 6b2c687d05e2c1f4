"""Two searches of two halves: they share nothing, can be stopped anywhere, and end in one frame."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cryogimbal.data.half_sets import HalfSets
from cryogimbal.data.poses import PoseSet
from cryogimbal.evaluation.pose_error import pose_errors
from cryogimbal.imaging.noise import NoiseModel
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.half_sets import HalfSetRuns, config_of_half, drawn_half_sets
from cryogimbal.inference.reconstruct import ReconstructionRun
from cryogimbal.inference.records import NoticeRecord, Record
from cryogimbal.inference.start_and_result import Reconstruction, StartingPoint
from cryogimbal.rotations import mirror_rotation, random_rotations
from tests.evaluation.gaussians import (
    VOXEL_SIZE_ANGSTROM,
    gaussian_density,
    random_frame,
    random_positions,
)
from tests.inference.test_reconstruct import TINY
from tests.small_particles import blob_density, simulate_spectra

N = 60


def test_halves_are_drawn_alike_for_one_seed() -> None:
    first, again, other = (drawn_half_sets(101, seed, "shared") for seed in (1, 1, 2))
    assert sorted(first.sizes) == [50, 51]
    assert torch.equal(first.number, again.number)
    assert not torch.equal(first.number, other.number)
    both = torch.cat([first.index(1), first.index(2)])
    assert torch.equal(both.sort().values, torch.arange(101))


def test_halves_have_the_same_options_and_other_seeds() -> None:
    halves = [config_of_half(TINY, number) for number in (1, 2)]
    assert len({TINY.seed, *(half.seed for half in halves)}) == 3
    assert all(replace(half, seed=TINY.seed) == TINY for half in halves)


@pytest.fixture(scope="module")
def spectra() -> ParticleSpectra:
    generator = torch.Generator().manual_seed(5)
    density = blob_density(16, generator)
    return simulate_spectra(density, N, generator, signal_to_noise=1.0)[0]


HALF_SETS = HalfSets(number=1 + torch.arange(N) % 2, poses="independent")


def runs_of(spectra: ParticleSpectra) -> HalfSetRuns:
    def begin(number: int) -> ReconstructionRun:
        half = spectra.subset(HALF_SETS.index(number))
        return ReconstructionRun(half, config_of_half(TINY, number), StartingPoint())

    return HalfSetRuns(HALF_SETS, begin)


@pytest.fixture(scope="module")
def unbroken(spectra: ParticleSpectra) -> tuple[list[Record], dict[str, Any]]:
    """Records and state of two runs that nobody has disturbed."""
    runs = runs_of(spectra)
    return list(runs.records()), runs.state_dict()


def assert_same_state(found: Any, expected: Any) -> None:
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same_state(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same_state(one, other)
    else:
        assert found == expected


def test_records_tell_their_half(unbroken: tuple[list[Record], dict[str, Any]]) -> None:
    numbers = [record.half_set for record in unbroken[0]]
    assert set(numbers) == {1, 2}
    assert numbers == sorted(numbers)


def test_the_second_half_knows_nothing_of_the_first(
    spectra: ParticleSpectra, unbroken: tuple[list[Record], dict[str, Any]]
) -> None:
    changed, kept = 1, 2
    rows = spectra.rows.clone()
    rows[HALF_SETS.index(changed)] = rows[HALF_SETS.index(changed)].flip(0)
    runs = runs_of(replace(spectra, rows=rows))
    records = list(runs.records())
    before, after = ([r for r in every if r.half_set == kept] for every in (unbroken[0], records))
    assert after == before
    state = runs.state_dict()["finished"]
    assert_same_state(state[kept - 1], unbroken[1]["finished"][kept - 1])
    assert not torch.equal(
        state[changed - 1]["rotation"], unbroken[1]["finished"][changed - 1]["rotation"]
    )


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_runs_go_on_bit_by_bit_from_anywhere(
    share: float, spectra: ParticleSpectra, unbroken: tuple[list[Record], dict[str, Any]]
) -> None:
    expected, end = unbroken
    n = round(share * len(expected))
    runs = runs_of(spectra)
    records = runs.records()
    seen = [next(records) for _ in range(n)]
    buffer = io.BytesIO()
    torch.save(runs.state_dict(), buffer)
    buffer.seek(0)
    again = runs_of(spectra)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    seen += again.records()
    assert seen == expected
    assert_same_state(again.state_dict(), end)


def test_a_result_before_both_ends_is_refused(spectra: ParticleSpectra) -> None:
    runs = runs_of(spectra)
    next(runs.records())
    with pytest.raises(RuntimeError, match="half 1 is still"):
        runs.result()


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that has found what it is given."""

    found: Reconstruction

    def records(self) -> Iterator[Record]:
        yield NoticeRecord(text="done")

    def result(self) -> Reconstruction:
        return self.found

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise AssertionError(state)


@pytest.mark.parametrize(("box", "sign"), [(24, 1.0), (25, -1.0)], ids=["even", "odd_mirrored"])
def test_the_second_half_comes_to_the_frame_of_the_first(
    box: int, sign: float, generator: torch.Generator
) -> None:
    position = random_positions(60, box, generator)
    rotation, hand, shift_px = random_frame(box, generator, sign=sign)
    density = {
        1: gaussian_density(position @ (rotation @ hand).T + shift_px, box),
        2: gaussian_density(position, box),
    }
    truth = PoseSet(
        rotation=random_rotations(N, generator).double(),
        shift_angstrom=3 * torch.randn(N, 2, generator=generator).double(),
    )
    # What half 2 sees in its own frame: A = M (A' Q) M and t = t' + (A' s)_xy.
    own = truth.rotation @ rotation
    origin = truth.rotation @ (shift_px * VOXEL_SIZE_ANGSTROM)
    seen = {
        1: truth,
        2: PoseSet(
            rotation=mirror_rotation(own) if sign < 0 else own,
            shift_angstrom=truth.shift_angstrom + origin[:, :2],
        ),
    }

    def begin(number: int) -> Finished:
        index = HALF_SETS.index(number)
        noise = NoiseModel(
            variance=torch.full((2, 3), float(number)),
            scale=index.float(),
            group=index % 2,
            trust=torch.ones(len(index)),
        )
        return Finished(
            found=Reconstruction(
                poses=seen[number][index],
                density=density[number],
                half_map_fsc=None,
                noise=noise,
                encoder=None,
            )
        )

    runs = HalfSetRuns(HALF_SETS, begin)
    assert [record.half_set for record in runs.records()] == [1, 2]
    found = runs.result()
    assert found.half_alignment is not None
    assert found.half_alignment.alignment.mirrored == (sign < 0)
    assert found.density is density[1]
    assert found.half_map_fsc is not None and found.half_map_fsc.poses == "independent"
    first, second = HALF_SETS.index(1), HALF_SETS.index(2)
    assert torch.equal(found.poses.rotation[first], truth.rotation[first])
    moved = (found.poses.shift_angstrom - truth.shift_angstrom)[second].norm(dim=1)
    assert moved.max() < 0.05 * VOXEL_SIZE_ANGSTROM
    trace = (found.poses.rotation[second].mT @ truth.rotation[second]).diagonal(dim1=1, dim2=2)
    assert trace.sum(-1).min() > 3 - 1e-4
    assert pose_errors(found.poses, truth).rotation_error_deg.max() < 0.5
    # Every particle has the noise and the scale that its own half found.
    assert torch.equal(found.noise.scale, torch.arange(N).float())
    variance = found.noise.variance[found.noise.group][:, 0]
    assert torch.equal(variance, HALF_SETS.number.float())
