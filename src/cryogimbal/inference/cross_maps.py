"""Two half-maps in one frame, so that each image can be judged by a map it has not contributed to.

An image's own noise is in the joint map, at the pose it was given: there it would find itself. It is
not in the map of the other half. What that map lacks and adds counts as noise. With the FSC c of the
halves, the Wiener filtered half-map has the power ``c P`` of a signal of power P and errs by
``(1 - c) P``; a residual of an image is then noise plus ``CTF^2`` times the power of that error.
"""

from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.evaluation.fsc import fourier_shell_correlation
from cryogimbal.evaluation.masks import soft_support_mask
from cryogimbal.fourier.disc import make_disc
from cryogimbal.fourier.shells import shell_index
from cryogimbal.fourier.transforms import density_to_hartley, hartley_to_density
from cryogimbal.imaging.backprojection import (
    SufficientStatistics,
    mean_weight_per_shell,
    solve_density,
)
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.noise import NoiseModel, shell_mean
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.imaging.symmetrisation import sum_on_grid, turned_off_grid
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.image_fits import ImageFits
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.inference.volume_update import (
    SUPPORT_BLUR_RADIUS,
    SUPPORT_EDGE_VOXELS,
    SUPPORT_MARGIN_BOX,
)
from cryogimbal.rotations import rotation_grid
from cryogimbal.symmetry import SymmetryGroup

OVERSAMPLING = 2
IMAGES_AT_ONCE = 2048
LIGHT_PRIOR = 1e-3
# A correlation of exactly 0 or 1 would mean no signal or no noise at all.
CORRELATION_RANGE = (0.005, 0.995)
N_SIDE_OF_POWER = 1
PARTED = 0.143
# No shell is trusted beyond this, in units of the variance in force.
LEAST_VARIANCE = 0.1
# Images that fit so much worse than the others do not tell what the noise is.
OUTLYING = 4.0


@dataclass(frozen=True, kw_only=True)
class JudgingMap:
    """A half-map, and what it errs by."""

    density: Float[Tensor, "box box box"]
    """Wiener filtered and masked."""
    decoder: PreparedGrid
    error: Float[Tensor, " shell"]
    """Mean square error of a coefficient of its slices, per shell ``round(|k|)``."""


@dataclass(frozen=True, kw_only=True)
class CrossMaps:
    """What is needed to judge images by maps that they are not in."""

    halves: tuple[JudgingMap, JudgingMap]
    joint: PreparedGrid
    """Of both halves, Wiener filtered."""
    apart: PreparedGrid
    """Half the difference of the halves under the same filter: noise as the joint map has it."""


def cross_maps(
    spectra: ParticleSpectra,
    table: PoseTable,
    half: Int[Tensor, " particle"],
    mask: Float[Tensor, "box box box"],
    group: SymmetryGroup,
) -> CrossMaps:
    """Maps of the images of either half (0 and 1) at their most probable poses, full band.

    Inside the mask they are kept where both together show the particle: noise far from the axis would
    seem to tell rotations apart.
    """
    radius = spectra.disc.radius
    geometry = GridGeometry(box=spectra.disc.box, radius=radius, oversampling=OVERSAMPLING)
    halves = [_sums(spectra, table, half == number, geometry, group) for number in (0, 1)]
    weights = [mean_weight_per_shell(one, geometry) for one in halves]
    joint = halves[0] + halves[1]
    blurred = solve_density(joint, geometry, LIGHT_PRIOR * (weights[0] + weights[1]))
    box = spectra.disc.box
    mask = soft_support_mask(
        blurred,
        mask,
        blur_radius=SUPPORT_BLUR_RADIUS,
        margin_voxels=box * SUPPORT_MARGIN_BOX,
        edge_voxels=SUPPORT_EDGE_VOXELS,
    )
    maps = [
        DensityMap(
            values=solve_density(one, geometry, LIGHT_PRIOR * weight) * mask,
            voxel_size_angstrom=spectra.pixel_size_angstrom,
        )
        for one, weight in zip(halves, weights, strict=True)
    ]
    fsc = fourier_shell_correlation(maps[0], maps[1], poses="shared").correlation
    kept = _kept_correlation(fsc[: len(weights[0])].to(weights[0]))
    first, second = (
        solve_density(one, geometry, weight[: len(kept)] * (1 - kept) / kept) * mask
        for one, weight in zip(halves, weights, strict=True)
    )
    return CrossMaps(
        halves=(_judging(first, kept, geometry), _judging(second, kept, geometry)),
        joint=_prepared(_filtered((first + second) / 2, 2 / (1 + kept)), geometry),
        apart=_prepared(_filtered((first - second) / 2, 2 / (1 + kept)), geometry),
    )


