"""Back-projection of symmetric particles: images at all their poses, and what comes of it."""

import pytest
import torch
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.evaluation.fsc import fourier_shell_correlation
from cryogimbal.fourier.disc import make_disc
from cryogimbal.imaging.backprojection import (
    SufficientStatistics,
    mean_weight_per_shell,
    solve_density,
)
from cryogimbal.imaging.kernels.contract import Hypotheses
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.symmetrisation import sum_on_grid, turned_off_grid
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.rotations import random_rotations
from cryogimbal.symmetry import same_images, symmetry_group
from tests.imaging.gaussian_phantom import GaussianPhantom, random_phantom
from tests.laws import relative_error

GROUPS = ["C1", "C3", "C4", "D2", "D7", "T", "O", "I", "I1", "I3"]


def random_batch(n: int, box: int, generator: torch.Generator) -> ParticleBatch:
    disc = make_disc(box, 0.4 * box)
    observed, ctf = torch.randn(2, n, disc.n_coefficients, generator=generator)
    return ParticleBatch(disc=disc, observed=observed, ctf=ctf, index=torch.arange(n))


def symmetric_sums(
    batch: ParticleBatch, rotation: Tensor, geometry: GridGeometry, name: str
) -> SufficientStatistics:
    group, statistics = symmetry_group(name), SufficientStatistics.zeros(geometry)
    n = len(rotation)
    hypotheses = Hypotheses(rotation=rotation, image=torch.arange(n))
    for turned in turned_off_grid(hypotheses, group):
        statistics.add_hypotheses(batch, turned, torch.ones(n), geometry.oversampling)
    return sum_on_grid(statistics, group)


@pytest.mark.parametrize("name", GROUPS)
def test_sums_are_those_of_every_image_at_every_pose(
    name: str, box: int, generator: torch.Generator
) -> None:
    geometry = GridGeometry(box=box, radius=0.4 * box, oversampling=2)
    batch, rotation = random_batch(3, box, generator), random_rotations(3, generator)
    found = symmetric_sums(batch, rotation, geometry, name)
    expected = SufficientStatistics.zeros(geometry)
    for turned in same_images(rotation, symmetry_group(name)).unbind(1):
        expected.add_images(batch, turned, geometry.oversampling)
    assert relative_error(found.data, expected.data) < 1e-5
    assert relative_error(found.weight, expected.weight) < 1e-5


@pytest.mark.parametrize("name", ["C3", "D2", "T", "I"])
def test_views_of_one_unit_give_the_whole_particle(
    name: str, box: int, generator: torch.Generator
) -> None:
    group = symmetry_group(name)
    unit = random_phantom(generator, n=6, reach=box / 5)
    whole = GaussianPhantom(
        position=(unit.position @ group.operators.mT).flatten(0, 1),
        weight=unit.weight.repeat(group.order),
        sigma=unit.sigma,
    )
    truth = whole.density(box).float()
    geometry = GridGeometry(box=box, radius=box / 2, oversampling=2)
    disc = make_disc(box)
    rotation = random_rotations(1200 // group.order, generator)
    slices = [whole.turned(r).hartley_slice(disc.frequency_index, box) for r in rotation]
    clean = torch.stack(slices).float()
    batch = ParticleBatch(
        disc=disc,
        observed=clean,
        ctf=torch.ones_like(clean),
        index=torch.arange(len(rotation)),
    )

    def against_truth(name: str) -> Tensor:
        sums = symmetric_sums(batch, rotation, geometry, name)
        prior = 1e-3 * mean_weight_per_shell(sums, geometry)
        maps = (solve_density(sums, geometry, prior), truth)
        densities = [DensityMap(values=m, voxel_size_angstrom=1.0) for m in maps]
        curve = fourier_shell_correlation(*densities, poses="truth").correlation
        return curve[1 : int(0.8 * box / 2)]

    assert against_truth(name).min() > 0.98
    # The same few views without the symmetry leave gaps.
    assert against_truth("C1").min() < against_truth(name).min()
