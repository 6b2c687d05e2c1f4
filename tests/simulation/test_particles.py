"""Simulated stacks: geometry, chance, noise and sign."""

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.fourier.transforms import image_to_hartley
from cryogimbal.imaging.ctf import transfer_function
from cryogimbal.simulation.particles import (
    SimulatedParticles,
    mean_clean_variance,
    simulate_particles,
)
from cryogimbal.simulation.phantoms import phantom
from cryogimbal.simulation.points import PointModel, points_to_density
from cryogimbal.simulation.settings import SimulationSettings

VOXEL_ANGSTROM = 5.0
B_FACTOR = 400.0
# A transfer function of 1 at every frequency: sin(asin(1)).
NO_CTF: dict[str, Any] = {
    "defocus_range": (0.0, 0.0),
    "astigmatism_sd": 0.0,
    "spherical_aberration": 0.0,
    "amplitude_contrast": 1.0,
}
BOXES = [32, 33]


@functools.cache
def phantom_model(box: int) -> PointModel:
    return phantom("asymmetric", box * VOXEL_ANGSTROM)


@functools.cache
def truth(box: int) -> DensityMap:
    return density_of(phantom_model(box), box)


def density_of(model: PointModel, box: int) -> DensityMap:
    return points_to_density(model, box, VOXEL_ANGSTROM, B_FACTOR)


def simulate(box: int, *, random_seed: int = 1, **options: Any) -> SimulatedParticles:
    generator = torch.Generator().manual_seed(random_seed)
    settings = SimulationSettings(**{"n_particles": 40, **options})
    return simulate_particles(truth(box), settings, generator)


def everything(simulated: SimulatedParticles) -> Tensor:
    return torch.arange(len(simulated.stack))


@pytest.mark.parametrize("box", BOXES)
def test_an_image_is_the_projection_of_the_turned_phantom(box: int) -> None:
    model, simulated = phantom_model(box), simulate(box, n_particles=3, **NO_CTF)
    images = simulated.images.read_clean(everything(simulated)) / simulated.images.scale
    for image, rotation in zip(images, simulated.images.poses.rotation, strict=True):
        # The point p of the particle appears at (A p)_xy.
        turned = PointModel(
            name=model.name,
            position_angstrom=model.position_angstrom @ rotation.double().T,
            weight=model.weight,
            species_index=model.species_index,
            amplitude_angstrom=model.amplitude_angstrom,
            width_angstrom2=model.width_angstrom2,
        )
        projection = density_of(turned, box).values.sum(0)
        # Trilinear slices at oversampling 2: 1 to 2 % for a particle of 0.58 of the half-box.
        assert (image - projection).norm() < 0.025 * projection.norm()


