"""What a lens does beyond the CTF, as a table tells it."""

from dataclasses import dataclass
from typing import Literal

AberrationKind = Literal["beam tilt", "odd Zernike", "even Zernike", "anisotropic magnification"]


@dataclass(frozen=True, kw_only=True)
class Aberration:
    """One aberration that some particles of a table have."""

    kind: AberrationKind
    values: tuple[float, ...]
    """Beam tilt x, y in mrad; coefficients in rad of the polynomials in k (1/Å), in RELION's order; or
    the magnification matrix 00, 01, 10, 11. Infinite where the table holds no number."""
    columns: tuple[str, ...]
    """Where it stands in the table."""
    place: str
    """Table and row, for messages."""
    particle: int
    """The first particle that has it, from 0."""
