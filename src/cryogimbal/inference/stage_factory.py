"""Stages and what they need, made from the options of a run."""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.confidence import Confidence
from cryogimbal.evaluation.masks import soft_sphere_mask
from cryogimbal.imaging.signal_power import power_above_noise
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.volume import (
    GridGeometry,
    HartleyVolume,
    Interpolation,
    interpolate_factors,
    interpolate_product,
)
from cryogimbal.inference.auto_decoding import AutoDecoding, Closing
from cryogimbal.inference.auto_encoding import AutoEncoding
from cryogimbal.inference.centring import centres_from_density
from cryogimbal.inference.class_sorting import ClassSorting
from cryogimbal.inference.confidence import measure_confidence
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.config_stages import BandConfig
from cryogimbal.inference.encoder import PoseEncoder, initialise
from cryogimbal.inference.grid_search import density_of_poses
from cryogimbal.inference.head_training import HeadTraining, RenderedPoses, new_row_encoder
from cryogimbal.inference.loss import residual_named
from cryogimbal.inference.memory_budget import MemoryBudget
from cryogimbal.inference.mode_search import ModeSearch, find_modes
from cryogimbal.inference.pose_inference import centring_by_mean_slice
from cryogimbal.inference.pose_steps import AdamSteps, GaussNewtonSteps, PoseSteps
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.inference.posterior_search import PoseSpace, PosteriorSearch
from cryogimbal.inference.rescue import OutlierSearch
from cryogimbal.inference.row_encoder import (
    RowEncoder,
    initialise_row_encoder,
)
from cryogimbal.inference.seeding import generator_for
from cryogimbal.inference.volume_update import (
    AdamVolumeUpdate,
    ClosedFormVolumeUpdate,
    VolumeUpdate,
)
from cryogimbal.symmetry import NO_SYMMETRY, SymmetryGroup

# Without a known diameter the mask is this fraction of the box, which leaves only the corners out.
DEFAULT_MASK_FRACTION = 0.9
MASK_EDGE_VOXELS = 3.0
# Passes at the full band limit in which the encoder's proposals are compared with the poses found.
CLOSING_EPOCHS = 2
# A first map needs most particles, poses are wanted of all.
FIRST_SEARCH_DEVIATIONS, SEARCH_DEVIATIONS = 2.0, 3.0
# A search of outliers needs no more than this to tell modes apart (cycles per box).
RESCUE_RADIUS = 14.0
# Standard deviation of a normal distribution over its median absolute deviation.
NORMAL_OVER_MAD = 1.4826
Decoding = TypeVar("Decoding", bound=AutoDecoding)
INTERPOLATIONS: dict[str, Interpolation] = {
    "product": interpolate_product,
    "factored": interpolate_factors,
}


