"""The contrast transfer function, in RELION's signs (light particles on a dark background).

``CTF(k) = scale * exp(-B |k|^2 / 4) * sin(pi L D |k|^2 - pi/2 Cs L^3 |k|^4 + p + asin(Q))`` with the
electron wavelength L, the defocus ``D = (U + V)/2 + (U - V)/2 cos(2 (phi - a))`` (underfocus positive),
spherical aberration Cs, phase shift p and amplitude contrast Q. So ``CTF(0) = +Q``. The angle phi runs
from +x (columns) towards +y (rows).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.optics import CtfParameters

ANGSTROM_PER_MM = 1e7


def electron_wavelength_angstrom(voltage_kilovolt: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Relativistic wavelength, ``12.2643247 / sqrt(V (1 + 0.978466e-6 V))`` with V in volts."""
    volt = voltage_kilovolt * 1e3
    return 12.2643247 / (volt * (1 + volt * 0.978466e-6)).sqrt()


def transfer_function(
    ctf: CtfParameters, frequency_per_angstrom: Float[Tensor, "coefficient 2"]
) -> Float[Tensor, "particle coefficient"]:
    """CTF of each particle at each frequency (x, y).

    The phase is linear in ``x^2, y^2, xy, |k|^4`` and 1, so it is one small matrix product; the sine
    is what costs. Phases reach hundreds of radians, hence float64 for the coefficients is kept until
    the product when the caller's frequencies are float64.
    """
    x, y = frequency_per_angstrom.unbind(-1)
    squared = x.square() + y.square()
    basis = torch.stack([x.square(), y.square(), x * y, squared.square(), torch.ones_like(x)])
    phase = _phase_coefficients(ctf).to(basis.dtype) @ basis
    value = ctf.scale[:, None] * phase.sin()
    if bool((ctf.bfactor_angstrom2 != 0).any()):
        value = value * torch.exp(-ctf.bfactor_angstrom2[:, None] / 4 * squared)
    return value


def _phase_coefficients(ctf: CtfParameters) -> Float[Tensor, "particle 5"]:
    wavelength = electron_wavelength_angstrom(ctf.voltage_kilovolt.double())
    mean = (ctf.defocus_u_angstrom.double() + ctf.defocus_v_angstrom.double()) / 2
    half_difference = (ctf.defocus_u_angstrom.double() - ctf.defocus_v_angstrom.double()) / 2
    twice_angle = 2 * ctf.defocus_angle_rad.double()
    along, across = half_difference * twice_angle.cos(), half_difference * twice_angle.sin()
    defocus = math.pi * wavelength
    aberration = ctf.spherical_aberration_mm.double() * ANGSTROM_PER_MM
    return torch.stack(
        [
            defocus * (mean + along),
            defocus * (mean - along),
            defocus * 2 * across,
            -math.pi / 2 * aberration * wavelength**3,
            ctf.phase_shift_rad.double() + torch.asin(ctf.amplitude_contrast.double()),
        ],
        dim=-1,
    )
