"""The whole way from images to poses and density. Reads like the method section.

Stage 1 finds poses from nothing (by the posterior or the encoder) or is skipped where a map or poses
are given; stage 2 moves every pose directly. The run yields a record after every step and can be
stopped, saved and continued after any of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.evaluation.fsc import FscCurve
from cryogimbal.evaluation.masks import soft_sphere_mask
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import (
    GridGeometry,
    HartleyVolume,
    Interpolation,
    interpolate_factors,
    interpolate_product,
)
from cryogimbal.inference.auto_decoding import AutoDecoding
from cryogimbal.inference.auto_encoding import AutoEncoding, best_encoder_poses
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.encoder import PoseEncoder, initialise
from cryogimbal.inference.grid_search import density_of_poses, scaled_to_images
from cryogimbal.inference.loss import residual_named
from cryogimbal.inference.memory_budget import MemoryBudget
from cryogimbal.inference.mode_search import ModeSearch, find_modes
from cryogimbal.inference.pose_steps import AdamSteps, GaussNewtonSteps, PoseSteps
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.inference.posterior_search import PosteriorSearch
from cryogimbal.inference.records import Record, SwitchRecord
from cryogimbal.inference.rescue import OutlierSearch
from cryogimbal.inference.seeding import generator_for
from cryogimbal.inference.volume_update import (
    AdamVolumeUpdate,
    ClosedFormVolumeUpdate,
    VolumeUpdate,
)

# Without a known diameter the mask is this fraction of the box, which leaves only the corners out.
DEFAULT_MASK_FRACTION = 0.9
MASK_EDGE_VOXELS = 3.0
INTERPOLATIONS: dict[str, Interpolation] = {
    "product": interpolate_product,
    "factored": interpolate_factors,
}


@runtime_checkable
class Stage(Protocol):
    """A part of the run with its own records."""

    name: str

    def records(self) -> Iterator[Any]:
        """From where the stage stands to its end."""
        ...

    def reason(self) -> str:
        """Why the stage ended."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        ...


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """What is known beforehand; whatever is given replaces the search for it."""

    density: Float[Tensor, "box box box"] | None = None
    """At the working box, in any scale."""
    rotation: Float[Tensor, "particle 3 3"] | None = None


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """What a finished run has found."""

    rotation: Float[Tensor, "particle 3 3"]
    density: DensityMap
    half_map_fsc: FscCurve | None


