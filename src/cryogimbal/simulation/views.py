"""Poses to simulate: rotations with a smooth density of view directions, displacements.

View directions v follow von Mises and Fisher about z, ``p(v) ~ exp(kappa v_z)``, whose largest density
is ``exp(2 kappa)`` times its smallest.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.poses import PoseSet
from cryogimbal.rotations import random_rotations, rotvec_to_rotation
from cryogimbal.simulation.settings import SimulationSettings


def draw_poses(settings: SimulationSettings, generator: torch.Generator) -> PoseSet:
    """Rotations as the settings spread them, displacements normal in x and y."""
    n = settings.n_particles
    return PoseSet(
        rotation=draw_rotations(n, settings.view_density_ratio, generator),
        shift_angstrom=settings.shift_sd * torch.randn(n, 2, generator=generator),
    )


def draw_rotations(n: int, ratio: float, generator: torch.Generator) -> Float[Tensor, "n 3 3"]:
    """Rotations whose view directions (third rows) have a density of this ratio; turns uniform.

    The cosine w to the axis has the distribution function ``(e^(k w) - e^-k) / (e^k - e^-k)``, which
    is inverted in closed form.
    """
    if ratio == 1:
        return random_rotations(n, generator)
    kappa = math.log(ratio) / 2
    share, about_beam, about_axis = torch.rand(3, n, generator=generator, dtype=torch.float64)
    cosine = 1 + (share + (1 - share) * math.exp(-2 * kappa)).log() / kappa
    tilt = cosine.clamp(-1, 1).acos()
    zero = torch.zeros_like(tilt)
    turned = (
        rotvec_to_rotation(torch.stack([zero, zero, 2 * math.pi * about_beam], dim=-1))
        @ rotvec_to_rotation(torch.stack([zero, tilt, zero], dim=-1))
        @ rotvec_to_rotation(torch.stack([zero, zero, 2 * math.pi * about_axis], dim=-1))
    )
    return turned.float()
