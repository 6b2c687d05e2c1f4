"""Structure factors by direct sums over atoms, one frequency at a time, float64."""

import cmath
import math
from collections.abc import Sequence

Vector = Sequence[float]
# (position in Å, occupancy, a of each Gaussian in Å, b of each Gaussian in Å^2)
Scatterer = tuple[Vector, float, Sequence[float], Sequence[float]]


def structure_factor_by_sum(scatterers: Sequence[Scatterer], frequency: Vector) -> complex:
    """``F(s) = sum_n w_n sum_j a_j exp(-b_j |s|^2 / 4) exp(-2 pi i s.r_n)``, s in 1/Å."""
    squared = sum(s * s for s in frequency)
    total = 0j
    for position, weight, a, b in scatterers:
        form = sum(x * math.exp(-y * squared / 4) for x, y in zip(a, b, strict=True))
        path = sum(s * r for s, r in zip(frequency, position, strict=True))
        total += weight * form * cmath.exp(-2j * math.pi * path)
    return total
