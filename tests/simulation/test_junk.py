"""Junk: as much as asked for, of the kinds asked for, and what each kind holds."""

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.errors import InputError
from cryogimbal.simulation import junk as kinds
from cryogimbal.simulation.junk import JUNK_KINDS, no_junk
from cryogimbal.simulation.particles import SimulatedParticles, simulate_particles
from cryogimbal.simulation.settings import SimulationSettings
from cryogimbal.simulation.sources import source_to_density

BOXES = [24, 25]


@functools.cache
def truth(box: int) -> DensityMap:
    return source_to_density("asymmetric", SimulationSettings(box=box, pixel_size=8.0))


def simulate(box: int, **options: Any) -> SimulatedParticles:
    given = {"n_particles": 200, "junk_fraction": 0.2, "snr": 0.1, **options}
    settings = SimulationSettings(**given)
    return simulate_particles(truth(box), settings, torch.Generator().manual_seed(3))


def of_kind(simulated: SimulatedParticles, kind: str) -> Tensor:
    names = simulated.images.junk.names
    return torch.tensor([row for row, name in enumerate(names) if name == kind])


def residual(simulated: SimulatedParticles, index: Tensor) -> Tensor:
    """What is in the images beside their particles."""
    return simulated.images.read(index) - simulated.images.read_clean(index)


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.33])
def test_shares_are_those_asked_for(fraction: float) -> None:
    names = simulate(16, junk_fraction=fraction).images.junk.names
    counts = [names.count(kind) for kind in JUNK_KINDS]
    assert sum(counts) == round(200 * fraction) == 200 - names.count("none")
    assert max(counts) - min(counts) <= 1


def test_kinds_can_be_chosen_and_lie_anywhere_in_the_stack() -> None:
    simulated = simulate(16, junk_kinds=("edge", "noise"), junk_fraction=0.5)
    names = simulated.images.junk.names
    assert {name: names.count(name) for name in set(names)} == {
        "none": 100,
        "edge": 50,
        "noise": 50,
    }
    # 100 of 200 in each half, but for chance (a hypergeometric deviation of 3.5).
    assert abs(names[:100].count("none") - 50) < 18


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("options", [{}, {"noise_length": 40.0, "noise_floor": 0.1}])
def test_snr_is_that_of_the_images_that_are_no_junk(box: int, options: dict[str, float]) -> None:
    simulated = simulate(box, **options)
    particles = of_kind(simulated, "none")
    clean = simulated.images.read_clean(particles).double()
    assert float(clean.var(dim=(1, 2), correction=0).mean()) == pytest.approx(0.1, rel=1e-4)
    noise = residual(simulated, particles).double()
    # Coloured noise has fewer independent numbers: its variance is known to 1 % here.
    assert float(noise.var()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("box", BOXES)
def test_noise_alone_holds_no_particle(box: int) -> None:
    simulated = simulate(box)
    index = of_kind(simulated, "noise")
    assert len(index) == 10
    assert float(simulated.images.read_clean(index).abs().max()) == 0
    assert float(simulated.images.read(index).std()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("box", BOXES)
def test_beyond_an_edge_there_is_one_grey_value(box: int) -> None:
    simulated = simulate(box)
    sides = set()
    for image in simulated.images.read(of_kind(simulated, "edge")):
        for turn in range(4):
            turned = torch.rot90(image, turn)
            blank = turned.amax(1) == turned.amin(1)
            if not bool(blank[0]):
                continue
            sides.add(turn)
            n = int(blank.sum())
            assert bool(blank[:n].all())
            assert 0.3 * box <= n < 0.7 * box + 1
            assert float(turned[:n].max()) == float(turned[:n].min())
            # What is inside the frame is noise.
            assert float(turned[n:].std()) == pytest.approx(1.0, abs=0.25)
    assert len(sides) > 1


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("contrast", "sign"), [("light", 1.0), ("dark", -1.0)])
def test_a_contaminant_is_a_spot_as_bright_as_promised(
    box: int, contrast: str, sign: float
) -> None:
    simulated = simulate(box, contrast=contrast)
    index = of_kind(simulated, "contaminant")
    none = replace(simulated.images, junk=no_junk(200))
    noise = none.read(index) - none.read_clean(index)
    spot = sign * (simulated.images.read(index) - noise)
    low, high = kinds.CONTAMINANT_BRIGHTNESS
    assert float(spot.min()) > -1e-4
    peak = spot.amax(dim=(1, 2))
    assert bool(((peak > low - 1e-3) & (peak < high + 1e-3)).all())
    area = (spot / peak[:, None, None]).sum((1, 2)) / box**2
    radius = (area / torch.pi).sqrt()
    limits = kinds.CONTAMINANT_RADIUS
    assert bool(((radius > limits[0] - 0.03) & (radius < limits[1] + 0.03)).all())


@pytest.mark.parametrize("box", BOXES)
def test_a_pair_is_the_sum_of_two_particles_apart(box: int) -> None:
    simulated = simulate(box, shift_sd=8.0)
    images, index = simulated.images, of_kind(simulated, "pair")
    second = replace(images, junk=no_junk(200), poses=images.junk.second)
    first = replace(images, junk=no_junk(200))
    both = first.read_clean(index) + second.read_clean(index)
    torch.testing.assert_close(images.read_clean(index), both, atol=1e-5, rtol=0)
    apart = images.poses.shift_angstrom[index] - images.junk.second.shift_angstrom[index]
    distance = apart.norm(dim=1) / (box * 8.0)
    low, high = kinds.PAIR_DISTANCE
    assert bool(((distance > low - 1e-4) & (distance < high + 1e-4)).all())
    # Their middle is displaced as particles are.
    middle = (images.poses.shift_angstrom + images.junk.second.shift_angstrom)[index] / 2
    assert float(middle.norm(dim=1).max()) < 5 * 8.0


def test_particles_are_the_same_with_and_without_junk_beside_them() -> None:
    simulated, alone = simulate(16), simulate(16, junk_fraction=0.0)
    index = of_kind(simulated, "none")
    assert torch.equal(residual_seed(simulated, index), residual_seed(alone, index))
    assert torch.equal(simulated.images.poses.rotation[index], alone.images.poses.rotation[index])


def residual_seed(simulated: SimulatedParticles, index: Tensor) -> Tensor:
    return replace(simulated.images, scale=0.0).read(index)


def test_dark_particles_are_light_ones_with_the_other_sign() -> None:
    light, dark = simulate(16), simulate(16, contrast="dark")
    index = torch.arange(200)
    assert torch.equal(dark.images.read_clean(index), -light.images.read_clean(index))
    particles = of_kind(light, "none")
    torch.testing.assert_close(residual(dark, particles), residual(light, particles))


def test_images_do_not_depend_on_what_is_read_with_them() -> None:
    simulated = simulate(16, noise_length=40.0)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    together = simulated.images.read(torch.arange(200))
    torch.testing.assert_close(simulated.images.read(order), together[order])


def test_junk_alone_is_refused() -> None:
    with pytest.raises(InputError, match=r"--junk-fraction: expected a particle among the 2"):
        simulate(16, n_particles=2, junk_fraction=0.9)


def test_shifts_beyond_the_box_are_refused() -> None:
    with pytest.raises(InputError, match=r"--shift-sd: expected at most half the box \(64.0 Å\)"):
        simulate(16, shift_sd=65.0)
