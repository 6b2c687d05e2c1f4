"""Stage 1 without a network: stochastic expectation maximisation over all orientations of a grid.

From a random volume, each step takes one minibatch, computes its exact posterior over the grid and
solves for the volume in closed form. The posterior is held broad by a temperature while the volume is
wrong, and the band limit grows.
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
    """Which poses are looked at."""

    shift_range_box: float = 0.0
    """Largest displacement, as a fraction of the box; 0: particles are centred."""
    group: SymmetryGroup = NO_SYMMETRY
    """One of those that it makes equal."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What one random start has come to."""

    density: Float[Tensor, "box box box"]
    loss: float
    """Mean squared residual per coefficient at the best orientations."""
    explained: float
    """How much smaller that is than without any density."""


class PosteriorSearch:
    """Finds a low-resolution density and the best grid orientation of every image."""

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
        self._statistics: SufficientStatistics | None = None
        self._density: Tensor | None = None
        self._finished: list[Start] = []

    def density(self) -> Float[Tensor, "box box box"]:
        """The density found so far; a random one before the first step."""
        if self._density is None:
            self._density = self._random_density()
        return self._density

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
        statistics = self._statistics
        return {
            "step": self._step,
            "density": self._density,
            "data": None if statistics is None else statistics.data,
            "weight": None if statistics is None else statistics.weight,
            "finished": [vars(start) for start in self._finished],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        device = self._spectra.device
        self._step = state["step"]
        self._density = None if state["density"] is None else state["density"].to(device)
        self._finished = [
            Start(**{**start, "density": start["density"].to(device)})
            for start in state["finished"]
        ]
        self._statistics = None
        if state["data"] is not None:
            self._statistics = SufficientStatistics(
                data=state["data"].to(device), weight=state["weight"].to(device)
            )

    def _iterate(self) -> EpochRecord:
        in_start = self._step % self._config.iterations
        way = min(1.0, in_start / max(1.0, ANNEALED_AT * self._config.iterations))
        radius = self._config.start_radius + way * (
            self._config.end_radius - self._config.start_radius
        )
        radius = min(radius, self._spectra.disc.radius)
        batch = self._spectra.batch(self._minibatch(self._step), radius)
        geometry = self._geometry(radius)
        grid = geometry.grid_of_density(self.density())
        slices = central_slices(grid, self._grid, batch.disc, OVERSAMPLING)
        sample = self._scores(batch.rows(slice(0, TEMPERATURE_SAMPLE)), slices, self._dtype)
        sharing = max(1.0, self._config.start_sharing / self._space.group.order)
        temperature = temperature_for(sample, sharing ** (1 - way))
        found = self._budget.until_it_fits(lambda: self._expect(batch, slices, temperature))
        self._maximise(found, batch, geometry)
        if self._spectra.noise.estimated:
            self._learn_noise(found, batch, slices)
        self._step += 1
        if in_start + 1 == self._config.iterations:
            self._finish_start()
        sharing = float(found.effective_orientations.median())
        return self._record(found.loss, radius, sharing)

    def _expect(self, batch: ParticleBatch, slices: Tensor, temperature: float) -> Expectation:
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
        """Score the density on images that are the same for every start; keep the best."""
        radius = min(self._config.end_radius, self._spectra.disc.radius)
        batch = self._spectra.batch(self._minibatch("score"), radius)
        grid = self._geometry(radius).grid_of_density(self.density())
        slices = central_slices(grid, self._grid, batch.disc, OVERSAMPLING)
        best = self._scores(batch, slices, torch.float32).max(dim=1).values
        loss = float(residual_of(batch, best).mean())
        nothing = float(batch.observed.square().mean())
        self._finished.append(Start(density=self.density(), loss=loss, explained=nothing - loss))
        self._density = self._statistics = None
        if self._has_enough_starts():
            self._density = min(self._finished, key=lambda start: start.loss).density

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
        statistics = SufficientStatistics.zeros(geometry, self._spectra.device)
        for rotation in rotations_off_grid(self._grid, self._space.group):
            statistics.add_slices(
                found.weighted_data, found.weight, rotation, batch.disc, OVERSAMPLING
            )
        statistics = sum_on_grid(statistics, self._space.group)
        if self._statistics is not None:
            before = self._statistics.scaled(self._config.memory)
            statistics += SufficientStatistics(
                data=resize_centred(before.data, geometry.side, 3),
                weight=resize_centred(before.weight, geometry.side, 3),
            )
        self._statistics = statistics
        self._density = solve_lightly(statistics, geometry) * self._mask

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

    def _random_density(self) -> Tensor:
        """Noise in the mask, low-passed, as strong as the images at random poses make a map."""
        generator = generator_for(self._seed, NAME, "start", len(self._finished))
        geometry = self._geometry(min(self._config.start_radius, self._spectra.disc.radius))
        batch = self._spectra.batch(self._minibatch(self._step), geometry.radius)
        statistics = SufficientStatistics.zeros(geometry, self._spectra.device)
        rotation = random_rotations(len(batch.index), generator).to(self._spectra.device)
        statistics.add_images(batch, rotation, OVERSAMPLING)
        blurred = solve_lightly(statistics, geometry) * self._mask
        noise = torch.randn(blurred.shape, generator=generator).to(blurred.device) * self._mask
        smooth = geometry.density_of_grid(geometry.grid_of_density(noise))
        return smooth * (blurred.std() / smooth.std())

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
