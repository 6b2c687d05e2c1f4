"""Several structures from one stack: classes found together, then a search of each alone.

The posterior search holds a volume for each class, images are sorted among them, and each class goes on
as a reconstruction of its own images from its own density, in a frame of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from cryogimbal.data.confidence import Confidence
from cryogimbal.data.poses import PoseSet
from cryogimbal.fourier.resample import centred_by_mass
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.auto_decoding import AutoDecoding
from cryogimbal.inference.class_sorting import ClassSorting
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.memory_budget import MemoryBudget
from cryogimbal.inference.posterior_search import PosteriorSearch
from cryogimbal.inference.reconstruct import ReconstructionRun
from cryogimbal.inference.records import Record, SwitchRecord
from cryogimbal.inference.result_state import reconstruction_from_state, reconstruction_to_state
from cryogimbal.inference.stage_factory import StageFactory
from cryogimbal.inference.start_and_result import Reconstruction, StartingPoint
from cryogimbal.symmetry import NO_SYMMETRY, symmetry_group


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The structures of a stack and what each image shows."""

    number: Int[Tensor, " particle"]
    """Class of each image, from 1; the first has the most images."""
    found: tuple[Reconstruction, ...]
    """Of each class, from its images alone, in their order."""

    @classmethod
    def of_one(cls, found: Reconstruction) -> "Classes":
        """All images show the same."""
        number = torch.ones(len(found.poses), dtype=torch.long)
        return cls(number=number, found=(found,))

    def index(self, number: int) -> Int[Tensor, " chosen"]:
        """Images of a class, in the order of the stack."""
        return (self.number == number).nonzero()[:, 0]

    def poses(self) -> PoseSet:
        """Of all images, those of each class in its own frame."""
        n = len(self.number)
        rotation, shift = torch.empty(n, 3, 3), torch.empty(n, 2)
        for number, found in enumerate(self.found, start=1):
            rotation[self.index(number)] = found.poses.rotation
            shift[self.index(number)] = found.poses.shift_angstrom
        return PoseSet(rotation=rotation, shift_angstrom=shift)

    def confidence(self) -> Confidence | None:
        """Of all images, each in the map of its class; none where one class has a handful of images."""
        told = [found.confidence for found in self.found]
        known = [one for one in told if one is not None]
        if len(known) < len(told):
            return None
        order = torch.cat([self.index(number) for number in range(1, len(told) + 1)]).argsort()
        shifts = [one.shift_width_angstrom for one in known]
        shift = [one for one in shifts if one is not None]
        return Confidence(
            width_deg=torch.cat([one.width_deg for one in known])[order],
            shift_width_angstrom=torch.cat(shift)[order] if len(shift) == len(shifts) else None,
            score=torch.cat([one.score for one in known])[order],
        )

    @property
    def signs_of_collapse(self) -> tuple[str, ...]:
        """What shows that a map is no structure, class by class where there are several."""
        which = [f"class {number}: " for number in range(1, len(self.found) + 1)]
        return tuple(
            (name if len(which) > 1 else "") + sign
            for name, found in zip(which, self.found, strict=True)
            for sign in found.signs_of_collapse
        )

    @property
    def n_restarts(self) -> int:
        """How often a search has failed and begun again with another seed."""
        return sum(found.n_restarts for found in self.found)


class ClassRuns:
    """Search of all classes, sorting, and one reconstruction after the other."""

    def __init__(self, spectra: ParticleSpectra, config: ReconstructionConfig) -> None:
        # Noise is learned on the way, and the classes begin with what has been learned.
        spectra = replace(spectra, noise=spectra.noise.copy())
        asked = symmetry_group(config.symmetry)
        self._spectra = spectra
        # An encoder would know one of the maps only.
        self._config = replace(
            config, n_classes=1, head_training=replace(config.head_training, epochs=0)
        )
        self._factory = StageFactory(
            spectra=spectra,
            config=config,
            budget=MemoryBudget.of_mebibytes(config.posterior.memory_mib),
            group=asked if config.symmetry_from == "start" else NO_SYMMETRY,
        )
        self._stage: PosteriorSearch | ClassSorting = self._factory.posterior_search()
        self._is_sorted = False
        self._finished: list[Reconstruction] = []
        self._run: ReconstructionRun | None = None

    def records(self) -> Iterator[Record]:
        """Run to the end, one record at a time; those of a class have its number."""
        if isinstance(self._stage, PosteriorSearch):
            yield from self._stage.records()
            searched, self._stage = self._stage, self._sorting(self._stage)
            yield _switch(searched, ClassSorting.name)
        if not self._is_sorted:
            yield from self._stage.records()
            self._is_sorted = True
            yield _switch(self._stage, AutoDecoding.name)
        for number in range(len(self._finished) + 1, self._n_classes + 1):
            run = self._current(number)
            for record in run.records():
                yield replace(record, class_number=number)
            # A class begins with its density: it would end where it has ended once more.
            signs = run.signs_of_collapse()
            self._finished.append(replace(run.result(), signs_of_collapse=signs))
            # The next class may want the memory of this one.
            self._run = None

    def result(self) -> Classes:
        """All classes.

        Raises
        ------
        RuntimeError
            If one of them has not reached its end.
        """
        if not self._is_sorted or len(self._finished) < self._n_classes:
            raise RuntimeError(f"class {len(self._finished) + 1} is still being searched")
        number, _ = self._sorted_classes()
        return Classes(number=number.cpu() + 1, found=tuple(self._finished))

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later :meth:`load_state_dict` needs to go on bit by bit."""
        return {
            "noise": self._spectra.noise.state_dict(),
            "is_searched": isinstance(self._stage, ClassSorting),
            "stage": self._stage.state_dict(),
            "is_sorted": self._is_sorted,
            "finished": [reconstruction_to_state(one) for one in self._finished],
            "run": None if self._run is None else self._run.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint of a run with the same images and options."""
        self._spectra.noise.load_state_dict(state["noise"])
        if state["is_searched"]:
            self._stage = self._factory.class_sorting(state["stage"]["densities"])
        self._stage.load_state_dict(state["stage"])
        self._is_sorted = state["is_sorted"]
        self._finished = [reconstruction_from_state(one) for one in state["finished"]]
        if state["run"] is not None:
            self._current(len(self._finished) + 1).load_state_dict(state["run"])

    def _sorting(self, search: PosteriorSearch) -> ClassSorting:
        densities = search.densities()
        if self._config.shift_range_box > 0:
            densities = torch.stack([centred_by_mass(density) for density in densities])
        return self._factory.class_sorting(densities)

    def _sorted_classes(self) -> tuple[Tensor, Tensor]:
        assert isinstance(self._stage, ClassSorting)
        return self._stage.sorted_classes()

    @property
    def _n_classes(self) -> int:
        return len(self._sorted_classes()[1])

    def _current(self, number: int) -> ReconstructionRun:
        """The reconstruction of a class, from its images and its density."""
        if self._run is None:
            of_image, densities = self._sorted_classes()
            index = (of_image == number - 1).nonzero()[:, 0]
            start = StartingPoint(density=densities[number - 1])
            self._run = ReconstructionRun(self._spectra.subset(index), self._config, start)
        return self._run


def _switch(ended: PosteriorSearch | ClassSorting, to_stage: str) -> SwitchRecord:
    return SwitchRecord(from_stage=ended.name, to_stage=to_stage, reason=ended.reason())
