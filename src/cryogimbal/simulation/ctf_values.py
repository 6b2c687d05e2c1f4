"""CTF values to simulate: drawn from ranges, or from those of real images."""

import math

import torch

from cryogimbal.data.optics import CtfParameters
from cryogimbal.io.ctf_table import read_ctf_table
from cryogimbal.simulation.settings import SimulationSettings


def draw_ctf(settings: SimulationSettings, generator: torch.Generator) -> CtfParameters:
    """CTF values of every image.

    From a table rows are drawn without repetition, as far as they reach. Otherwise the mean defocus is
    uniform in its range, the astigmatism normal, its angle uniform in [0, pi).

    Raises
    ------
    InputError
        If the table cannot be used.
    """
    n = settings.n_particles
    if settings.ctf_table is not None:
        table = read_ctf_table(settings.ctf_table)
        order = torch.randperm(len(table), generator=generator)
        return table[order[torch.arange(n) % len(table)]]
    one = torch.ones(n)
    low, high = settings.defocus_range
    defocus = low + (high - low) * torch.rand(one.shape, generator=generator)
    half = settings.astigmatism_sd / 2 * torch.randn(one.shape, generator=generator).abs()
    return CtfParameters(
        defocus_u_angstrom=defocus + half,
        defocus_v_angstrom=defocus - half,
        defocus_angle_rad=math.pi * torch.rand(one.shape, generator=generator),
        phase_shift_rad=0 * one,
        voltage_kilovolt=settings.voltage * one,
        spherical_aberration_mm=settings.spherical_aberration * one,
        amplitude_contrast=settings.amplitude_contrast * one,
        bfactor_angstrom2=0 * one,
        scale=one,
    )
