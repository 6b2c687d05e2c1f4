"""The whole way from images to poses and density. Reads like the method section.

Stage 1 finds poses from nothing (by the posterior or the encoder) or is skipped where a map or poses
are given; stage 2 moves every pose directly. Then an encoder is taught from the map, what it proposes
is tried on every image, and it is kept for images to come. The run yields a record after every step
and can be stopped, saved and continued after any of them.

The axes of a symmetric particle are looked for in the map that stage 1 hands over, and once more after
stage 2 where they did not show; from then on the particle is kept symmetric.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.data.poses import PoseSet
from cryogimbal.evaluation.collapse import signs_in_map, signs_in_poses
from cryogimbal.evaluation.symmetry_axes import SymmetryAxes, find_symmetry_axes
from cryogimbal.fourier.resample import centred_by_mass
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.auto_decoding import AutoDecoding, Closing
from cryogimbal.inference.auto_encoding import AutoEncoding, encoder_modes
from cryogimbal.inference.confidence import trusting
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.config_heads import PoseInferenceConfig
from cryogimbal.inference.grid_search import scaled_to_images
from cryogimbal.inference.head_training import HeadTraining
from cryogimbal.inference.memory_budget import MemoryBudget
from cryogimbal.inference.modes import Modes
from cryogimbal.inference.pose_inference import Centring, infer_poses
from cryogimbal.inference.pose_table import SAME_DEG, PoseTable
from cryogimbal.inference.posterior_search import PosteriorSearch
from cryogimbal.inference.records import NoticeRecord, Record, SwitchRecord
from cryogimbal.inference.row_encoder import (
    RowEncoder,
    row_encoder_from_state,
    row_encoder_to_state,
)
from cryogimbal.inference.stage_factory import StageFactory
from cryogimbal.inference.start_and_result import Reconstruction, StartingPoint
from cryogimbal.inference.symmetry_imposition import (
    Imposition,
    density_on_axes,
    table_on_axes,
    telling,
)
from cryogimbal.rotations import geodesic_distance_deg
from cryogimbal.symmetry import nearest_same_image, symmetry_group


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


class ReconstructionRun:
    """A reconstruction under way."""

    def __init__(
        self, spectra: ParticleSpectra, config: ReconstructionConfig, start: StartingPoint
    ) -> None:
        # Noise and scales change on the way: the run has its own.
        spectra = replace(spectra, noise=spectra.noise.copy())
        self._spectra = spectra
        self._config = config
        self._budget = MemoryBudget.of_mebibytes(config.posterior.memory_mib)
        asked = symmetry_group(config.symmetry)
        self._symmetry = Imposition(asked=asked, imposed=config.symmetry_from == "start")
        self._factory = StageFactory(
            spectra=spectra, config=config, budget=self._budget, group=self._symmetry.group
        )
        self._volume = self._factory.decoding_volume()
        self._table: PoseTable | None = None
        self._encoder: RowEncoder | None = None
        self._pending: list[NoticeRecord | SwitchRecord] = []
        self._stage = self._first_stage(start)

    def records(self) -> Iterator[Record]:
        """Run to the end, one record at a time."""
        while True:
            yield from self._delivered()
            for record in self._stage.records():
                yield record
                yield from self._notices()
            following = self._hand_over(self._stage)
            self._pending += self._notices()
            if following is None:
                yield from self._delivered()
                return
            ended, self._stage = self._stage, following
            switch = SwitchRecord(
                from_stage=ended.name, to_stage=self._stage.name, reason=ended.reason()
            )
            self._pending.append(switch)

    def result(self) -> Reconstruction:
        """Poses and density of a run that has reached its end.

        Raises
        ------
        RuntimeError
            If the run has not reached auto-decoding.
        """
        if not isinstance(self._stage, AutoDecoding):
            raise RuntimeError(f"the run is still in {self._stage.name}")
        confidence = self._factory.confidence(self._stage.table)
        return Reconstruction(
            poses=self._poses(self._stage.table),
            density=DensityMap(
                values=self._volume.density().cpu(),
                voxel_size_angstrom=self._spectra.pixel_size_angstrom,
            ),
            half_map_fsc=self._stage.update.half_map_fsc,
            noise=trusting(self._spectra.noise, confidence).to("cpu"),
            confidence=confidence,
            encoder=None if self._encoder is None else self._encoder.cpu(),
            symmetry=self._symmetry,
        )

    def signs_of_collapse(self) -> tuple[str, ...]:
        """What is wrong with map and poses as they stand, one sentence for each sign.

        A particle of a cubic group is nearly a ball, often a hollow one, and poses that are kept to one
        asymmetric unit fill few orientations: neither is a sign.
        """
        if self._table is None:
            return ()
        signs: tuple[str, ...] = ()
        if not self._symmetry.asked.is_cubic:
            signs += signs_in_map(self._volume.density())
        if self._symmetry.group.order == 1:
            signs += signs_in_poses(self._table.best())
        return signs

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later :meth:`load_state_dict` needs to go on bit by bit."""
        table, encoder = self._table, self._encoder
        return {
            "stage": self._stage.name,
            "noise": self._spectra.noise.state_dict(),
            "symmetry": self._symmetry.state_dict(),
            "pending": [asdict(record) for record in self._pending],
            "volume": self._volume.state_dict(),
            "table": None if table is None else table.state_dict(),
            "encoder": None if encoder is None else row_encoder_to_state(encoder),
            "state": self._stage.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint of a run with the same images and options."""
        self._spectra.noise.load_state_dict(state["noise"])
        self._symmetry = self._symmetry.of_state(state["symmetry"])
        self._factory = replace(self._factory, group=self._symmetry.group)
        self._pending = [
            NoticeRecord(**one) if "text" in one else SwitchRecord(**one)
            for one in state["pending"]
        ]
        if state["table"] is not None:
            self._table = PoseTable.of_state(state["table"], self._spectra.device)
            self._volume = self._factory.decoding_volume()
        self._volume.load_state_dict(state["volume"])
        if state["encoder"] is not None:
            encoder = row_encoder_from_state(state["encoder"], "the checkpoint")
            self._encoder = encoder.to(self._spectra.device)
        if self._table is not None:
            self._stage = self._stage_named(state["stage"], self._table)
        self._stage.load_state_dict(state["state"])

    def _delivered(self) -> Iterator[NoticeRecord | SwitchRecord]:
        """What a change of stages has left to tell; a checkpoint between has the rest."""
        while self._pending:
            yield self._pending.pop(0)

    def _notices(self) -> Iterator[NoticeRecord]:
        for text in self._budget.take_notices():
            yield NoticeRecord(text=text)

    def _first_stage(self, start: StartingPoint) -> Stage:
        density = start.density
        if density is not None:
            density = scaled_to_images(self._spectra, density, self._config.posterior)
        if start.poses is not None:
            table = self._table_of(start.poses)
            if density is None:
                density = self._factory.density_of_poses(table, self._volume)
            return self._decoding(*self._on_axes(density, table, self._planned_angstrom))
        if density is not None:
            return self._decoding_from_map(density, self._config.posterior.end_radius)
        if self._config.start == "encoder":
            self._volume = self._factory.encoding_volume()
            return self._factory.auto_encoding(self._volume)
        return self._factory.posterior_search()

    def _hand_over(self, stage: Stage) -> Stage | None:
        """The stage that follows; none after the last."""
        if isinstance(stage, PosteriorSearch):
            density = stage.densities()[0]
            if self._config.shift_range_box > 0:
                density = centred_by_mass(density)
            return self._decoding_from_map(density, stage.radius)
        if isinstance(stage, AutoEncoding):
            return self._after_auto_encoding(stage)
        assert self._table is not None
        if isinstance(stage, AutoDecoding) and self._symmetry.is_sought:
            limit = self._trusted_angstrom(stage)
            density, table = self._on_axes(self._volume.density(), self._table, limit)
            if self._symmetry.imposed:
                return self._decoding(density, table)
        if isinstance(stage, HeadTraining):
            self._encoder = stage.encoder
            self._challenge(self._table, stage.encoder)
            closing = self._factory.closing(self._table, self._volume)
            closing.update.confine()
            return closing
        if isinstance(stage, Closing) or not self._config.teaches_encoder:
            return None
        return self._factory.head_training(self._volume.density(), self._table)

    def _after_auto_encoding(self, stage: AutoEncoding) -> AutoDecoding:
        modes = encoder_modes(
            stage.encoder,
            self._volume.frozen(),
            self._spectra,
            self._config.auto_encoding,
            n_modes=self._config.auto_decoding.hypotheses,
            shift_range_box=self._config.shift_range_box,
        )
        encoded, self._volume = self._volume, self._factory.decoding_volume()
        density, table = self._on_axes(
            encoded.density(), PoseTable.of_modes(modes), self._planned_angstrom
        )
        if encoded.geometry == self._volume.geometry and not self._symmetry.imposed:
            # The factors go on as they are, not only their product.
            self._volume = encoded
            self._table = table
            return self._factory.auto_decoding(self._table, self._volume)
        return self._decoding(density, table)

    def _decoding_from_map(
        self, density: Float[Tensor, "box box box"], radius: float
    ) -> AutoDecoding:
        """Stage 2 from a density alone, which can be trusted up to a band limit."""
        if self._symmetry.is_sought:
            density, _ = self._sought(density, self._box_angstrom / radius)
        return self._decoding(density, self._factory.table_of_modes(density, radius))

    @property
    def _planned_angstrom(self) -> float:
        """Resolution to which a map is searched for, unless that takes more."""
        return self._box_angstrom / self._config.posterior.end_radius

    def _trusted_angstrom(self, stage: AutoDecoding) -> float:
        """Resolution up to which the map of auto-decoding can be relied on."""
        fsc = stage.update.half_map_fsc
        if fsc is None:
            return self._planned_angstrom
        return fsc.resolution_angstrom(0.5)

    def _on_axes(
        self, density: Float[Tensor, "box box box"], table: PoseTable, limit_angstrom: float
    ) -> tuple[Float[Tensor, "box box box"], PoseTable]:
        """Density and poses in the frame of the group; as they are where its axes are not found."""
        if not self._symmetry.is_sought:
            return density, table
        density, axes = self._sought(density, limit_angstrom)
        if self._symmetry.imposed:
            table = table_on_axes(table, axes.alignment, self._box_angstrom)
        return density, table

    def _sought(
        self, density: Float[Tensor, "box box box"], limit_angstrom: float
    ) -> tuple[Float[Tensor, "box box box"], SymmetryAxes]:
        """Look for the axes of the group up to where the map can be trusted; the map on them."""
        found = DensityMap(
            values=density.cpu(), voxel_size_angstrom=self._spectra.pixel_size_angstrom
        )
        axes = find_symmetry_axes(
            found,
            self._symmetry.asked,
            centre="searched" if self._config.shift_range_box > 0 else "middle",
            resolution_limit_angstrom=limit_angstrom,
        )
        self._symmetry = self._symmetry.after(axes)
        self._pending.append(NoticeRecord(text=telling(self._symmetry, axes)))
        if self._symmetry.imposed:
            self._factory = replace(self._factory, group=self._symmetry.group)
            density = density_on_axes(found, axes).to(density)
        return density, axes

    def _decoding(self, density: Float[Tensor, "box box box"], table: PoseTable) -> AutoDecoding:
        """Stage 2 from a density and poses found elsewhere."""
        self._table = table
        self._volume.set_spectrum(self._volume.geometry.grid_of_density(density))
        return self._factory.auto_decoding(table, self._volume)

    def _stage_named(self, name: str, table: PoseTable) -> Stage:
        if name == HeadTraining.name:
            return self._factory.head_training(self._volume.density(), table)
        if name == Closing.name:
            return self._factory.closing(table, self._volume)
        return self._factory.auto_decoding(table, self._volume)

    def _challenge(self, table: PoseTable, encoder: RowEncoder) -> None:
        """Let the encoder's pose of every image stand beside the one that the image has."""
        density, shift = self._volume.density(), table.best_shift_box()
        centring = None
        if shift is not None:
            centring = Centring(start_box=shift, range_box=self._config.shift_range_box / 2)
        config = PoseInferenceConfig()
        for found in infer_poses(encoder, density, self._spectra, config, centring):
            best = table.best_of(found.index).rotation
            rotation = nearest_same_image(found.rotation, best, self._symmetry.group)
            another = geodesic_distance_deg(rotation, best) > SAME_DEG
            modes = Modes(
                rotation=rotation[another][:, None],
                residual=found.residual[another][:, None],
                shift_box=None if found.shift_box is None else found.shift_box[another][:, None],
            )
            table.challenge(found.index[another], modes)

    def _poses(self, table: PoseTable) -> PoseSet:
        shift, rotation = table.best_shift_box(), table.best()
        if shift is None:
            shift = torch.zeros(len(rotation), 2, device=rotation.device)
        if self._spectra.centres is not None:
            shift = shift + self._spectra.centres.shift_box
        return PoseSet(rotation=rotation, shift_angstrom=shift * self._box_angstrom).to("cpu")

    def _table_of(self, poses: PoseSet) -> PoseTable:
        poses = poses.to(self._spectra.device)
        estimated = self._config.shift_range_box > 0
        shift = poses.shift_angstrom / self._box_angstrom if estimated else None
        return PoseTable.starting_at(poses.rotation, shift)

    @property
    def _box_angstrom(self) -> float:
        return self._spectra.disc.box * self._spectra.pixel_size_angstrom
