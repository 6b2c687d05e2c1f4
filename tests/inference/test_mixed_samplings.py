"""A stack of two samplings is as good as a stack of one, from poses to map."""

from dataclasses import replace

import torch
from torch import Tensor

from cryogimbal.data.half_sets import HalfSets
from cryogimbal.data.poses import PoseSet
from cryogimbal.imaging.spectra import Preprocessing, read_spectra
from cryogimbal.imaging.stack_sums import StackReading
from cryogimbal.inference.final_maps import FinalMapsSettings, reconstruct_final_maps
from cryogimbal.inference.memory_budget import MemoryBudget
from cryogimbal.inference.mode_search import ModeSearch, find_modes
from cryogimbal.rotations import geodesic_distance_deg, random_rotations
from tests.imaging.gaussian_phantom import random_phantom
from tests.mixed_samplings import SIGMA, group_of, mixed_stack, phantom_in_pixels

NARROW, WIDE = group_of(30, 4.0), group_of(49, 2.9)
WORKING_BOX, N = 24, 240


def likeness(a: Tensor, b: Tensor) -> float:
    """Correlation of two maps."""
    a, b = (one.double() - one.double().mean() for one in (a, b))
    return float((a * b).sum() / (a.norm() * b.norm()))


def test_two_samplings_are_as_good_as_one(generator: torch.Generator) -> None:
    phantom = random_phantom(generator, reach=24.0, sigma=SIGMA)
    phantom = replace(phantom, weight=0.5 * phantom.weight)
    rotation = random_rotations(N, generator)
    truth = phantom_in_pixels(phantom, 120.0 / WORKING_BOX).density(WORKING_BOX).float()
    half = HalfSets(number=1 + torch.arange(N) % 2, poses="shared")
    search = ModeSearch(radius=8.0, n_side=4, n_modes=1)
    errors, likenesses = [], []
    for groups in ((NARROW,), (NARROW, WIDE)):
        stack = mixed_stack(phantom, rotation, groups, generator)
        spectra = read_spectra(stack, WORKING_BOX, Preprocessing(particle_diameter_angstrom=100.0))
        found = find_modes(spectra, truth, search, MemoryBudget.of_mebibytes(64)).rotation[:, 0]
        errors.append(float(geodesic_distance_deg(found, rotation).median()))
        reading = StackReading(
            box=WORKING_BOX, particle_diameter_angstrom=100.0, noise=spectra.noise
        )
        poses = PoseSet(rotation=found, shift_angstrom=torch.zeros(N, 2))
        maps = reconstruct_final_maps(stack, poses, half, FinalMapsSettings(reading=reading))
        likenesses.append(likeness(maps.density.values, truth))
    # Noise of the same density in both samplings, so that images of both say as much.
    assert errors[0] < 8.0
    assert errors[1] < 1.15 * errors[0]
    assert likenesses[0] > 0.9
    assert likenesses[1] > likenesses[0] - 0.01
