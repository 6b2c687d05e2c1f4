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

from cryogimbal.errors import InputError
from cryogimbal.fourier.resample import resize_centred
from cryogimbal.imaging.backprojection import (
    SufficientStatistics,
    mean_weight_per_shell,
    solve_density,
)
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.slices import central_slices
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.config import PosteriorConfig
from cryogimbal.inference.posterior import (
    Expectation,
    expectation,
    log_likelihoods,
    most_probable,
    temperature_for,
)
from cryogimbal.inference.records import EpochRecord
from cryogimbal.inference.seeding import generator_for
from cryogimbal.rotations import random_rotations, rotation_grid

NAME = "posterior_search"

# At the few cycles per box of this stage an unpadded grid is exact enough, and eight times smaller.
OVERSAMPLING = 1
# Images of a minibatch from which its temperature is found.
TEMPERATURE_SAMPLE = 200
# Fraction of the steps after which band limit and temperature have reached their ends.
ANNEALED_AT = 0.8
# Prior weight as a fraction of the mean weight: damps directions that no image has covered.
PRIOR_FRACTION = 0.05


@dataclass(frozen=True, kw_only=True)
class Start:
    """What one random start has come to."""

    density: Float[Tensor, "box box box"]
    loss: float
    """Mean squared residual per coefficient at the best orientations."""


