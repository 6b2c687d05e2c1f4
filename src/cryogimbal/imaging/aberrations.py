"""By how much an aberration turns the phases of images, at most, up to a frequency.

With k in 1/Å, wavelength L and spherical aberration Cs: a beam tilt t turns the phase by
``2 pi Cs L^2 |k|^2 (t.k)``. Zernike coefficients c_i give ``sum_i c_i Z_i(k)`` with
``Z_i = R(n, |m|, |k|) cos(m phi)``, or ``sin(-m phi)`` for m < 0, where (n, m) of the i-th are
n = 2p, m = 2 (i - p^2 - p), p = floor(sqrt(i)) for the even ones, and n = 2p + 1,
m = 2 (i - p (p + 1)) - n, p = floor((sqrt(1 + 4 i) - 1) / 2) for the odd ones (RELION's order). A
magnification matrix M moves a coefficient by ``|M - 1| |k|``: that is ``2 pi |M - 1| |k| r`` at the edge
of a particle of radius r, and ``2 pi L D |M - 1| |k|^2`` in the CTF of defocus D.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.aberrations import Aberration
from cryogimbal.data.optics import CtfParameters
from cryogimbal.imaging.ctf import ANGSTROM_PER_MM, electron_wavelength_angstrom

N_RADII, N_ANGLES = 40, 72


def phase_error_rad(
    aberration: Aberration,
    ctf: CtfParameters,
    *,
    frequency_per_angstrom: float,
    particle_radius_angstrom: float,
) -> float:
    """Largest phase error (radians) up to a frequency where the aberration is left out.

    Parameters
    ----------
    ctf
        Of all particles of the table.
    frequency_per_angstrom
        The limit.
    particle_radius_angstrom
        Counts for the magnification alone.
    """
    if not all(math.isfinite(value) for value in aberration.values):
        return math.inf
    first, limit = aberration.particle, frequency_per_angstrom
    wavelength = float(electron_wavelength_angstrom(ctf.voltage_kilovolt[first].double()))
    if aberration.kind == "beam tilt":
        tilt = 1e-3 * math.hypot(*aberration.values)
        spherical = float(ctf.spherical_aberration_mm[first]) * ANGSTROM_PER_MM
        found = 2 * math.pi * spherical * wavelength**2 * limit**3 * tilt
    elif aberration.kind == "anisotropic magnification":
        matrix = torch.tensor(aberration.values, dtype=torch.float64).view(2, 2)
        off = float(torch.linalg.matrix_norm(matrix - torch.eye(2, dtype=torch.float64), 2))
        defocus = float(ctf.defocus_u_angstrom.abs().max())
        found = (
            2 * math.pi * off * limit * max(particle_radius_angstrom, wavelength * defocus * limit)
        )
    else:
        axis = torch.linspace(0, limit, N_RADII, dtype=torch.float64)
        angle = torch.linspace(0, 2 * math.pi, N_ANGLES + 1, dtype=torch.float64)
        radius, phi = torch.meshgrid(axis, angle, indexing="ij")
        odd = aberration.kind == "odd Zernike"
        terms = [
            value * zernike(*zernike_order(i, odd=odd), radius, phi)
            for i, value in enumerate(aberration.values)
        ]
        found = float(torch.stack(terms).sum(0).abs().max())
    return found


def zernike_order(i: int, *, odd: bool) -> tuple[int, int]:
    """Degree n and angular order m of the i-th polynomial (from 0) of one parity."""
    if odd:
        p = (math.isqrt(1 + 4 * i) - 1) // 2
        return 2 * p + 1, 2 * (i - p * (p + 1)) - (2 * p + 1)
    p = math.isqrt(i)
    return 2 * p, 2 * (i - p * p - p)


def zernike(
    n: int, m: int, radius: Float[Tensor, "*n"], phi: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """Zernike polynomial of degree n and order m at points in polar coordinates."""
    order = abs(m)
    total = torch.zeros_like(radius)
    for step in range((n - order) // 2 + 1):
        ways = math.factorial(n - step) // (
            math.factorial(step)
            * math.factorial((n + order) // 2 - step)
            * math.factorial((n - order) // 2 - step)
        )
        total = total + (-1) ** step * ways * radius ** (n - 2 * step)
    return total * (torch.cos(m * phi) if m >= 0 else torch.sin(-m * phi))
