"""CTF values for tests: usual ranges of a microscope, every field in use."""

import math
from dataclasses import fields, replace

import torch
from torch import Tensor

from cryogimbal.data.optics import CtfParameters


def random_ctf(n: int, generator: torch.Generator) -> CtfParameters:
    """Each field uniform over its usual range, float64."""

    def uniform(low: float, high: float) -> Tensor:
        unit = torch.rand(n, generator=generator, dtype=torch.float64)
        return low + (high - low) * unit

    defocus = uniform(5e3, 3e4)
    return CtfParameters(
        defocus_u_angstrom=defocus + uniform(-1e3, 1e3),
        defocus_v_angstrom=defocus,
        defocus_angle_rad=uniform(-math.pi, math.pi),
        phase_shift_rad=uniform(0, math.pi),
        voltage_kilovolt=uniform(100, 300),
        spherical_aberration_mm=uniform(0.01, 2.7),
        amplitude_contrast=uniform(0.05, 0.15),
        bfactor_angstrom2=uniform(0, 50),
        scale=uniform(0.8, 1.2),
    )


def in_float32(ctf: CtfParameters) -> CtfParameters:
    """The same values rounded."""
    return replace(ctf, **{f.name: getattr(ctf, f.name).float() for f in fields(ctf)})
