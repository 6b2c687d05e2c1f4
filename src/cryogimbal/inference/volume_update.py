"""How the volume follows the poses: Adam on its factors, or the closed form once per epoch."""

import math
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.data.fsc import FscCurve
from cryogimbal.data.poses import PoseHypotheses
from cryogimbal.evaluation.masks import soft_support_mask
from cryogimbal.imaging.backprojection import SufficientStatistics
from cryogimbal.imaging.model import ImageModel, ParticleBatch
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.symmetrisation import sum_on_grid, turned_off_grid
from cryogimbal.imaging.volume import Decoder, GridGeometry, HartleyVolume
from cryogimbal.inference.gathered_halves import GatheredHalves
from cryogimbal.inference.held_out import HeldOutLikelihood
from cryogimbal.inference.loss import Residual, loss_of
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.symmetry import SymmetryGroup

# Posterior weight below which a hypothesis leaves nothing in the map.
LEAST_SHARE = 1e-3
IMAGES_AT_ONCE = 2048
# From this band limit on (cycles per box) a map shows where the particle is.
SUPPORT_FROM_RADIUS = 8.0
SUPPORT_BLUR_RADIUS = 8.0
SUPPORT_MARGIN_BOX = 1 / 24
SUPPORT_EDGE_VOXELS = 3.0


@runtime_checkable
class VolumeUpdate(Protocol):
    """Changes the volume, given images and their poses."""

    @property
    def half_map_fsc(self) -> FscCurve | None:
        """FSC of the two half-maps of the last finished epoch, where the update makes them."""
        ...

    @property
    def particle_width_box(self) -> float:
        """Width of the particle, as a fraction of the box, as far as the update knows it."""
        ...

    def decoder(self) -> Decoder:
        """The volume as the pose steps see it now."""
        ...

    def observe(self, batch: ParticleBatch, poses: PoseHypotheses) -> None:
        """Take in a batch whose poses have just been improved."""
        ...

    def confine(self) -> None:
        """Keep the volume that the stage begins with to where the particle is."""
        ...

    def gather(self, radius: float) -> None:
        """All images have been seen; the next band limit is given."""
        ...

    def held_out(self) -> HeldOutLikelihood | None:
        """How well each half of what was gathered predicts the other, where there are halves."""
        ...

    def finish_epoch(self) -> None:
        """Make the volume for another epoch."""
        ...

    def finish_stage(self) -> None:
        """Make the volume that is kept."""
        ...

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint needs beside the volume."""
        ...

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from a checkpoint."""
        ...


