import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cryogimbal.data.optics import OpticsGroup
from cryogimbal.data.particles import ArrayImages, ParticleStack
from cryogimbal.data.poses import PoseSet
from cryogimbal.imaging import stack_sums
from cryogimbal.imaging.backprojection import SufficientStatistics
from cryogimbal.imaging.noise import NoiseModel
from cryogimbal.imaging.stack_sums import StackReading, centred_batches, sum_stack
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.rotations import random_rotations
from cryogimbal.symmetry import symmetry_group
from tests.imaging.optics_values import in_float32, random_ctf
from tests.reference.ctf_loop import ctf_by_loop
from tests.reference.direct_slice import backprojection_by_loop
from tests.reference.hartley_sum import frequencies_by_sorting, hartley_by_sums

PIXEL_SIZE_ANGSTROM = 2.5
N = 5
C1 = symmetry_group("C1")


def random_stack(side: int, generator: torch.Generator) -> tuple[ParticleStack, PoseSet]:
    groups = tuple(
        OpticsGroup(
            name=name,
            voltage_kilovolt=300.0,
            spherical_aberration_mm=2.7,
            amplitude_contrast=0.1,
            pixel_size_angstrom=PIXEL_SIZE_ANGSTROM,
            box=side,
        )
        for name in ("one", "two")
    )
    stack = ParticleStack(
        images=ArrayImages(values=3 + 2 * torch.randn(N, side, side, generator=generator)),
        ctf=in_float32(random_ctf(N, generator)),
        optics=groups,
        optics_index=torch.arange(N) % 2,
    )
    shift = 4 * torch.randn(N, 2, generator=generator)
    return stack, PoseSet(rotation=random_rotations(N, generator), shift_angstrom=shift)


def row_by_sums(
    image: Tensor, shift_angstrom: Tensor, frequencies: list[tuple[int, int]]
) -> Tensor:
    """Normalised by the ring outside the inscribed circle, transformed, moved back by its shift."""
    side, width = len(image), len(image) * PIXEL_SIZE_ANGSTROM
    c = side // 2
    ring = [
        float(image[y, x])
        for y in range(side)
        for x in range(side)
        if math.hypot(x - c, y - c) > side / 2
    ]
    mean = sum(ring) / len(ring)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in ring) / (len(ring) - 1))
    spectrum = hartley_by_sums((image.double() - mean) / deviation)
    row = []
    for kx, ky in frequencies:
        # Content moved by -t: H'(k) = cos(2 pi k.t) H(k) - sin(2 pi k.t) H(-k).
        angle = (
            2 * math.pi * (kx * float(shift_angstrom[0]) + ky * float(shift_angstrom[1])) / width
        )
        here, there = spectrum[c + ky, c + kx], spectrum[c - ky, c - kx]
        row.append(math.cos(angle) * float(here) - math.sin(angle) * float(there))
    return torch.tensor(row, dtype=torch.float64)


@pytest.mark.parametrize(("side", "working"), [(9, 9), (10, 8), (10, 7)])
@pytest.mark.parametrize("noise", ["white", "coloured"])
def test_sums_equal_those_of_loops(
    side: int, working: int, noise: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_sums, "PIXELS_AT_ONCE", 2 * side**2)
    stack, poses = random_stack(side, generator)
    power = 0.5 + torch.rand(2, 4, generator=generator)
    scale = 0.5 + torch.rand(N, generator=generator)
    model = NoiseModel(
        variance=power, scale=scale, group=stack.optics_index, trust=torch.ones_like(scale)
    )
    reading = StackReading(box=working, noise=model if noise == "coloured" else None)
    geometry = GridGeometry(box=working, radius=working / 2, oversampling=2)
    chosen = torch.tensor([0, 2, 3, 4])
    found = sum_stack(stack, poses, chosen, reading, geometry, C1)

    frequencies = frequencies_by_sorting(working, working / 2)
    steps = torch.tensor(frequencies, dtype=torch.float64)
    images = stack.images.read(chosen)
    rows = torch.stack(
        [
            row_by_sums(image, poses.shift_angstrom[i], frequencies)
            for image, i in zip(images, chosen, strict=True)
        ]
    )
    ctf = ctf_by_loop(stack.ctf[chosen], steps / (side * PIXEL_SIZE_ANGSTROM))
    variance = torch.ones_like(ctf)
    if noise == "coloured":
        ctf = ctf * scale[chosen, None]
        for place, i in enumerate(chosen.tolist()):
            for j, (kx, ky) in enumerate(frequencies):
                variance[place, j] = power[i % 2, min(3, round(math.hypot(kx, ky)))]
    for grid, values in (
        (found.data, ctf * rows / variance),
        (found.weight, ctf.square() / variance),
    ):
        expected = backprojection_by_loop(values, poses.rotation[chosen], steps, geometry.side, 2)
        torch.testing.assert_close(grid.double(), expected, atol=2e-4, rtol=0)


