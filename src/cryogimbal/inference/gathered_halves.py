"""Two halves of the images summed up: their maps, the FSC between them, and the map of both."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.data.fsc import FscCurve
from cryogimbal.evaluation.fsc import fourier_shell_correlation
from cryogimbal.imaging.backprojection import (
    SufficientStatistics,
    mean_weight_per_shell,
    solve_density,
)
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.held_out import HeldOutLikelihood, held_out_likelihood

# Keeps samples that hardly any image reached from standing out, and hardly touches the others.
LIGHT_PRIOR = 1e-3
# A correlation of exactly 0 or 1 would mean no signal or no noise at all.
CORRELATION_RANGE = (0.005, 0.995)


@dataclass(frozen=True, kw_only=True)
class GatheredHalves:
    """What the images of each half say up to a band limit, and the map that each makes alone."""

    halves: list[SufficientStatistics]
    densities: list[Float[Tensor, "box box box"]]
    """Neither filtered nor masked."""
    geometry: GridGeometry
    voxel_size_angstrom: float

    @classmethod
    def of(
        cls, halves: list[SufficientStatistics], geometry: GridGeometry, voxel_size_angstrom: float
    ) -> "GatheredHalves":
        """Solve for the half-maps."""
        densities = [
            solve_density(half, geometry, LIGHT_PRIOR * mean_weight_per_shell(half, geometry))
            for half in halves
        ]
        return cls(
            halves=halves,
            densities=densities,
            geometry=geometry,
            voxel_size_angstrom=voxel_size_angstrom,
        )

    def fsc(self, mask: Float[Tensor, "box box box"]) -> FscCurve:
        """Between the half-maps within a mask, 0 past the band limit.

        A mask leaks a little past that, where nothing has been measured.
        """
        one, other = (
            DensityMap(values=density * mask, voxel_size_angstrom=self.voxel_size_angstrom)
            for density in self.densities
        )
        curve = fourier_shell_correlation(one, other, poses="shared")
        correlation = curve.correlation.clone()
        correlation[int(self.geometry.radius) + 1 :] = 0
        return replace(curve, correlation=correlation)

    def solve(
        self, mask: Float[Tensor, "box box box"]
    ) -> tuple[Float[Tensor, "box box box"], FscCurve]:
        """Masked density of both halves together, Wiener filtered by the FSC of the two apart.

        With ``SSNR = 2 FSC / (1 - FSC)`` of the joint map, the prior's weight is the shell's mean
        weight over SSNR (Rosenthal and Henderson 2003; Scheres 2012).
        """
        fsc = self.fsc(mask)
        joint = self.halves[0] + self.halves[1]
        weight = mean_weight_per_shell(joint, self.geometry)
        correlation = fsc.correlation.to(weight)[: len(weight)].clamp(*CORRELATION_RANGE)
        correlation[0] = CORRELATION_RANGE[1]
        prior = weight[: len(correlation)] * (1 - correlation) / (2 * correlation)
        return solve_density(joint, self.geometry, prior) * mask, fsc

    def held_out(
        self, mask: Float[Tensor, "box box box"], n_images: float, copies: int
    ) -> HeldOutLikelihood:
        """How well each masked half-map predicts the images of the other half.

        ``n_images`` is the weight of all images, each of which counts at so many poses.
        """
        masked = [density * mask for density in self.densities]
        return held_out_likelihood(
            masked, self.halves, self.geometry, self.fsc(mask), n_images, copies
        )