class AdamVolumeUpdate:
    """One Adam step on mantissa and exponent per batch (the paper)."""

    half_map_fsc = None
    particle_width_box = 1.0

    def __init__(self, volume: HartleyVolume, rate: float, residual: Residual) -> None:
        self._volume = volume
        self._residual = residual
        self._model = ImageModel(decoder=volume)
        self._optimiser = torch.optim.Adam(volume.parameters(), lr=rate)

    def decoder(self) -> Decoder:
        """The volume as it is now."""
        return self._volume.frozen()

    def observe(self, batch: ParticleBatch, poses: PoseHypotheses) -> None:
        """One step on the mean over images of the residual summed over coefficients."""
        self._optimiser.zero_grad(set_to_none=True)
        losses = loss_of(self._model, poses, batch, self._residual)
        (losses.mean() * batch.disc.n_coefficients).backward()
        self._optimiser.step()

    def confine(self) -> None:
        """Nothing: no noise of a whole map is in it."""

    def gather(self, radius: float) -> None:
        """Nothing is left to do."""

    def held_out(self) -> None:
        """One volume, of all images: no image is new to it."""

    def finish_epoch(self) -> None:
        """Nothing is left to do."""

    def finish_stage(self) -> None:
        """Nothing is left to do."""

    def state_dict(self) -> dict[str, object]:
        """Adam's moments."""
        return {"optimiser": self._optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue with the moments of a checkpoint."""
        self._optimiser.load_state_dict(state["optimiser"])  # pyright: ignore[reportArgumentType]


class ClosedFormVolumeUpdate:
    """Regularised back-projection at the end of each epoch, every hypothesis with its weight.

    Images are split in two halves. The FSC of the half-maps tells each shell's signal-to-noise ratio,
    which is the Wiener filter of the joint map. The halves share their poses, so the FSC is a
    regulariser and an optimistic resolution, not a gold standard. Once the density shows where the
    particle is, what lies outside is masked away between epochs: less noise in the map means fewer
    images on wrong poses. The last map is made within the given mask alone. Every image counts at all
    poses that a symmetry group makes the same.
    """

    def __init__(
        self,
        volume: HartleyVolume,
        spectra: ParticleSpectra,
        table: PoseTable,
        half: Int[Tensor, " particle"],
        mask: Float[Tensor, "box box box"],
        group: SymmetryGroup,
    ) -> None:
        self._volume = volume
        self._spectra = spectra
        self._table = table
        self._half = half
        self._mask = mask
        self._support: Tensor | None = None
        self._group = group
        self._decoder: Decoder | None = None
        self._gathered: GatheredHalves | None = None
        self.half_map_fsc: FscCurve | None = None

    @property
    def particle_width_box(self) -> float:
        """Diameter of a ball as large as where the particle is."""
        ball = 6 / math.pi * float(self._within.sum())
        return ball ** (1 / 3) / self._mask.shape[-1]

    def decoder(self) -> Decoder:
        """The volume; it stays the same within an epoch."""
        if self._decoder is None:
            self._decoder = self._volume.frozen()
        return self._decoder

    def observe(self, batch: ParticleBatch, poses: PoseHypotheses) -> None:
        """Nothing: all images are taken together at the end of the epoch."""

    def confine(self) -> None:
        """Mask away what lies outside of the particle, which the last map of a stage still has."""
        density = self._volume.density()
        self._look_for_particle(density, self._volume.geometry.radius)
        self._volume.set_spectrum(self._volume.geometry.grid_of_density(density * self._within))
        self._decoder = None

    def gather(self, radius: float) -> None:
        """Sum up what the images of each half say, at the poses of the table."""
        geometry = replace(self._volume.geometry, radius=radius)
        halves = [self._sums(geometry, number) for number in (0, 1)]
        self._gathered = GatheredHalves.of(halves, geometry, self._spectra.pixel_size_angstrom)

    def held_out(self) -> HeldOutLikelihood | None:
        """Each half-map, within where the particle is, on the images of the other half.

        None until that is known: a map in a wider mask has more noise and does not compare.
        """
        assert self._gathered is not None
        if self._support is None:
            return None
        weight = float(self._spectra.noise.trust.sum())
        return self._gathered.held_out(self._support, weight, self._group.order)

    def finish_epoch(self) -> None:
        """Solve for the volume within where the particle is, and look where that is now."""
        self._look_for_particle(*self._solve(self._within))

    def _look_for_particle(self, density: Float[Tensor, "box box box"], radius: float) -> None:
        if radius >= SUPPORT_FROM_RADIUS:
            box = density.shape[-1]
            self._support = soft_support_mask(
                density,
                self._mask,
                blur_radius=SUPPORT_BLUR_RADIUS,
                margin_voxels=box * SUPPORT_MARGIN_BOX,
                edge_voxels=SUPPORT_EDGE_VOXELS,
            )

    def finish_stage(self) -> None:
        """Solve for the volume that is kept."""
        self._solve(self._mask)

    def state_dict(self) -> dict[str, object]:
        """Where the particle is, and the last FSC."""
        fsc = self.half_map_fsc
        return {
            "support": self._support,
            "half_map_correlation": None if fsc is None else fsc.correlation,
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from a checkpoint."""
        support, correlation = state["support"], state["half_map_correlation"]
        self._support = support.to(self._mask.device) if isinstance(support, Tensor) else None
        self._decoder = None
        if isinstance(correlation, Tensor):
            self.half_map_fsc = FscCurve(
                box=self._mask.shape[-1],
                voxel_size_angstrom=self._spectra.pixel_size_angstrom,
                correlation=correlation,
                poses="shared",
            )

    @property
    def _within(self) -> Float[Tensor, "box box box"]:
        return self._mask if self._support is None else self._support

    def _solve(self, mask: Tensor) -> tuple[Float[Tensor, "box box box"], float]:
        """Make the volume of what was gathered, which is then forgotten; it and its band limit."""
        gathered, self._gathered = self._gathered, None
        assert gathered is not None
        density, self.half_map_fsc = gathered.solve(mask)
        self._volume.set_spectrum(self._volume.geometry.grid_of_density(density))
        self._decoder = None
        return density, gathered.geometry.radius

    def _sums(self, geometry: GridGeometry, number: int) -> SufficientStatistics:
        """What the images of one half say, at the poses of the table."""
        statistics = SufficientStatistics.zeros(geometry, self._mask.device)
        for index in (self._half == number).nonzero()[:, 0].split(IMAGES_AT_ONCE):
            batch = self._spectra.batch(index, geometry.radius)
            rows, share = self._table.alive(index, LEAST_SHARE)
            share = share * self._spectra.noise.trust[index[rows.hypotheses.image]]
            for hypotheses in turned_off_grid(rows.hypotheses, self._group):
                statistics.add_hypotheses(batch, hypotheses, share, geometry.oversampling)
        return sum_on_grid(statistics, self._group)
