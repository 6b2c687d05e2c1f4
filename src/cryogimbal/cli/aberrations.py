"""Aberrations that are left out: told with their size, or refused where they matter."""

import math

from cryogimbal.data.aberrations import Aberration
from cryogimbal.data.particles import ParticleStack
from cryogimbal.errors import InputError
from cryogimbal.imaging.aberrations import phase_error_rad
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.io.star_table import StarTable

# Phases this far off still add up to 94 % of what they should.
MOST_PHASE_ERROR_DEG = 20.0
# Of a particle whose diameter is not known, as a fraction of the field of view.
USUAL_RADIUS = 0.35


def told_aberrations(
    table: StarTable, stack: ParticleStack, working_box: int, config: ReconstructionConfig
) -> tuple[str, ...]:
    """One sentence for each kind of aberration in a table, with its size at the working limit.

    Raises
    ------
    InputError
        If one turns phases by more than 20 degrees there and the options do not say to ignore it.
    """
    limit_angstrom = 2 * stack.width_angstrom / working_box
    diameter = config.particle_diameter
    radius = USUAL_RADIUS * stack.width_angstrom if diameter is None else diameter / 2
    largest: dict[str, tuple[float, Aberration]] = {}
    for one in table.aberrations:
        error = phase_error_rad(
            one,
            stack.ctf,
            frequency_per_angstrom=1 / limit_angstrom,
            particle_radius_angstrom=radius,
        )
        size = math.degrees(error)
        if one.kind not in largest or size > largest[one.kind][0]:
            largest[one.kind] = (size, one)
    for size, one in largest.values():
        if size > MOST_PHASE_ERROR_DEG and not config.ignore_aberrations:
            raise InputError(
                f"{table.path}: {one.place}: {one.kind} (_{', _'.join(one.columns)}) turns phases by up "
                f"to {size:.3g}° at the working limit of {limit_angstrom:.3g} Å, expected at most "
                f"{MOST_PHASE_ERROR_DEG:g}°, for it is not modelled; give a smaller --working-box, "
                "correct the images for it, or give --ignore-aberrations"
            )
    return tuple(
        f"{one.kind} (_{', _'.join(one.columns)}) is left out: phases are up to {size:.2g}° off at the "
        f"working limit of {limit_angstrom:.3g} Å"
        for size, one in largest.values()
    )
