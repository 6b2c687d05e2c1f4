"""Stage 1 without a network: stochastic expectation maximisation over all orientations of a grid.

From a random volume, each step takes one minibatch, computes its exact posterior over the grid and
solves for the volume in closed form. The posterior is held broad by a temperature while the volume is
wrong, and the band limit grows.

Several structures are as many volumes, each from a random one of its own: an orientation of one class is
one more row that shares an image with all others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.fourier.resample import resize_centred
from cryogimbal.imaging.backprojection import SufficientStatistics
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.noise import shell_mean
from cryogimbal.imaging.shift_search import shift_grid
from cryogimbal.imaging.slices import central_slices
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.symmetrisation import rotations_off_grid, sum_on_grid
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.config import PosteriorConfig
from cryogimbal.inference.grid_search import OVERSAMPLING, solve_lightly
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
from cryogimbal.inference.records import EpochRecord
from cryogimbal.inference.seeding import generator_for
from cryogimbal.rotations import random_rotations, rotation_grid
from cryogimbal.symmetry import NO_SYMMETRY, SymmetryGroup, in_asymmetric_unit

NAME = "posterior_search"

# Images of a minibatch from which its temperature is found.
TEMPERATURE_SAMPLE = 200
# Fraction of the steps after which band limit and temperature have reached their ends.
ANNEALED_AT = 0.8


@dataclass(frozen=True, kw_only=True)
class PoseSpace:
    """What an image may show."""

    n_classes: int = 1
    """Structures; each has all the poses."""
    shift_range_box: float = 0.0
    """Largest displacement, as a fraction of the box; 0: particles are centred."""
    group: SymmetryGroup = NO_SYMMETRY
    """One of those that it makes equal."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What one random start has come to."""

    densities: Float[Tensor, "class box box box"]
    loss: float
    """Mean squared residual per coefficient at the best orientations."""
    explained: float
    """How much smaller that is than without any density."""


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
        grid = rotation_grid(config.n_side)
        self._grid = grid[in_asymmetric_unit(grid, self._space.group)].to(spectra.device)
        self._dtype = fast_dtype(spectra.device)
        self._budget = budget or MemoryBudget.of_mebibytes(config.memory_mib)
        self._step = 0
        self._statistics: list[SufficientStatistics] = []
        self._densities: Tensor | None = None
        self._finished: list[Start] = []

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
        n, radius = len(self._finished), self._config.end_radius
        if n == 1:
            verdict = "the only random start"
        elif self._two_best_agree():
            verdict = f"the two best of {n} random starts agree, the better one"
        else:
            verdict = f"no two of {n} random starts agree, the best one (be wary of the map)"
        loss = min(start.loss for start in self._finished)
        return f"{verdict} goes on with loss {loss:.4f} and a map up to {radius:g} cycles per box"

    def state_dict(self) -> dict[str, Any]:
        """Everything."""
        return {
            "step": self._step,
            "densities": self._densities,
            "statistics": [(one.data, one.weight) for one in self._statistics],
            "finished": [vars(start) for start in self._finished],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        device = self._spectra.device
        self._step = state["step"]
        densities = state["densities"]
        self._densities = None if densities is None else densities.to(device)
        self._finished = [
            Start(**{**start, "densities": start["densities"].to(device)})
            for start in state["finished"]
        ]
        self._statistics = [
            SufficientStatistics(data=data.to(device), weight=weight.to(device))
            for data, weight in state["statistics"]
        ]

    def _iterate(self) -> EpochRecord:
        in_start = self._step % self._config.iterations
        way = min(1.0, in_start / max(1.0, ANNEALED_AT * self._config.iterations))
        radius = self._config.start_radius + way * (
            self._config.end_radius - self._config.start_radius
        )
        radius = min(radius, self._spectra.disc.radius)
        batch = self._spectra.batch(self._minibatch(self._step), radius)
        geometry = self._geometry(radius)
        slices = self._slices(batch, geometry)
        sample = self._scores(batch.rows(slice(0, TEMPERATURE_SAMPLE)), slices, self._dtype)
        sharing = max(1.0, self._config.start_sharing / self._space.group.order)
        temperature = temperature_for(sample, sharing ** (1 - way))
        prior = self._class_prior(sample, temperature)
        found = self._budget.until_it_fits(lambda: self._expect(batch, slices, temperature, prior))
        self._maximise(found, batch, geometry)
        if self._spectra.noise.estimated:
            self._learn_noise(found, batch, slices)
        self._step += 1
        if in_start + 1 == self._config.iterations:
            self._finish_start()
        sharing = float(found.effective_orientations.median())
        return self._record(found.loss, radius, sharing)

    def _slices(
        self, batch: ParticleBatch, geometry: GridGeometry
    ) -> Float[Tensor, "class_orientation coefficient"]:
        """Of every class at every orientation, one class after the other."""
        parts = [
            central_slices(geometry.grid_of_density(density), self._grid, batch.disc, OVERSAMPLING)
            for density in self.densities()
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
        shifts = self._shifts(batch)
        n_shifts = 1 if shifts is None else len(shifts)
        n_orientations, n_coefficients = slices.shape
        at_once = self._budget.images_at_once(
            len(batch.index), n_orientations, n_coefficients, n_shifts
        )
        parts = [
            expectation(
                batch.rows(slice(first, first + at_once)),
                slices,
                temperature=temperature,
                log_prior=log_prior,
                shifts=shifts,
                dtype=self._dtype,
            )
            for first in range(0, len(batch.index), at_once)
        ]
        return joined(parts)

    def _shifts(self, batch: ParticleBatch) -> Float[Tensor, "shift 2"] | None:
        """Displacements to be compared at a batch's band limit; none: centred."""
        if self._space.shift_range_box == 0:
            return None
        return shift_grid(self._space.shift_range_box, batch.disc.radius).to(batch.observed.device)

    def _scores(self, batch: ParticleBatch, slices: Tensor, dtype: torch.dtype) -> Tensor:
        return log_likelihoods(batch, slices, shifts=self._shifts(batch), dtype=dtype)

    def _finish_start(self) -> None:
        """Score the densities on images that are the same for every start; keep the best."""
        radius = min(self._config.end_radius, self._spectra.disc.radius)
        batch = self._spectra.batch(self._minibatch("score"), radius)
        slices = self._slices(batch, self._geometry(radius))
        best = self._scores(batch, slices, torch.float32).max(dim=1).values
        loss = float(residual_of(batch, best).mean())
        nothing = float(batch.observed.square().mean())
        self._finished.append(
            Start(densities=self.densities(), loss=loss, explained=nothing - loss)
        )
        self._densities, self._statistics = None, []
        if self._has_enough_starts():
            self._densities = min(self._finished, key=lambda start: start.loss).densities

    def _has_enough_starts(self) -> bool:
        return len(self._finished) == self._config.max_starts or self._two_best_agree()

    def _two_best_agree(self) -> bool:
        """Whether the best start has been reached twice: a wrong one seldom is."""
        explained = sorted((start.explained for start in self._finished), reverse=True)
        if len(explained) < 2:
            return False
        return explained[0] - explained[1] < self._config.agreement * explained[0]

    def _maximise(self, found: Expectation, batch: ParticleBatch, geometry: GridGeometry) -> None:
        """Fade what earlier minibatches said, add this one, and solve."""
        parts = zip(
            found.weighted_data.split(len(self._grid)),
            found.weight.split(len(self._grid)),
            strict=True,
        )
        statistics = []
        for number, (data, weight) in enumerate(parts):
            one = SufficientStatistics.zeros(geometry, self._spectra.device)
            for rotation in rotations_off_grid(self._grid, self._space.group):
                one.add_slices(data, weight, rotation, batch.disc, OVERSAMPLING)
            one = sum_on_grid(one, self._space.group)
            if self._statistics:
                before = self._statistics[number].scaled(self._config.memory)
                one += SufficientStatistics(
                    data=resize_centred(before.data, geometry.side, 3),
                    weight=resize_centred(before.weight, geometry.side, 3),
                )
            statistics.append(one)
        self._statistics = statistics
        self._densities = torch.stack(
            [solve_lightly(one, geometry) * self._mask for one in statistics]
        )

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
        variance[:, :n_shells] *= ratio ** (1 - self._config.memory)
        noise.enter(variance)

    def _minibatch(self, place: int | str) -> Tensor:
        generator = generator_for(self._seed, NAME, "minibatch", place)
        order = torch.randperm(len(self._spectra), generator=generator)
        return order[: self._config.minibatch].to(self._spectra.device)

    def _geometry(self, radius: float) -> GridGeometry:
        return GridGeometry(box=self._spectra.disc.box, radius=radius, oversampling=OVERSAMPLING)

    def _random_densities(self) -> Tensor:
        """Noise in the mask for each class, low-passed, as strong as a map of images at random poses."""
        generator = generator_for(self._seed, NAME, "start", len(self._finished))
        geometry = self._geometry(min(self._config.start_radius, self._spectra.disc.radius))
        batch = self._spectra.batch(self._minibatch(self._step), geometry.radius)
        statistics = SufficientStatistics.zeros(geometry, self._spectra.device)
        rotation = random_rotations(len(batch.index), generator).to(self._spectra.device)
        statistics.add_images(batch, rotation, OVERSAMPLING)
        blurred = solve_lightly(statistics, geometry) * self._mask
        found = []
        for _ in range(self._space.n_classes):
            noise = torch.randn(blurred.shape, generator=generator).to(blurred.device) * self._mask
            smooth = geometry.density_of_grid(geometry.grid_of_density(noise))
            found.append(smooth * (blurred.std() / smooth.std()))
        return torch.stack(found)

    def _record(self, loss: Tensor, radius: float, sharing: float) -> EpochRecord:
        box_angstrom = self._spectra.disc.box * self._spectra.pixel_size_angstrom
        n_steps = self._config.max_starts * self._config.iterations
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