class ReconstructionRun:
    """A reconstruction under way."""

    def __init__(
        self, spectra: ParticleSpectra, config: ReconstructionConfig, start: StartingPoint
    ) -> None:
        self._spectra = spectra
        self._config = config
        self._mask = _mask(spectra, config).to(spectra.device)
        self._volume = self._decoding_volume()
        self._stage = self._first_stage(start)

    def records(self) -> Iterator[Record]:
        """Run to the end, one record at a time."""
        while True:
            yield from self._stage.records()
            if isinstance(self._stage, AutoDecoding):
                return
            ended, self._stage = self._stage, self._hand_over(self._stage)
            yield SwitchRecord(
                from_stage=ended.name, to_stage=self._stage.name, reason=ended.reason()
            )

    def result(self) -> Reconstruction:
        """Poses and density of a run that has reached its end.

        Raises
        ------
        RuntimeError
            If the run has not reached auto-decoding.
        """
        if not isinstance(self._stage, AutoDecoding):
            raise RuntimeError(f"the run is still in {self._stage.name}")
        return Reconstruction(
            rotation=self._stage.table.best().cpu(),
            density=DensityMap(
                values=self._volume.density().cpu(),
                voxel_size_angstrom=self._spectra.pixel_size_angstrom,
            ),
            half_map_fsc=self._stage.update.half_map_fsc,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later :meth:`load_state_dict` needs to go on bit by bit."""
        return {
            "stage": self._stage.name,
            "volume": self._volume.state_dict(),
            "state": self._stage.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint of a run with the same images and options."""
        if state["stage"] == AutoDecoding.name:
            self._volume = self._decoding_volume()
            self._stage = self._auto_decoding(self._blank_table(state["state"]["table"]))
        self._volume.load_state_dict(state["volume"])
        self._stage.load_state_dict(state["state"])

    def _first_stage(self, start: StartingPoint) -> Stage:
        config, density = self._config.posterior, start.density
        if density is not None:
            density = scaled_to_images(self._spectra, density, config)
        if start.rotation is not None:
            rotation = start.rotation.to(self._spectra.device)
            self._enter(self._density_of_poses(rotation) if density is None else density)
            return self._auto_decoding(PoseTable.starting_at(rotation))
        if density is not None:
            self._enter(density)
            return self._auto_decoding(self._table_of_modes(density))
        searched = self._spectra.subset(self._searched_particles())
        if self._config.start == "encoder":
            return self._auto_encoding(searched)
        return PosteriorSearch(searched, self._mask, self._config.posterior, self._config.seed)

    def _hand_over(self, stage: Stage) -> AutoDecoding:
        """From the stage that proposed poses to the table that holds one per image."""
        if isinstance(stage, AutoEncoding):
            rotation = best_encoder_poses(
                stage.encoder, self._volume, self._spectra, self._config.auto_encoding
            )
            following = self._decoding_volume()
            if following.geometry != self._volume.geometry:
                density, self._volume = self._volume.density(), following
                self._enter(density)
            return self._auto_decoding(PoseTable.starting_at(rotation))
        assert isinstance(stage, PosteriorSearch)
        self._enter(stage.density())
        return self._auto_decoding(self._table_of_modes(stage.density()))

    def _table_of_modes(self, density: Float[Tensor, "box box box"]) -> PoseTable:
        """The best poses of every image, each a mode of its posterior."""
        config = self._config.posterior
        search = ModeSearch(
            radius=config.end_radius,
            n_side=config.mode_n_side,
            n_modes=self._config.auto_decoding.hypotheses,
        )
        budget = MemoryBudget.of_mebibytes(config.memory_mib)
        modes = find_modes(self._spectra, density, search, budget)
        return PoseTable.of_residuals(modes.rotation, modes.residual)

    def _blank_table(self, state: dict[str, Tensor]) -> PoseTable:
        """A table of the size of one that was saved."""
        device = self._spectra.device
        return PoseTable(
            rotation=torch.zeros_like(state["rotation"], device=device),
            weight=torch.zeros_like(state["weight"], device=device),
        )

    def _auto_encoding(self, searched: ParticleSpectra) -> AutoEncoding:
        config = self._config.auto_encoding
        # The learnable grid needs to reach no further than the stage's band limit ever will.
        self._volume = self._new_volume(
            config.band.radius(config.epochs, searched.disc.radius),
            self._config.volume.encoding_oversampling,
        )
        self._volume.randomise(
            generator_for(self._config.seed, "random volume"),
            amplitude=self._config.volume.start_amplitude,
            exponent_sd=self._config.volume.start_exponent_sd,
        )
        box = min(self._config.encoder.input_box or searched.disc.box, searched.disc.box)
        encoder = PoseEncoder(self._config.encoder, box)
        initialise(encoder, generator_for(self._config.seed, "encoder"))
        return AutoEncoding(
            searched, encoder.to(searched.device), self._volume, config, self._config.seed
        )

    def _auto_decoding(self, table: PoseTable) -> AutoDecoding:
        config = self._config.auto_decoding
        return AutoDecoding(
            self._spectra,
            table,
            self._pose_steps(table),
            self._volume_update(table),
            config,
            self._config.seed,
        )

    def _pose_steps(self, table: PoseTable) -> PoseSteps:
        config, pixel_size = self._config.auto_decoding, self._spectra.pixel_size_angstrom
        if config.optimiser == "adam":
            return AdamSteps(table, config.pose_steps, residual_named(config.loss), pixel_size)
        outliers = OutlierSearch(self._spectra, self._volume, self._config.posterior)
        return GaussNewtonSteps(table, config.pose_steps, outliers)

    def _volume_update(self, table: PoseTable) -> VolumeUpdate:
        config, pixel_size = self._config.auto_decoding, self._spectra.pixel_size_angstrom
        if config.volume_step == "adam":
            residual = residual_named(config.loss)
            return AdamVolumeUpdate(self._volume, config.volume_rate, residual, pixel_size)
        generator = generator_for(self._config.seed, "half-sets")
        half = torch.randperm(len(self._spectra), generator=generator) % 2
        return ClosedFormVolumeUpdate(
            self._volume, self._spectra, table, half.to(self._spectra.device), self._mask
        )

    def _decoding_volume(self) -> HartleyVolume:
        return self._new_volume(self._spectra.disc.radius, self._config.volume.oversampling)

    def _new_volume(self, radius: float, oversampling: int) -> HartleyVolume:
        geometry = GridGeometry(
            box=self._spectra.disc.box, radius=radius, oversampling=oversampling
        )
        interpolation = INTERPOLATIONS[self._config.volume.interpolation]
        return HartleyVolume(geometry, interpolation).to(self._spectra.device)

    def _enter(self, density: Float[Tensor, "box box box"]) -> None:
        """Let the volume hold a density found elsewhere."""
        self._volume.set_spectrum(self._volume.geometry.grid_of_density(density))

    def _density_of_poses(
        self, rotation: Float[Tensor, "particle 3 3"]
    ) -> Float[Tensor, "box box box"]:
        """Map of all images at given poses, up to the first band limit of stage 2."""
        radius = self._config.auto_decoding.band.radius(0, self._spectra.disc.radius)
        geometry = replace(self._volume.geometry, radius=radius)
        tile = self._config.auto_decoding.batch_size
        return density_of_poses(self._spectra, rotation, geometry, tile) * self._mask

    def _searched_particles(self) -> Int[Tensor, " particle"]:
        n = len(self._spectra)
        order = torch.randperm(n, generator=generator_for(self._config.seed, "subset"))
        chosen = order[: self._config.max_particles or n].sort().values
        return chosen.to(self._spectra.device)


def _mask(spectra: ParticleSpectra, config: ReconstructionConfig) -> Float[Tensor, "box box box"]:
    pixel_size = spectra.pixel_size_angstrom
    diameter = config.particle_diameter or DEFAULT_MASK_FRACTION * spectra.disc.box * pixel_size
    return soft_sphere_mask(
        spectra.disc.box,
        pixel_size,
        diameter_angstrom=diameter,
        edge_angstrom=MASK_EDGE_VOXELS * pixel_size,
    )