@pytest.mark.parametrize("box", BOXES)
def test_the_ctf_multiplies_the_spectrum(box: int) -> None:
    plain, seen = simulate(box, n_particles=3, **NO_CTF), simulate(box, n_particles=3)
    assert torch.equal(plain.images.poses.rotation, seen.images.poses.rotation)
    spectra = [
        image_to_hartley(s.images.read_clean(everything(s)) / s.images.scale) for s in (plain, seen)
    ]
    axis = (torch.arange(box, dtype=torch.float64) - box // 2) / (box * VOXEL_ANGSTROM)
    ky, kx = torch.meshgrid(axis, axis, indexing="ij")
    frequency = torch.stack([kx, ky], dim=-1).flatten(0, 1)
    ctf = transfer_function(seen.stack.ctf, frequency).unflatten(1, (box, box))
    assert (spectra[0] * ctf - spectra[1]).norm() < 1e-4 * spectra[1].norm()


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("snr", [0.1, 2.0])
def test_snr_of_the_stack_is_the_one_asked_for(box: int, snr: float) -> None:
    simulated = simulate(box, n_particles=150, snr=snr)
    index = everything(simulated)
    clean = simulated.images.read_clean(index).double()
    noise = simulated.stack.images.read(index).double() - clean
    mean_variance = clean.var(dim=(1, 2), correction=0).mean()
    assert float(mean_variance) == pytest.approx(snr, rel=1e-4)
    assert mean_clean_variance(simulated.images) == pytest.approx(snr, rel=1e-5)
    # The variance of n normal numbers is known to sqrt(2 / n).
    assert float(noise.var()) == pytest.approx(1.0, abs=5 * math.sqrt(2 / noise.numel()))


def test_noise_is_white_and_differs_from_image_to_image() -> None:
    simulated = simulate(32, n_particles=300)
    index = everything(simulated)
    noise = (simulated.images.read(index) - simulated.images.read_clean(index)).double()
    limit = 5 / math.sqrt(noise.numel())
    assert abs(float(noise.mean())) < limit
    for other in (noise.roll(1, 0), noise.roll(1, 1), noise.roll(1, 2), noise.roll(7, 0)):
        assert abs(float((noise * other).mean())) < limit
    # Kurtosis of a normal distribution is 3, known to sqrt(24 / n).
    assert float(noise.pow(4).mean()) == pytest.approx(3, abs=5 * math.sqrt(96 / noise.numel()))


def test_poses_are_uniform_over_all_rotations() -> None:
    n = 4000
    rotation = simulate(16, n_particles=n).images.poses.rotation.double()
    # An entry of a uniform rotation has mean 0 and variance 1/3, products of two rows mean 0.
    assert rotation.mean(0).abs().max() < 5 / math.sqrt(3 * n)
    direction = rotation[:, 2]
    second = (direction[:, :, None] * direction[:, None, :]).mean(0)
    assert (second - torch.eye(3) / 3).abs().max() < 5 * math.sqrt(4 / 45 / n)
    trace = rotation.diagonal(dim1=1, dim2=2).sum(1)
    # The angle t has density (1 - cos t) / pi: <trace> = 0 and <trace^2> = 1.
    assert abs(float(trace.mean())) < 5 / math.sqrt(n)
    assert float(trace.square().mean()) == pytest.approx(1.0, abs=5 * math.sqrt(2 / n))
    torch.testing.assert_close(
        rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(n, 3, 3),
        atol=1e-5, rtol=0,
    )  # fmt: skip


def test_ctf_values_have_the_spread_asked_for() -> None:
    n = 4000
    ctf = simulate(16, n_particles=n, defocus_range=(8e3, 1.2e4), astigmatism_sd=300.0).stack.ctf
    mean = (ctf.defocus_u_angstrom + ctf.defocus_v_angstrom).double() / 2
    assert float(mean.min()) >= 8e3 - 1
    assert float(mean.max()) <= 1.2e4 + 1
    assert float(mean.mean()) == pytest.approx(1e4, abs=5 * 4e3 / math.sqrt(12 * n))
    difference = (ctf.defocus_u_angstrom - ctf.defocus_v_angstrom).double()
    assert float(difference.min()) >= 0
    rms = float(difference.square().mean().sqrt())
    assert rms == pytest.approx(300.0, rel=5 / math.sqrt(2 * n))
    angle = ctf.defocus_angle_rad.double()
    assert float(angle.min()) >= 0
    assert float(angle.max()) < math.pi
    assert float((2 * angle).cos().mean()) == pytest.approx(0.0, abs=5 / math.sqrt(2 * n))


@pytest.mark.parametrize("box", BOXES)
def test_a_shift_moves_the_particle_by_its_angstroms(box: int) -> None:
    simulated = simulate(box, n_particles=8, shift_sd=6.0, **NO_CTF)
    images = simulated.images.read_clean(everything(simulated)).double()
    axis = (torch.arange(box, dtype=torch.float64) - box // 2) * VOXEL_ANGSTROM
    total = images.sum(dim=(1, 2))
    centre = torch.stack([images.sum(1) @ axis, images.sum(2) @ axis], dim=-1) / total[:, None]
    # Points of equal weight have their centre of mass at the origin before the shift.
    assert (centre - simulated.images.poses.shift_angstrom).abs().max() < 0.5
    assert simulated.images.poses.shift_angstrom.abs().max() > 3.0


def test_without_shifts_every_particle_is_centred() -> None:
    assert simulate(32).images.poses.shift_angstrom.abs().max() == 0


@pytest.mark.parametrize("box", BOXES)
def test_particles_are_light_on_a_dark_background(box: int) -> None:
    simulated = simulate(box, n_particles=5, **NO_CTF)
    images = simulated.images.read_clean(everything(simulated))
    middle = slice(box // 2 - 4, box // 2 + 5)
    assert bool((images[:, middle, middle].mean((1, 2)) > 5 * images[:, 0].abs().mean(1)).all())
    # With a CTF of +Q at zero frequency the whole image sums up to Q times the density.
    seen = simulate(box, n_particles=5, amplitude_contrast=0.1)
    total = seen.images.read_clean(everything(seen)).sum((1, 2)) / seen.images.scale
    expected = 0.1 * seen.truth.values.sum()
    # The zero frequency lies on the grid, where the kernel's correction is worst: a few per cent.
    assert (total - expected).abs().max() < 0.05 * expected


def test_the_same_seed_gives_the_same_stack_in_any_order() -> None:
    first, same, other = simulate(16), simulate(16), simulate(16, random_seed=2)
    index = everything(first)
    images = first.images.read(index)
    assert torch.equal(images, same.images.read(index))
    order = torch.tensor([7, 3, 3, 39])
    torch.testing.assert_close(images[order], first.images.read(order))
    assert torch.equal(first.images.poses.rotation, same.images.poses.rotation)
    assert not torch.equal(first.images.poses.rotation, other.images.poses.rotation)
    assert not torch.equal(first.stack.ctf.defocus_u_angstrom, other.stack.ctf.defocus_u_angstrom)


def test_the_stack_says_what_it_is_made_of() -> None:
    simulated = simulate(17, voltage=200.0)
    (optics,) = simulated.stack.optics
    assert (optics.box, optics.pixel_size_angstrom, optics.voltage_kilovolt) == (17, 5.0, 200.0)
    assert (len(simulated.stack), simulated.stack.box) == (40, 17)
    assert simulated.stack.poses is simulated.images.poses
    assert bool((simulated.stack.ctf.voltage_kilovolt == 200.0).all())


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_density_without_signal_is_refused(value: float, generator: torch.Generator) -> None:
    density = DensityMap(values=torch.full((16, 16, 16), value), voxel_size_angstrom=4.0)
    with pytest.raises(InputError, match=r"density: expected images that vary"):
        simulate_particles(density, SimulationSettings(n_particles=4), generator)
