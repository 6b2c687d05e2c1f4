"""How far the true pose may be from the one written, image by image, and how much each is a particle.

The posterior of an image, judged by a map it has not contributed to (:mod:`.cross_maps`), is taken as
a mixture of normal distributions, one at each of its modes (Laplace's approximation): the Gauss-Newton
matrix is the inverse covariance, residual and determinant give the weight. Modes are the pose written
and rivals found among all orientations at a low band limit, which are followed to the full band as
long as they fit.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.data.confidence import Confidence
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.noise import NoiseModel
from cryogimbal.imaging.spectra import ParticleSpectra
from cryogimbal.inference.cross_maps import JudgingMap, cross_maps, image_noise, with_map_error
from cryogimbal.inference.image_fits import ImageFits, image_fits, in_stack_order, joined_fits
from cryogimbal.inference.particle_scores import particle_scores
from cryogimbal.inference.pose_mixture import mass_radius, pose_mixture
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.inference.rivals import RivalGrid, poses_with_rivals
from cryogimbal.inference.seeding import generator_for
from cryogimbal.rotations import angle_deg
from cryogimbal.symmetry import SymmetryGroup

# Share of the posterior mass within the width.
MASS = 0.68
IMAGES_AT_ONCE = 512
LEAST_IMAGES = 20
SAMPLES = 256


@torch.no_grad()
def measure_confidence(
    spectra: ParticleSpectra,
    table: PoseTable,
    mask: Float[Tensor, "box box box"],
    group: SymmetryGroup,
    seed: int,
) -> Confidence | None:
    """Widths and scores of all images at the most probable poses of a table.

    None for a handful of images, of which two maps say nothing. Widths are modulo the group, whose
    axes are the frame's. The result is the same however the images are batched.

    Parameters
    ----------
    mask
        Where the particle may be.
    seed
        Of the run: draws the halves and the samples of the mixtures.
    """
    n = len(spectra)
    if n < LEAST_IMAGES:
        return None
    half = torch.randperm(n, generator=generator_for(seed, "cross-maps")) % 2
    half = half.to(spectra.device)
    maps = cross_maps(spectra, table, half, mask, group)
    draws = torch.randn(SAMPLES, 5, generator=generator_for(seed, "widths")).to(spectra.device)
    width = torch.empty(n, device=spectra.device)
    shift_width = torch.empty(n, device=spectra.device)
    fits: list[ImageFits] = []
    for number in (0, 1):
        index, other = (half == number).nonzero()[:, 0], maps.halves[1 - number]
        judged = image_fits(spectra, index, table, other.decoder, spectra.disc.radius)
        variance = image_noise(judged, other.error, spectra.noise)
        fits.append(judged)
        grid = RivalGrid.of(spectra, other.density)
        for part in index.split(IMAGES_AT_ONCE):
            batch = _judged_batch(spectra, part, variance, other)
            written = table.best_of(part)
            poses = poses_with_rivals(batch, written, other.decoder, grid)
            mixture = pose_mixture(other.decoder, maps, poses, batch)
            width[part], shift_width[part] = mass_radius(mixture, written, draws, MASS, group)
    width_angstrom = spectra.disc.box * spectra.pixel_size_angstrom
    everything = in_stack_order(joined_fits(fits))
    has_shifts = table.shift_box is not None
    return Confidence(
        width_deg=angle_deg(width).cpu(),
        shift_width_angstrom=(shift_width * width_angstrom).cpu() if has_shifts else None,
        score=particle_scores(everything, spectra.noise.scale).cpu(),
    )


def _judged_batch(
    spectra: ParticleSpectra,
    index: Int[Tensor, " batch"],
    variance: Float[Tensor, "group shell"],
    judge: JudgingMap,
) -> ParticleBatch:
    batch = spectra.batch(index, spectra.disc.radius)
    batch = replace(batch, index=torch.arange(len(index), device=index.device))
    return with_map_error(batch, variance[spectra.noise.group[index]], judge.error)


def trusting(noise: NoiseModel, confidence: Confidence | None) -> NoiseModel:
    """The noise model with the last scores as the images' trust, where it is estimated at all."""
    if confidence is None or not noise.estimated:
        return noise
    return replace(noise, trust=confidence.score.to(noise.trust))