def image_noise(
    fits: ImageFits, error: Float[Tensor, " shell"], noise: NoiseModel
) -> Float[Tensor, "group shell"]:
    """Variance of the images alone, group by group, in units of the variance in force.

    What the map errs by is taken from the mean square that it leaves of the images; images that fit
    far worse than the others are left out.
    """
    own = fits.left - fits.transfer * error[: fits.left.shape[1]]
    total = (fits.left * fits.per_shell).sum(1) / fits.per_shell.sum()
    centred = total - total.median()
    usual = centred.abs() <= OUTLYING * 1.4826 * centred.abs().median()
    group = noise.group[fits.index]
    found = own.new_ones(len(noise.variance), own.shape[1])
    for number in group.unique().tolist():
        chosen = (group == number) & usual
        if bool(chosen.any()):
            found[number] = own[chosen].mean(0)
    return found.clamp_min(LEAST_VARIANCE)


def with_map_error(
    batch: ParticleBatch,
    variance: Float[Tensor, "batch shell"],
    error: Float[Tensor, " shell"],
) -> ParticleBatch:
    """The batch in units of all that an image may differ by from the map's prediction.

    ``variance`` is that of the images' own noise in the units of the batch.
    """
    shell = batch.disc.shell_per_coefficient
    total = variance[:, shell] + batch.ctf.square() * error[shell]
    weight = total.rsqrt()
    return replace(batch, observed=batch.observed * weight, ctf=batch.ctf * weight)


def _sums(
    spectra: ParticleSpectra,
    table: PoseTable,
    chosen: Tensor,
    geometry: GridGeometry,
    group: SymmetryGroup,
) -> SufficientStatistics:
    statistics = SufficientStatistics.zeros(geometry, spectra.device)
    for index in chosen.nonzero()[:, 0].split(IMAGES_AT_ONCE):
        batch = spectra.batch(index, geometry.radius)
        best, trust = table.best_of(index), spectra.noise.trust[index]
        for hypotheses in turned_off_grid(best, group):
            statistics.add_hypotheses(batch, hypotheses, trust, geometry.oversampling)
    return sum_on_grid(statistics, group)


def _kept_correlation(correlation: Float[Tensor, " shell"]) -> Float[Tensor, " shell"]:
    """Past the shell where the halves part, poses shared by both make correlations of noise."""
    kept = correlation.clone()
    kept[0] = CORRELATION_RANGE[1]
    parted = (kept < PARTED).nonzero()
    if len(parted):
        kept[int(parted[0]) :] = 0
    return kept.clamp(*CORRELATION_RANGE)


def _judging(density: Tensor, correlation: Tensor, geometry: GridGeometry) -> JudgingMap:
    decoder = _prepared(density, geometry)
    disc = make_disc(geometry.box, geometry.radius).to(density.device)
    power = decoder.slices(rotation_grid(N_SIDE_OF_POWER).to(density), disc).square().mean(0)
    per_shell = shell_mean(power, disc)
    kept = correlation[: len(per_shell)]
    return JudgingMap(density=density, decoder=decoder, error=per_shell * (1 - kept) / kept)


def _prepared(density: Tensor, geometry: GridGeometry) -> PreparedGrid:
    return PreparedGrid.of(geometry.grid_of_density(density), geometry.oversampling)


def _filtered(density: Tensor, factor: Float[Tensor, " shell"]) -> Tensor:
    """The density with each shell of its spectrum multiplied; the last factor counts beyond."""
    shell = shell_index(density.shape[-1], 3, device=density.device).clamp(max=len(factor) - 1)
    return hartley_to_density(density_to_hartley(density) * factor[shell])
