"""How the volume follows the poses: Adam on its factors, or the closed form once per epoch."""

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.data.poses import PoseHypotheses
from cryogimbal.evaluation.fsc import FscCurve, fourier_shell_correlation
from cryogimbal.evaluation.masks import soft_support_mask
from cryogimbal.imaging.backprojection import (
    SufficientStatistics,
    mean_weight_per_shell,
    solve_density,
)
from cryogimbal.imaging.model import ImageModel, ParticleBatch
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.symmetrisation import sum_on_grid, turned_off_grid
from cryogimbal.imaging.volume import Decoder, GridGeometry, HartleyVolume
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
# A correlation of exactly 0 or 1 would mean no signal or no noise at all.
CORRELATION_RANGE = (0.005, 0.995)


@runtime_checkable
class VolumeUpdate(Protocol):
    """Changes the volume, given images and their poses."""

    @property
    def half_map_fsc(self) -> FscCurve | None:
        """FSC of the two half-maps of the last finished epoch, where the update makes them."""
        ...

    def decoder(self) -> Decoder:
        """The volume as the pose steps see it now."""
        ...

    def observe(self, batch: ParticleBatch, poses: PoseHypotheses) -> None:
        """Take in a batch whose poses have just been improved."""
        ...

    def finish_epoch(self, radius: float) -> None:
        """All images have been seen; the next epoch's band limit is given."""
        ...

    def finish_stage(self, radius: float) -> None:
        """The last epoch is over."""
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

    def finish_epoch(self, radius: float) -> None:
        """Nothing is left to do."""

    def finish_stage(self, radius: float) -> None:
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
        self._support = mask
        self._group = group
        self._decoder: Decoder | None = None
        self.half_map_fsc: FscCurve | None = None

    def decoder(self) -> Decoder:
        """The volume; it stays the same within an epoch."""
        if self._decoder is None:
            self._decoder = self._volume.frozen()
        return self._decoder

    def observe(self, batch: ParticleBatch, poses: PoseHypotheses) -> None:
        """Nothing: all images are taken together at the end of the epoch."""

    def finish_epoch(self, radius: float) -> None:
        """Solve for the volume, which then reaches the next epoch's band limit."""
        density = self._solve(radius, self._support)
        if radius >= SUPPORT_FROM_RADIUS:
            box = density.shape[-1]
            self._support = soft_support_mask(
                density,
                self._mask,
                blur_radius=SUPPORT_BLUR_RADIUS,
                margin_voxels=box * SUPPORT_MARGIN_BOX,
                edge_voxels=SUPPORT_EDGE_VOXELS,
            )

    def finish_stage(self, radius: float) -> None:
        """Solve for the volume that is kept."""
        self._solve(radius, self._mask)

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
        assert isinstance(support, Tensor)
        self._support = support.to(self._mask.device)
        self._decoder = None
        if isinstance(correlation, Tensor):
            self.half_map_fsc = FscCurve(
                box=self._mask.shape[-1],
                voxel_size_angstrom=self._spectra.pixel_size_angstrom,
                correlation=correlation,
                poses="shared",
            )

    def _solve(self, radius: float, mask: Tensor) -> Float[Tensor, "box box box"]:
        geometry = replace(self._volume.geometry, radius=radius)
        halves = [self._sums(geometry, number) for number in (0, 1)]
        density, fsc = solve_with_halves(halves, geometry, mask, self._spectra.pixel_size_angstrom)
        # The mask leaks a little past the band limit, where nothing has been measured.
        self.half_map_fsc = band_limited_fsc(fsc, radius)
        self._volume.set_spectrum(self._volume.geometry.grid_of_density(density))
        self._decoder = None
        return density

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


def band_limited_fsc(fsc: FscCurve, radius: float) -> FscCurve:
    """The same curve with correlation 0 in shells past a band limit in cycles per box."""
    correlation = fsc.correlation.clone()
    correlation[int(radius) + 1 :] = 0
    return replace(fsc, correlation=correlation)


def solve_with_halves(
    halves: list[SufficientStatistics],
    geometry: GridGeometry,
    mask: Float[Tensor, "box box box"],
    voxel_size_angstrom: float,
) -> tuple[Float[Tensor, "box box box"], FscCurve]:
    """Masked density of both halves together, Wiener filtered by the FSC of the two apart.

    With ``SSNR = 2 FSC / (1 - FSC)`` of the joint map, the prior's weight is the shell's mean weight
    over SSNR (Rosenthal and Henderson 2003; Scheres 2012).
    """
    maps = []
    for half in halves:
        light_prior = 1e-3 * mean_weight_per_shell(half, geometry)
        density = solve_density(half, geometry, light_prior) * mask
        maps.append(DensityMap(values=density, voxel_size_angstrom=voxel_size_angstrom))
    fsc = fourier_shell_correlation(maps[0], maps[1], poses="shared")
    joint = halves[0] + halves[1]
    weight = mean_weight_per_shell(joint, geometry)
    correlation = fsc.correlation.to(weight)[: len(weight)].clamp(*CORRELATION_RANGE)
    correlation[0] = CORRELATION_RANGE[1]
    prior = weight[: len(correlation)] * (1 - correlation) / (2 * correlation)
    return solve_density(joint, geometry, prior) * mask, fsc