class PosteriorSearch:
    """Finds a low-resolution density and the best grid orientation of every image."""

    name = NAME

    def __init__(
        self,
        spectra: ParticleSpectra,
        mask: Float[Tensor, "box box box"],
        config: PosteriorConfig,
        seed: int,
    ) -> None:
        self._spectra = spectra
        self._mask = mask
        self._config = config
        self._seed = seed
        self._grid = rotation_grid(config.n_side).to(spectra.device)
        self._n_random_steps = config.starts * config.iterations
        self._n_steps = self._n_random_steps + len(config.final_radii) - 1
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
        while self._step < self._n_random_steps:
            yield self._iterate()
        while self._step < self._n_steps:
            yield self._sharpen(self._step - self._n_random_steps)

    def reason(self) -> str:
        """Why the stage ended."""
        losses = ", ".join(f"{start.loss:.4f}" for start in self._finished)
        return (
            f"{self._config.starts} random starts are done, with losses {losses}, and the best "
            f"one's map holds {self._config.final_radii[-1]:g} cycles per box"
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything."""
        statistics = self._statistics
        return {
            "step": self._step,
            "density": self._density,
            "data": None if statistics is None else statistics.data,
            "weight": None if statistics is None else statistics.weight,
            "finished": [{"density": s.density, "loss": s.loss} for s in self._finished],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        device = self._spectra.device
        self._step = state["step"]
        self._density = None if state["density"] is None else state["density"].to(device)
        self._finished = [
            Start(density=start["density"].to(device), loss=start["loss"])
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
        sample = log_likelihoods(batch.rows(slice(0, TEMPERATURE_SAMPLE)), slices)
        temperature = temperature_for(sample, self._config.start_sharing ** (1 - way))
        found = expectation(batch, slices, temperature=temperature, tile=self._config.tile)
        self._maximise(found, batch, geometry)
        self._step += 1
        if in_start + 1 == self._config.iterations:
            self._finish_start()
        sharing = float(found.effective_orientations.median())
        return self._record(found.loss, radius, sharing)

    def _finish_start(self) -> None:
        """Score the density on images that are the same for every start; keep the best."""
        index = self._minibatch("score")
        radius = min(self._config.end_radius, self._spectra.disc.radius)
        geometry = self._geometry(radius)
        batch = self._spectra.batch(index, radius)
        grid = geometry.grid_of_density(self.density())
        slices = central_slices(grid, self._grid, batch.disc, OVERSAMPLING)
        losses = [
            most_probable(batch.rows(slice(first, first + self._config.tile)), slices)[1]
            for first in range(0, len(index), self._config.tile)
        ]
        loss = float(torch.cat(losses).mean())
        self._finished.append(Start(density=self.density(), loss=loss))
        self._density = self._statistics = None
        if len(self._finished) == self._config.starts:
            self._density = min(self._finished, key=lambda start: start.loss).density

    def _sharpen(self, number: int) -> EpochRecord:
        """Best orientation of every image on the fine grid, and a map of all images from them."""
        radii = [min(radius, self._spectra.disc.radius) for radius in self._config.final_radii]
        rotation, loss = search_poses(self._spectra, self.density(), self._config, radii[number])
        geometry = self._geometry(radii[number + 1])
        density = density_of_poses(self._spectra, rotation, geometry, self._config.tile)
        self._density = density * self._mask
        self._step += 1
        return self._record(loss, radii[number], None)

    def _maximise(self, found: Expectation, batch: ParticleBatch, geometry: GridGeometry) -> None:
        """Fade what earlier minibatches said, add this one, and solve."""
        statistics = SufficientStatistics.zeros(geometry, self._spectra.device)
        if self._statistics is not None:
            before = self._statistics.scaled(self._config.memory)
            statistics = SufficientStatistics(
                data=resize_centred(before.data, geometry.side, 3),
                weight=resize_centred(before.weight, geometry.side, 3),
            )
        statistics.add_slices(
            found.weighted_data, found.weight, self._grid, batch.disc, OVERSAMPLING
        )
        self._statistics = statistics
        self._density = solve_lightly(statistics, geometry) * self._mask

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

    def _record(self, loss: Tensor, radius: float, sharing: float | None) -> EpochRecord:
        box_angstrom = self._spectra.disc.box * self._spectra.pixel_size_angstrom
        return EpochRecord(
            stage=NAME,
            epoch=self._step - 1,
            n_epochs=self._n_steps,
            images_total=len(loss),
            loss=float(loss.mean()),
            radius=radius,
            resolution_angstrom=box_angstrom / radius,
            effective_orientations=sharing,
        )


def solve_lightly(
    statistics: SufficientStatistics, geometry: GridGeometry
) -> Float[Tensor, "box box box"]:
    """Division with the same small prior in every shell."""
    mean = mean_weight_per_shell(statistics, geometry).mean()
    return solve_density(statistics, geometry, (PRIOR_FRACTION * mean)[None])


def density_of_poses(
    spectra: ParticleSpectra,
    rotation: Float[Tensor, "particle 3 3"],
    geometry: GridGeometry,
    tile: int,
) -> Float[Tensor, "box box box"]:
    """Back-projection of all images at given poses, up to the geometry's radius."""
    statistics = SufficientStatistics.zeros(geometry, spectra.device)
    for index in _tiles(spectra, tile):
        batch = spectra.batch(index, geometry.radius)
        statistics.add_images(batch, rotation[index], geometry.oversampling)
    return solve_lightly(statistics, geometry)


def search_poses(
    spectra: ParticleSpectra,
    density: Float[Tensor, "box box box"],
    config: PosteriorConfig,
    radius: float,
) -> tuple[Float[Tensor, "particle 3 3"], Float[Tensor, " particle"]]:
    """For every image the most probable orientation of the finer grid, and its residual.

    ``radius`` is the band limit in cycles per box.
    """
    radius = min(radius, spectra.disc.radius)
    geometry = GridGeometry(box=spectra.disc.box, radius=radius, oversampling=OVERSAMPLING)
    orientations = rotation_grid(config.final_n_side).to(spectra.device)
    disc = spectra.disc.truncate(radius)
    slices = central_slices(geometry.grid_of_density(density), orientations, disc, OVERSAMPLING)
    best, loss = [], []
    for index in _tiles(spectra, config.tile):
        found = most_probable(spectra.batch(index, radius), slices)
        best.append(found[0])
        loss.append(found[1])
    return orientations[torch.cat(best)], torch.cat(loss)


def _tiles(spectra: ParticleSpectra, size: int) -> tuple[Tensor, ...]:
    return torch.arange(len(spectra), device=spectra.device).split(size)


def scaled_to_images(
    spectra: ParticleSpectra, density: Float[Tensor, "box box box"], config: PosteriorConfig
) -> Float[Tensor, "box box box"]:
    """A density of unknown scale, made as strong as the images' power above the noise.

    Up to the search's band limit, ``scale^2 sum <C^2> <S^2> = sum (<H^2> - 1)`` with means over images
    and over all orientations.

    Raises
    ------
    InputError
        If the images have no power above the noise there, or the density is empty.
    """
    radius = min(config.end_radius, spectra.disc.radius)
    geometry = GridGeometry(box=spectra.disc.box, radius=radius, oversampling=OVERSAMPLING)
    step = max(1, len(spectra) // config.minibatch)
    batch = spectra.batch(torch.arange(0, len(spectra), step, device=spectra.device), radius)
    orientations = rotation_grid(config.n_side).to(spectra.device)
    grid = geometry.grid_of_density(density)
    slices = central_slices(grid, orientations, batch.disc, OVERSAMPLING)
    signal = float((batch.observed.square().mean(0) - 1).sum())
    model = float((batch.ctf.square().mean(0) * slices.square().mean(0)).sum())
    if signal <= 0 or model <= 0:
        raise InputError(
            "the strength of the initial map cannot be matched to the images: expected power above "
            f"the noise in both, found {signal:.3g} in the images and {model:.3g} in the map; "
            "check --particle-diameter (it decides what counts as noise) and the map"
        )
    return density * (signal / model) ** 0.5
