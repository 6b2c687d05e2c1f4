"""The contrast transfer function, one particle and one frequency at a time, as RELION words it."""

import math

import torch
from torch import Tensor

from cryogimbal.data.optics import CtfParameters


def ctf_by_loop(ctf: CtfParameters, frequency_per_angstrom: Tensor) -> Tensor:
    """``-sin(gamma) exp(-B k^2 / 4) scale`` with gamma from the defocus along each direction."""
    out = torch.zeros(len(ctf), len(frequency_per_angstrom), dtype=torch.float64)
    for particle in range(len(ctf)):
        volt = 1e3 * float(ctf.voltage_kilovolt[particle])
        wavelength = 12.2643247 / math.sqrt(volt * (1 + volt * 0.978466e-6))
        cs = 1e7 * float(ctf.spherical_aberration_mm[particle])
        u, v = (float(d[particle]) for d in (ctf.defocus_u_angstrom, ctf.defocus_v_angstrom))
        contrast = float(ctf.amplitude_contrast[particle])
        for place, (x, y) in enumerate(frequency_per_angstrom.tolist()):
            k = math.hypot(x, y)
            azimuth = math.atan2(y, x) - float(ctf.defocus_angle_rad[particle])
            defocus = 0.5 * (u + v) + 0.5 * (u - v) * math.cos(2 * azimuth)
            gamma = (
                -math.pi * wavelength * defocus * k**2
                + math.pi / 2 * cs * wavelength**3 * k**4
                - float(ctf.phase_shift_rad[particle])
                - math.atan(contrast / math.sqrt(1 - contrast**2))
            )
            decay = math.exp(-float(ctf.bfactor_angstrom2[particle]) / 4 * k**2)
            out[particle, place] = -math.sin(gamma) * decay * float(ctf.scale[particle])
    return out
