"""Poses of a particle table for the map of the other hand, to the last digit that the table has.

Mirrored in z, a map shows the same images at ``M A M``, ``M = diag(1, 1, -1)``: rot and psi turned by
180 degrees. Mirrored through its centre it does at ``-M A``: psi turned alone. Shifts stay. The numbers
are changed as decimals, not as binary fractions, so that twice is nothing.
"""

import math
from collections.abc import Mapping
from decimal import Decimal

from cryogimbal.errors import InputError
from cryogimbal.io.star_document import number_columns, text_rows
from cryogimbal.io.star_table import ANGLES, StarTable
from cryogimbal.rotations import Mirror

_ROT = ("rlnAngleRot", "rlnAngleRotPrior")
_PSI = ("rlnAnglePsi", "rlnAnglePsiPrior")
_TURNED: Mapping[Mirror, tuple[str, ...]] = {"z": (*_ROT, *_PSI), "centre": _PSI}
_HALF_TURN_DEG = Decimal(180)


def mirrored_pose_columns(table: StarTable, mirror: Mirror) -> dict[str, list[str]]:
    """The columns of a table that change with the hand, with their new texts.

    Raises
    ------
    InputError
        If the table has no angles, or a value is no number.
    """
    if not table.has(ANGLES):
        raise InputError(
            f"{table.path}: table data_{table.particles.name}: expected angles, found not all of "
            f"_{', _'.join(ANGLES)}; name a table of refined particles"
        )
    columns: dict[str, list[str]] = {}
    for name in _TURNED[mirror]:
        if not table.has((name,)):
            continue
        # Says which row is no number.
        number_columns(table.document, table.particles, [name])
        rows = text_rows(table.document, table.particles, [name])
        columns[name] = [_turned(Decimal(values[0])) for values in rows]
    return columns


def _turned(angle_deg: Decimal) -> str:
    """The angle half a turn on: (-180, 0] and (0, 180] change places, and so on beyond them."""
    if not angle_deg.is_finite():
        return str(angle_deg)
    upper = math.ceil(angle_deg / _HALF_TURN_DEG) % 2 == 1
    return f"{angle_deg - _HALF_TURN_DEG if upper else angle_deg + _HALF_TURN_DEG:f}"
