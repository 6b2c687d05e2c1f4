"""Stage 1 without a network: stochastic expectation maximisation over all orientations of a grid.

From a random volume, each step takes one minibatch, computes its exact posterior over the grid and
solves for the volume in closed form. The posterior is held broad by a temperature while the volume is
wrong, and the band limit grows. Where displaced particles do not settle in that way, the next starts are
accelerated ones (:class:`cryogimbal.inference.search_schedule.AcceleratedSchedule`).

Several structures are as many volumes, each from a random one of its own: an orientation of one class is
one more row that shares an image with all others.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.noise import shell_mean
from cryogimbal.imaging.signal_power import expected_signal
from cryogimbal.imaging.slices import central_slices
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.config_posterior import PosteriorConfig
from cryogimbal.inference.followed_shifts import FollowedShifts
from cryogimbal.inference.grid_search import (
    OVERSAMPLING,
    PRIOR_FRACTION,
    densities_of_expectation,
)
from cryogimbal.inference.memory_budget import MemoryBudget
from cryogimbal.inference.posterior import (
    Expectation,
    balancing_log_prior,
    expectation,
    fast_dtype,
    joined,
    log_likelihoods,
    mean_squared_residual,
    residual_of,
    temperature_for,
)
from cryogimbal.inference.random_starts import (
    Start,
    best_start,
    one_stands_out,
    random_densities,
    two_best_agree,
    verdict_on,
    wants_momentum,
)
from cryogimbal.inference.records import EpochRecord
from cryogimbal.inference.search_schedule import (
    AcceleratedSchedule,
    SearchSchedule,
    StartSchedule,
)
from cryogimbal.inference.seeding import generator_for
from cryogimbal.rotations import random_rotations, rotation_grid
from cryogimbal.symmetry import NO_SYMMETRY, SymmetryGroup, in_asymmetric_unit

NAME = "posterior_search"

# Images of a minibatch from which its temperature is found.
TEMPERATURE_SAMPLE = 200
# Power of the ratio by which a minibatch changes the noise's spectrum.
NOISE_STEP = 0.2
# Band limit of the scores of starts, in cycles per box: the grid is too coarse for higher ones.
SCORE_RADIUS = 10.0
# On a CPU: larger blocks of memory (32 MiB) go back to the system after each use and are faulted in
# again, which takes as long as all the rest.
SCORES_AT_ONCE = 2**23
# Prior weight of an accelerated step: what it takes away comes off what the step would add.
ACCELERATED_PRIOR_FRACTION = 0.01


@dataclass(frozen=True, kw_only=True)
class PoseSpace:
    """What an image may show."""

    n_classes: int = 1
    """Structures; each has all the poses."""
    shift_range_box: float = 0.0
    """Largest displacement, as a fraction of the box; 0: particles are centred."""
    group: SymmetryGroup = NO_SYMMETRY
    """One of those that it makes equal."""


class PosteriorSearch:
    """Finds a low-resolution density of every class."""

    name = NAME

    def __init__(
        self,
        spectra: ParticleSpectra,
        mask: Float[Tensor, "box box box"],
        config: PosteriorConfig,
        seed: int,
        *,
        budget: MemoryBudget | None = None,
        space: PoseSpace | None = None,
    ) -> None:
        self._spectra = spectra
        self._mask = mask
        self._config = config
        self._seed = seed
        self._space = space or PoseSpace()
        self._grid = rotation_grid(config.n_side)
        self._dtype = fast_dtype(spectra.device)
        self._budget = budget or MemoryBudget.of_mebibytes(config.memory_mib)
        self._step = 0
        self._step_of_start = 0
        self._annealed = SearchSchedule(config=config, highest_radius=spectra.disc.radius)
        self._accelerated = AcceleratedSchedule(config=config, highest_radius=spectra.disc.radius)
        self._places = FollowedShifts(len(spectra), self._space.shift_range_box, spectra.device)
        self._densities: Tensor | None = None
        self._solved: Tensor | None = None
        self._most_telling: Tensor | None = None
        self._finished: list[Start] = []

    @property
    def radius(self) -> float:
        """Band limit of the best start's densities, in cycles per box."""
        if not self._finished:
            return min(self._config.end_radius, self._spectra.disc.radius)
        return best_start(self._finished).radius

    def densities(self) -> Float[Tensor, "class box box box"]:
        """The densities found so far; random ones before the first step."""
        if self._densities is None:
            self._densities = self._random_densities()
        return self._densities

    def records(self) -> Iterator[EpochRecord]:
        """From where the stage stands to its end; it may be stopped after any record."""
        while not self._has_enough_starts():
            yield self._iterate()

    def reason(self) -> str:
        """Why the stage ended."""
        verdict = verdict_on(self._finished, self._config.agreement)
        loss = best_start(self._finished).loss
        return (
            f"{verdict} goes on with loss {loss:.4f} and a map up to {self.radius:g} cycles per box"
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything."""
        return {
            "step": self._step,
            "step_of_start": self._step_of_start,
            "places": self._places.state_dict(),
            "densities": self._densities,
            "solved": self._solved,
            "most_telling": self._most_telling,
            "finished": [vars(start) for start in self._finished],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        device = self._spectra.device
        self._step = state["step"]
        self._step_of_start = state["step_of_start"]
        self._places.load_state_dict(state["places"])
        self._densities = _moved(state["densities"], device)
        self._solved = _moved(state["solved"], device)
        self._most_telling = _moved(state["most_telling"], device)
        self._finished = [
            Start(**{**start, "densities": start["densities"].to(device)})
            for start in state["finished"]
        ]

    @property
    def _schedule(self) -> StartSchedule:
        most = self._config.accelerated_starts if self._space.shift_range_box > 0 else 0
        return self._accelerated if wants_momentum(self._finished, most) else self._annealed

    def _iterate(self) -> EpochRecord:
        schedule = self._schedule
        radius = schedule.radius(self._step_of_start)
        batch = self._places.centred(self._spectra.batch(self._minibatch_of(schedule), radius))
        geometry = self._geometry(radius)
        orientations = self._orientations(self._step)
        slices = self._slices(self.densities(), batch, geometry, orientations)
        sample = self._scores(batch.rows(slice(0, TEMPERATURE_SAMPLE)), slices, self._dtype)
        at_least = schedule.sharing(self._step_of_start, self._space.group.order)
        temperature = temperature_for(sample, at_least)
        prior = self._class_prior(sample, temperature)
        found = self._budget.until_it_fits(lambda: self._expect(batch, slices, temperature, prior))
        self._maximise(found, orientations, batch, geometry, schedule.momentum)
        if self._spectra.noise.estimated:
            self._learn_noise(found, batch, slices)
        if found.centres is not None and schedule.momentum == 0:
            self._places.follow(found.centres, batch.index, radius)
        self._step += 1
        self._step_of_start += 1
        sharing = float(found.effective_orientations.median())
        of_class = sharing / self._space.n_classes
        if schedule.is_over(self._step_of_start, of_class):
            self._finish_start(radius, of_class, schedule)
        return self._record(found.loss, radius, sharing)

    def _orientations(self, place: int | str) -> Float[Tensor, "orientation 3 3"]:
        """The grid, turned at random as a whole.

        Slices along the axes of the volume's grid keep more of its noise than those between, whose
        interpolation averages it. On a grid that stands still images gather there, and the map with
        them.
        """
        turned = self._grid @ random_rotations(1, generator_for(self._seed, NAME, "turn", place))
        return turned[in_asymmetric_unit(turned, self._space.group)].to(self._spectra.device)

    def _slices(
        self, densities: Tensor, batch: ParticleBatch, geometry: GridGeometry, orientations: Tensor
    ) -> Float[Tensor, "class_orientation coefficient"]:
        """Of every class at every orientation, one class after the other."""
        parts = [
            central_slices(
                geometry.grid_of_density(density), orientations, batch.disc, OVERSAMPLING
            )
            for density in densities
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _class_prior(self, sample: Tensor, temperature: float) -> Tensor | None:
        """What keeps classes equally full; the one that is ahead by chance would take every image."""
        if self._space.n_classes == 1:
            return None
        return balancing_log_prior(sample, self._space.n_classes, temperature)

    def _expect(
        self, batch: ParticleBatch, slices: Tensor, temperature: float, log_prior: Tensor | None
    ) -> Expectation:
        """Expectation step of a minibatch, as many images at a time as the budget holds."""
        displacements = self._places.displacements(batch)
        n_shifts = 1 if displacements is None else len(displacements.shift_box)
        n_orientations, n_coefficients = slices.shape
        at_once = self._budget.images_at_once(
            len(batch.index), n_orientations, n_coefficients, n_shifts
        )
        if self._spectra.device.type == "cpu":
            at_once = max(1, min(at_once, SCORES_AT_ONCE // (n_orientations * n_shifts)))
        parts = [slice(i, i + at_once) for i in range(0, len(batch.index), at_once)]
        return joined(
            expectation(
                batch.rows(part),
                slices,
                temperature=temperature,
                log_prior=log_prior,
                displacements=None if displacements is None else displacements.rows(part),
                dtype=self._dtype,
            )
            for part in parts
        )

    def _scores(self, batch: ParticleBatch, slices: Tensor, dtype: torch.dtype) -> Tensor:
        return log_likelihoods(
            batch, slices, shifts=self._places.shifts(batch.disc.radius), dtype=dtype
        )

    def _finish_start(self, radius: float, sharing: float, schedule: StartSchedule) -> None:
        """Score the densities on images that are the same for every start; keep the best.

        Those of earlier starts are scored again where the noise has changed.
        """
        assert self._solved is not None
        densities, self._densities, self._solved = self._solved, None, None
        self._step_of_start = 0
        self._places.reset()
        ended = Start(
            densities=densities,
            radius=radius,
            is_settled=schedule.has_settled(sharing),
            is_accelerated=schedule.momentum > 0,
            loss=math.inf,
            explained=0.0,
        )
        if self._spectra.noise.estimated:
            self._finished = [self._scored(start) for start in self._finished]
        self._finished.append(self._scored(ended))
        if self._has_enough_starts():
            self._densities = best_start(self._finished).densities

    def _scored(self, start: Start) -> Start:
        """The start with what its densities explain of some images."""
        radius = min(SCORE_RADIUS, self._spectra.disc.radius)
        batch = self._spectra.batch(self._minibatch("score", self._config.minibatch), radius)
        orientations = self._orientations("score")
        slices = self._slices(start.densities, batch, self._geometry(radius), orientations)
        best = self._scores(batch, slices, torch.float32).max(dim=1).values
        loss = float(residual_of(batch, best).mean())
        nothing = float(batch.observed.square().mean())
        return replace(start, loss=loss, explained=nothing - loss)

    def _has_enough_starts(self) -> bool:
        starts, agreement = self._finished, self._config.agreement
        return (
            len(starts) == self._config.max_starts
            or two_best_agree(starts, agreement)
            or one_stands_out(starts, agreement)
        )

    def _maximise(
        self,
        found: Expectation,
        orientations: Tensor,
        batch: ParticleBatch,
        geometry: GridGeometry,
        momentum: float,
    ) -> None:
        """Solve for the volumes of one minibatch alone.

        Carrying earlier minibatches along makes a smoother map, but each step then moves it by less, and
        a start needs many steps before it has left its random beginning behind. With momentum a step
        goes on beyond its solution, which then is no less than 0 anywhere.
        """
        densities = densities_of_expectation(
            found,
            orientations,
            batch.disc,
            geometry,
            self._space.group,
            PRIOR_FRACTION if momentum == 0 else ACCELERATED_PRIOR_FRACTION,
        )
        solved, before = densities * self._mask, self._solved
        if momentum > 0:
            solved = solved.clamp_min(0)
        self._solved = solved
        change = 0.0 if before is None else solved - before
        self._densities = solved + momentum * change

    def _learn_noise(self, found: Expectation, batch: ParticleBatch, slices: Tensor) -> None:
        """Let the noise's spectrum follow what a minibatch leaves of its images.

        While the posterior is broad some signal is left too, which makes that shell count for less.
        """
        noise = self._spectra.noise
        ratio = shell_mean(mean_squared_residual(batch, slices, found), batch.disc)
        if self._spectra.optics:
            ratio /= shell_mean((batch.ctf != 0).float().mean(0), batch.disc).clamp_min(0.1)
        n_shells = len(ratio)
        variance = noise.variance.clone()
        variance[:, :n_shells] *= ratio**NOISE_STEP
        noise.enter(variance)

    def _minibatch_of(self, schedule: StartSchedule) -> Tensor:
        """Images of this step."""
        if schedule.most_telling is None:
            return self._minibatch(self._step, schedule.minibatch)
        if self._most_telling is None:
            # Once, though the noise goes on being learned.
            signal = expected_signal(self._spectra, schedule.radius(0))
            self._most_telling = signal.argsort(descending=True)[: schedule.most_telling]
        return self._most_telling[
            self._minibatch(self._step, schedule.minibatch, len(self._most_telling))
        ]

    def _minibatch(self, place: int | str, n_images: int, among: int | None = None) -> Tensor:
        generator = generator_for(self._seed, NAME, "minibatch", place)
        order = torch.randperm(among or len(self._spectra), generator=generator)
        return order[:n_images].to(self._spectra.device)

    def _geometry(self, radius: float) -> GridGeometry:
        return GridGeometry(box=self._spectra.disc.box, radius=radius, oversampling=OVERSAMPLING)

    def _random_densities(self) -> Tensor:
        geometry = self._geometry(min(self._config.start_radius, self._spectra.disc.radius))
        batch = self._spectra.batch(
            self._minibatch(self._step, self._config.minibatch), geometry.radius
        )
        generator = generator_for(self._seed, NAME, "start", len(self._finished))
        return random_densities(batch, geometry, self._mask, self._space.n_classes, generator)

    def _record(self, loss: Tensor, radius: float, sharing: float) -> EpochRecord:
        box_angstrom = self._spectra.disc.box * self._spectra.pixel_size_angstrom
        # A start may take more steps than are planned.
        n_steps = max(self._step, self._config.max_starts * self._config.iterations)
        if self._has_enough_starts():
            n_steps = self._step
        return EpochRecord(
            stage=NAME,
            epoch=self._step - 1,
            n_epochs=n_steps,
            images_total=len(loss),
            loss=float(loss.mean()),
            radius=radius,
            resolution_angstrom=box_angstrom / radius,
            effective_orientations=sharing,
        )


def _moved(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
