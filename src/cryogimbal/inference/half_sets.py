"""How a stack is halved, and two reconstructions of its halves that share nothing.

The halves have their own noise, masks, restarts and stops. Only when both have ended is half 2 brought
to the frame of half 1, by coarse frequencies alone; nothing goes back into either search.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from cryogimbal.data.confidence import Confidence
from cryogimbal.data.half_sets import HalfPoses, HalfSets
from cryogimbal.data.poses import PoseSet
from cryogimbal.evaluation.alignment import align_pose_frame
from cryogimbal.evaluation.half_alignment import HalfAlignment, align_half_map
from cryogimbal.imaging.noise import NoiseModel
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.records import Record
from cryogimbal.inference.result_state import reconstruction_from_state, reconstruction_to_state
from cryogimbal.inference.seeding import generator_for
from cryogimbal.inference.start_and_result import Reconstruction

# Of fewer images a half-map shows too little for a resolution to mean anything.
LEAST_IMAGES = 100
HALVES = (1, 2)


def drawn_half_sets(n_particles: int, seed: int, poses: HalfPoses) -> HalfSets:
    """Two halves of equal size at random; the same ones for the same number of particles and seed."""
    order = torch.randperm(n_particles, generator=generator_for(seed, "half-sets"))
    return HalfSets(number=order % 2 + 1, poses=poses)


def config_of_half(config: ReconstructionConfig, number: int) -> ReconstructionConfig:
    """The same options with a seed of its own, so that the halves do not draw the same volumes."""
    seed = generator_for(config.seed, "half-set", number).initial_seed() % 2**31
    return replace(config, seed=seed)


@runtime_checkable
class HalfSearch(Protocol):
    """A search of the images of one half."""

    def records(self) -> Iterator[Record]:
        """From where the search stands to its end."""
        ...

    def result(self) -> Reconstruction:
        """What a search has found that has reached its end."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        ...


class HalfSetRuns:
    """Two reconstructions, one after the other; itself such a search."""

    def __init__(self, half_sets: HalfSets, begin: Callable[[int], HalfSearch]) -> None:
        """Prepare for both; ``begin`` makes the run of half 1 or 2 when its turn comes."""
        self._half_sets = half_sets
        self._begin = begin
        self._finished: list[Reconstruction] = []
        self._run: HalfSearch | None = None

    def records(self) -> Iterator[Record]:
        """Run both to their ends, one record at a time, each with the number of its half."""
        while len(self._finished) < len(HALVES):
            number = len(self._finished) + 1
            for record in self._current().records():
                yield replace(record, half_set=number)
            self._finished.append(self._current().result())
            # The second half may want the memory of the first.
            self._run = None

    def result(self) -> Reconstruction:
        """Both halves in the frame of the first.

        Raises
        ------
        RuntimeError
            If one of them has not reached its end.
        """
        if len(self._finished) < len(HALVES):
            raise RuntimeError(f"half {len(self._finished) + 1} is still being searched")
        first, second = self._finished
        alignment = align_half_map(second.density, first.density)
        return join_halves(first, second, self._half_sets, alignment)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later :meth:`load_state_dict` needs to go on bit by bit."""
        return {
            "finished": [reconstruction_to_state(one) for one in self._finished],
            "run": None if self._run is None else self._run.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint of runs with the same images and options."""
        self._finished = [reconstruction_from_state(one) for one in state["finished"]]
        if state["run"] is not None:
            self._current().load_state_dict(state["run"])

    def _current(self) -> HalfSearch:
        if self._run is None:
            self._run = self._begin(len(self._finished) + 1)
        return self._run


def join_halves(
    first: Reconstruction, second: Reconstruction, half_sets: HalfSets, alignment: HalfAlignment
) -> Reconstruction:
    """One result of two halves, in the frame of the first, in the order of the stack.

    Density and encoder are those of the first half; each optics group counts once for either half,
    with the noise that was found there.
    """
    places = [half_sets.index(number) for number in HALVES]
    moved = align_pose_frame(second.poses, alignment.alignment)
    poses = PoseSet(
        rotation=_scattered(first.poses.rotation, moved.rotation, places),
        shift_angstrom=_scattered(first.poses.shift_angstrom, moved.shift_angstrom, places),
    )
    n_groups = len(first.noise.variance)
    noise = NoiseModel(
        variance=torch.cat([first.noise.variance, second.noise.variance]),
        scale=_scattered(first.noise.scale, second.noise.scale, places),
        group=_scattered(first.noise.group, second.noise.group + n_groups, places),
        trust=_scattered(first.noise.trust, second.noise.trust, places),
        excess=_joined_excess(first.noise, second.noise, places),
        estimated=first.noise.estimated,
    )
    confidence = _joined_confidence(first.confidence, second.confidence, places)
    return replace(
        first,
        poses=poses,
        noise=noise,
        confidence=confidence,
        half_map_fsc=alignment.fsc,
        half_alignment=alignment,
        signs_of_collapse=_joined_signs(first, second, alignment),
        n_restarts=first.n_restarts + second.n_restarts,
    )


def _joined_signs(
    first: Reconstruction, second: Reconstruction, alignment: HalfAlignment
) -> tuple[str, ...]:
    """What either half shows, and that they are not the same particle."""
    signs = tuple(
        f"half {number}: {sign}"
        for number, found in zip(HALVES, (first, second), strict=True)
        for sign in found.signs_of_collapse
    )
    if alignment.is_certain:
        return signs
    return (*signs, "the maps of the two halves, which share nothing, do not look alike")


def _joined_confidence(
    first: Confidence | None, second: Confidence | None, places: list[Tensor]
) -> Confidence | None:
    """Of each image what its own half says, in which widths and scores have been measured."""
    if first is None or second is None:
        return None
    shift = None
    if first.shift_width_angstrom is not None and second.shift_width_angstrom is not None:
        shift = _scattered(first.shift_width_angstrom, second.shift_width_angstrom, places)
    return Confidence(
        width_deg=_scattered(first.width_deg, second.width_deg, places),
        shift_width_angstrom=shift,
        score=_scattered(first.score, second.score, places),
    )


def _joined_excess(first: NoiseModel, second: NoiseModel, places: list[Tensor]) -> Tensor | None:
    if first.excess is None or second.excess is None:
        return None
    return _scattered(first.excess, second.excess, places)


def _scattered(first: Tensor, second: Tensor, places: list[Tensor]) -> Tensor:
    """Rows of both halves at their places in the stack."""
    whole = first.new_empty(len(first) + len(second), *first.shape[1:])
    for values, place in zip((first, second), places, strict=True):
        whole[place] = values.to(whole)
    return whole