@dataclass(frozen=True, kw_only=True)
class StageFactory:
    """Makes the stages of one run."""

    spectra: ParticleSpectra
    config: ReconstructionConfig
    budget: MemoryBudget
    group: SymmetryGroup = NO_SYMMETRY
    """Imposed on the particle, whose axes are the frame's."""

    def mask(self) -> Float[Tensor, "box box box"]:
        """Soft sphere that the particle is taken to lie in."""
        pixel_size = self.spectra.pixel_size_angstrom
        box = self.spectra.disc.box
        diameter = self.config.particle_diameter or DEFAULT_MASK_FRACTION * box * pixel_size
        mask = soft_sphere_mask(
            box,
            pixel_size,
            diameter_angstrom=diameter,
            edge_angstrom=MASK_EDGE_VOXELS * pixel_size,
        )
        return mask.to(self.spectra.device)

    def volume(self, radius: float, oversampling: int) -> HartleyVolume:
        """An empty volume that slices up to a band limit."""
        geometry = GridGeometry(box=self.spectra.disc.box, radius=radius, oversampling=oversampling)
        interpolation = INTERPOLATIONS[self.config.volume.interpolation]
        return HartleyVolume(geometry, interpolation).to(self.spectra.device)

    def decoding_volume(self) -> HartleyVolume:
        """The volume of stage 2."""
        return self.volume(self.spectra.disc.radius, self.config.volume.oversampling)

    def encoding_volume(self) -> HartleyVolume:
        """The random volume of stage 1; it reaches no further than the band limit ever will."""
        config = self.config.auto_encoding
        volume = self.volume(
            config.band.radius(config.epochs, self.spectra.disc.radius),
            self.config.volume.encoding_oversampling,
        )
        volume.randomise(
            generator_for(self.config.seed, "random volume"),
            amplitude=self.config.volume.start_amplitude,
            exponent_sd=self.config.volume.start_exponent_sd,
        )
        return volume

    def posterior_search(self) -> PosteriorSearch:
        """The start by expectation maximisation."""
        config, seed = self.config.posterior, self.config.seed
        return PosteriorSearch(
            self._searched(),
            self.mask(),
            config,
            seed,
            budget=self.budget,
            space=PoseSpace(
                n_classes=self.config.n_classes,
                shift_range_box=self._shift_range_box(FIRST_SEARCH_DEVIATIONS),
                group=self.group,
            ),
        )

    def class_sorting(self, densities: Float[Tensor, "class box box box"]) -> ClassSorting:
        """Which class each image belongs to, from first densities of all."""
        config = self.config.posterior
        search = replace(self._mode_search(config.end_radius), n_side=config.n_side)
        return ClassSorting(self.spectra, densities, self.mask(), search, self.budget)

    def auto_encoding(self, volume: HartleyVolume) -> AutoEncoding:
        """The start by the encoder."""
        searched = self._searched()
        networks = {"rows": self._row_encoder, "vgg16": self._convolutional_encoder}
        encoder = networks[self.config.auto_encoding.network](searched)
        return AutoEncoding(
            searched,
            encoder,
            volume,
            self.config.auto_encoding,
            self.config.seed,
            shift_range_box=self.config.shift_range_box,
        )

    def auto_decoding(self, table: PoseTable, volume: HartleyVolume) -> AutoDecoding:
        """Stage 2 from a table of poses."""
        return self._decoding(AutoDecoding, table, volume)

    def closing(self, table: PoseTable, volume: HartleyVolume) -> Closing:
        """The end of stage 2 once more, after poses have been challenged."""
        # So few passes leave hardly two likelihoods to compare.
        config = replace(
            self.config.auto_decoding, epochs=CLOSING_EPOCHS, extra_epochs=0, band=BandConfig()
        )
        factory = replace(self, config=replace(self.config, auto_decoding=config))
        return factory._decoding(Closing, table, volume)

    def head_training(
        self, density: Float[Tensor, "box box box"], table: PoseTable
    ) -> HeadTraining:
        """Teaching an encoder from a map in the scale of the images, centred as well as they can be."""
        encoder = new_row_encoder(self.config.row_encoder, self.spectra, density, self.config.seed)
        return HeadTraining(
            self.spectra,
            encoder,
            density,
            self.config.head_training,
            self.config.seed,
            RenderedPoses(
                centring_error_box=self._centring_error_box(encoder, density, table),
                group=self.group,
            ),
        )

    def table_of_modes(self, density: Float[Tensor, "box box box"], radius: float) -> PoseTable:
        """The best poses of every image up to a band limit, each a mode of its posterior.

        Beyond the usual band limit displacements are so many that they are looked for around where
        each particle is found on the coarse grid of the search.
        """
        search, usual = self._mode_search(radius), self.config.posterior.end_radius
        centres = None
        if search.shift_range_box > 0 and radius > usual:
            coarse = replace(search, n_side=self.config.posterior.n_side)
            centres = centres_from_density(self.spectra, density, coarse, self.budget)
            deviation = float(centres.variance_box2.mean().sqrt())
            nearby = min(search.shift_range_box, SEARCH_DEVIATIONS * deviation)
            search = replace(search, shift_range_box=nearby)
        modes = find_modes(self.spectra, density, search, self.budget, centres)
        return PoseTable.of_modes(modes)

    def confidence(self, table: PoseTable) -> Confidence | None:
        """How far the poses of a table may be off, and which images are particles."""
        return measure_confidence(self.spectra, table, self.mask(), self.group, self.config.seed)

    def density_of_poses(
        self, table: PoseTable, volume: HartleyVolume
    ) -> Float[Tensor, "box box box"]:
        """Map of all images at given poses, up to the first band limit of stage 2."""
        config = self.config.auto_decoding
        geometry = replace(volume.geometry, radius=config.band.radius(0, self.spectra.disc.radius))
        density = density_of_poses(self.spectra, table, geometry, config.batch_size)
        return density * self.mask()

    def _decoding(self, kind: type[Decoding], table: PoseTable, volume: HartleyVolume) -> Decoding:
        steps, update = self._pose_steps(table, volume), self._volume_update(table, volume)
        return kind(self.spectra, table, steps, update, self.config.auto_decoding, self.config.seed)

    def _row_encoder(self, searched: ParticleSpectra) -> RowEncoder:
        disc = searched.disc.truncate(self.config.row_encoder.radius)
        encoder = RowEncoder(self.config.row_encoder, disc, power_above_noise(searched, disc))
        initialise_row_encoder(encoder, generator_for(self.config.seed, "encoder"))
        return encoder.to(searched.device)

    def _convolutional_encoder(self, searched: ParticleSpectra) -> PoseEncoder:
        box = min(self.config.encoder.input_box or searched.disc.box, searched.disc.box)
        encoder = PoseEncoder(self.config.encoder, box)
        initialise(encoder, generator_for(self.config.seed, "encoder"))
        return encoder.to(searched.device)

    def _searched(self) -> ParticleSpectra:
        n, most = len(self.spectra), self.config.max_particles
        if most is None or most >= n:
            # A subset of all would hold the whole stack a second time.
            return self.spectra
        order = torch.randperm(n, generator=generator_for(self.config.seed, "subset"))
        return self.spectra.subset(order[:most].sort().values.to(self.spectra.device))

    def _mode_search(self, radius: float) -> ModeSearch:
        return ModeSearch(
            radius=radius,
            n_side=self.config.posterior.mode_n_side,
            n_modes=self.config.auto_decoding.hypotheses,
            shift_range_box=self._shift_range_box(SEARCH_DEVIATIONS),
            group=self.group,
        )

    def _shift_range_box(self, deviations: float) -> float:
        """How far around its centre a particle is searched, as a fraction of the box."""
        largest = self.config.shift_range_box
        centres = self.spectra.centres
        if centres is None:
            return largest
        return min(largest, deviations * float(centres.variance_box2.mean().sqrt()))

    def _centring_error_box(
        self, encoder: RowEncoder, density: Float[Tensor, "box box box"], table: PoseTable
    ) -> float:
        """Standard deviation, per axis, of what is left after centring images without their poses."""
        found = table.best_shift_box()
        if found is None:
            return 0.0
        centring = centring_by_mean_slice(
            encoder, density, self.spectra, self.config.shift_range_box
        )
        # A few particles that are not there at all must not blur the rest.
        return float((centring.start_box - found).abs().median()) * NORMAL_OVER_MAD

    def _pose_steps(self, table: PoseTable, volume: HartleyVolume) -> PoseSteps:
        config = self.config.auto_decoding
        if config.optimiser == "adam":
            return AdamSteps(table, config.pose_steps, residual_named(config.loss))
        search = self._mode_search(min(RESCUE_RADIUS, self.spectra.disc.radius))
        outliers = OutlierSearch(self.spectra, volume, search, self.budget)
        return GaussNewtonSteps(table, config.pose_steps, outliers)

    def _volume_update(self, table: PoseTable, volume: HartleyVolume) -> VolumeUpdate:
        config = self.config.auto_decoding
        if config.volume_step == "adam":
            return AdamVolumeUpdate(volume, config.volume_rate, residual_named(config.loss))
        generator = generator_for(self.config.seed, "half-sets")
        half = torch.randperm(len(self.spectra), generator=generator) % 2
        return ClosedFormVolumeUpdate(
            volume, self.spectra, table, half.to(self.spectra.device), self.mask(), self.group
        )
