"""How a stack is halved."""

import torch

from cryogimbal.data.half_sets import HalfPoses, HalfSets
from cryogimbal.inference.seeding import generator_for

# Of fewer images a half-map shows too little for a resolution to mean anything.
LEAST_IMAGES = 100


def drawn_half_sets(n_particles: int, seed: int, poses: HalfPoses) -> HalfSets:
    """Two halves of equal size at random; the same ones for the same number of particles and seed."""
    order = torch.randperm(n_particles, generator=generator_for(seed, "half-sets"))
    return HalfSets(number=order % 2 + 1, poses=poses)
