"""Damped Gauss-Newton steps lower the residual, never raise it, and end at the true pose."""

import torch
from torch import Tensor

from cryogimbal.fourier.disc import make_disc, mirror_row
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.pose_fit import hypotheses_of, pose_fits
from cryogimbal.imaging.slices import PreparedGrid
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.gauss_newton import FIRST_DAMPING, gauss_newton
from cryogimbal.rotations import geodesic_distance_deg, random_rotations, rotvec_to_rotation
from tests.small_particles import blob_density


def noiseless(
    box: int, n: int, generator: torch.Generator
) -> tuple[PreparedGrid, ParticleBatch, Tensor]:
    geometry = GridGeometry(box=box, radius=box / 2, oversampling=2)
    grid = geometry.grid_of_density(blob_density(box, generator))
    prepared, disc = PreparedGrid.of(grid, 2), make_disc(box, box / 4)
    truth = random_rotations(n, generator)
    ctf = torch.rand(n, disc.n_coefficients, generator=generator) + 0.5
    # Even in k, as every CTF is.
    ctf = (ctf + mirror_row(ctf)) / 2
    observed = ctf * prepared.slices(truth, disc)
    batch = ParticleBatch(disc=disc, observed=observed, ctf=ctf, index=torch.arange(n))
    return prepared, batch, truth


def test_steps_find_the_true_pose(box: int, generator: torch.Generator) -> None:
    prepared, batch, truth = noiseless(box, 30, generator)
    start = rotvec_to_rotation(0.08 * torch.randn(30, 3, generator=generator)) @ truth
    found = gauss_newton(
        prepared,
        hypotheses_of(start[:, None]),
        batch,
        damping=torch.full((30,), FIRST_DAMPING),
        n_steps=10,
    )
    errors = geodesic_distance_deg(found.hypotheses.rotation, truth)
    assert float(errors.median()) < 0.02
    assert float((errors < 0.5).float().mean()) > 0.9


def test_no_step_raises_the_residual_and_sums_are_those_of_the_pose(
    box: int, generator: torch.Generator
) -> None:
    prepared, batch, _ = noiseless(box, 12, generator)
    anywhere = random_rotations(36, generator).view(12, 3, 3, 3)
    hypotheses = hypotheses_of(anywhere)
    before, _ = pose_fits(prepared, hypotheses, batch)
    damping = torch.full((36,), FIRST_DAMPING)
    for _ in range(4):
        found = gauss_newton(prepared, hypotheses, batch, damping=damping, n_steps=1)
        assert bool((found.residual <= before * (1 + 1e-5)).all())
        moved = geodesic_distance_deg(found.hypotheses.rotation, hypotheses.rotation)
        taken = moved > 1e-3
        assert bool((found.damping[taken] < damping[taken]).all())
        assert bool((found.damping[~taken] >= damping[~taken]).all())
        hypotheses = hypotheses_of(found.hypotheses.rotation.view(12, 3, 3, 3))
        residual, power = pose_fits(prepared, hypotheses, batch)
        torch.testing.assert_close(found.residual, residual, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.power, power, rtol=1e-3, atol=1e-3)
        before, damping = found.residual, found.damping


def test_an_image_without_information_stays(generator: torch.Generator) -> None:
    prepared, batch, truth = noiseless(16, 3, generator)
    blind = ParticleBatch(
        disc=batch.disc,
        observed=batch.observed,
        ctf=torch.zeros_like(batch.ctf),
        index=batch.index,
    )
    found = gauss_newton(
        prepared,
        hypotheses_of(truth[:, None]),
        blind,
        damping=torch.full((3,), FIRST_DAMPING),
        n_steps=3,
    )
    assert torch.equal(found.hypotheses.rotation, truth)


def test_steps_find_rotation_and_shift_together(box: int, generator: torch.Generator) -> None:
    prepared, batch, truth = noiseless(box, 30, generator)
    shift = 0.05 * torch.randn(30, 2, generator=generator)
    batch = batch.centred(-shift)
    start = rotvec_to_rotation(0.08 * torch.randn(30, 3, generator=generator)) @ truth
    off_by = 0.1 / batch.disc.radius * torch.randn(30, 2, generator=generator)
    found = gauss_newton(
        prepared,
        hypotheses_of(start[:, None], (shift + off_by)[:, None]),
        batch,
        damping=torch.full((30,), FIRST_DAMPING),
        n_steps=15,
    )
    errors = geodesic_distance_deg(found.hypotheses.rotation, truth)
    assert found.hypotheses.shift_box is not None
    apart = (found.hypotheses.shift_box - shift).norm(dim=1)
    assert float(errors.median()) < 0.05
    assert float(apart.median()) < 1e-3
    assert float(((errors < 0.5) & (apart < 0.01)).float().mean()) > 0.85