def test_moving_an_image_and_its_shift_together_changes_nothing(
    box: int, generator: torch.Generator
) -> None:
    stack, poses = random_stack(box, generator)
    moved_px = torch.tensor([[2, -1], [0, 3], [-4, 0], [1, 1], [0, 0]])
    values = stack.images.read(torch.arange(N))
    rolled = torch.stack(
        [v.roll((int(y), int(x)), (0, 1)) for v, (x, y) in zip(values, moved_px, strict=True)]
    )
    # The whole image is background here, so that rolling does not change its mean and deviation.
    shift = poses.shift_angstrom + moved_px * PIXEL_SIZE_ANGSTROM
    other = replace(stack, images=ArrayImages(values=rolled))
    reading = StackReading(box=box, particle_diameter_angstrom=0.1 * PIXEL_SIZE_ANGSTROM)
    everything = torch.arange(N)
    (before,) = centred_batches(stack, poses, everything, reading)
    (after,) = centred_batches(other, replace(poses, shift_angstrom=shift), everything, reading)
    # All but the centre pixel count as background.
    torch.testing.assert_close(after.observed[:, 1:], before.observed[:, 1:], atol=0.05, rtol=0)
    assert not torch.allclose(
        after.observed, next(iter(centred_batches(other, poses, everything, reading))).observed,
        atol=0.5,
    )  # fmt: skip


def test_dark_particles_are_added_with_the_opposite_sign(generator: torch.Generator) -> None:
    stack, poses = random_stack(8, generator)
    geometry, everything = GridGeometry(box=8, radius=4.0, oversampling=1), torch.arange(N)
    light, dark = (
        sum_stack(stack, poses, everything, StackReading(box=8, contrast_sign=s), geometry, C1)
        for s in (1.0, -1.0)
    )
    torch.testing.assert_close(dark.data, -light.data)
    torch.testing.assert_close(dark.weight, light.weight)


def test_equal_noise_everywhere_scales_the_sums(box: int, generator: torch.Generator) -> None:
    stack, poses = random_stack(box, generator)
    geometry = GridGeometry(box=box, radius=box / 2, oversampling=1)
    everything = torch.arange(N)

    def sums(variance: float) -> SufficientStatistics:
        power = torch.full((2, 3), variance)
        noise = NoiseModel(
            variance=power,
            scale=torch.ones(N),
            group=stack.optics_index,
            trust=torch.ones(N),
        )
        reading = StackReading(box=box, noise=noise)
        return sum_stack(stack, poses, everything, reading, geometry, C1)

    white, louder = sums(1.0), sums(4.0)
    torch.testing.assert_close(louder.data, white.data / 4)
    torch.testing.assert_close(louder.weight, white.weight / 4)


@pytest.mark.parametrize("name", ["C3", "D2"])
def test_a_symmetric_particle_is_summed_over_all_its_poses(
    name: str, generator: torch.Generator
) -> None:
    stack, poses = random_stack(8, generator)
    group, everything = symmetry_group(name), torch.arange(N)
    reading, geometry = StackReading(box=8), GridGeometry(box=8, radius=4.0, oversampling=2)
    found = sum_stack(stack, poses, everything, reading, geometry, group)
    data, weight = torch.zeros_like(found.data), torch.zeros_like(found.weight)
    for operator in group.operators:
        turned = replace(poses, rotation=poses.rotation @ operator.float())
        one = sum_stack(stack, turned, everything, reading, geometry, C1)
        data, weight = data + one.data, weight + one.weight
    torch.testing.assert_close(found.data, data, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.weight, weight, atol=1e-3, rtol=0)
