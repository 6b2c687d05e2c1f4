"""Numbers per particle, from its own column or from that of its optics group."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from cryogimbal.errors import InputError
from cryogimbal.io.star_blocks import StarBlock
from cryogimbal.io.star_document import number_columns
from cryogimbal.io.star_table import OPTICS_GROUP, StarTable


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Number columns of the particle and optics tables, each read once."""

    n_particles: int
    particle: dict[str, Float[np.ndarray, " particle"]]
    group: dict[str, Float[np.ndarray, " group"]]
    group_row: Int[np.ndarray, " particle"] | None
    """Row of the optics table for each particle; none without that table."""

    def find(self, name: str) -> Float[np.ndarray, " particle"] | None:
        """One value per particle: its own, or its group's."""
        if name in self.particle:
            return self.particle[name]
        if name in self.group and self.group_row is not None:
            return self.group[name][self.group_row]
        return None


def read_columns(table: StarTable, names: tuple[str, ...]) -> Columns:
    """Read those of the columns that are there, as numbers.

    Raises
    ------
    InputError
        If a value is no number, or the optics groups of particles and optics table do not match.
    """
    wanted = (OPTICS_GROUP, *names)

    def numbers(block: StarBlock) -> dict[str, Float[np.ndarray, " row"]]:
        present = [name for name in wanted if name in block.columns]
        return number_columns(table.document, block, present)

    particle = numbers(table.particles)
    group = {} if table.optics is None else numbers(table.optics)
    return Columns(
        n_particles=table.n_particles,
        particle=particle,
        group=group,
        group_row=None if table.optics is None else _group_rows(table, particle, group),
    )


def _group_rows(
    table: StarTable,
    particle: dict[str, Float[np.ndarray, " particle"]],
    group: dict[str, Float[np.ndarray, " group"]],
) -> Int[np.ndarray, " particle"]:
    """Row of the optics table for each particle."""
    if OPTICS_GROUP not in group:
        raise InputError(f"{table.path}: table data_optics: expected a column _{OPTICS_GROUP}")
    numbers = group[OPTICS_GROUP]
    listed = ", ".join(f"{number:g}" for number in numbers)
    if len(set(numbers)) < len(numbers):
        raise InputError(
            f"{table.path}: table data_optics: expected each _{OPTICS_GROUP} once, found {listed}; "
            "number the groups apart"
        )
    if OPTICS_GROUP not in particle:
        if len(numbers) > 1:
            raise InputError(
                f"{table.path}: table data_{table.particles.name}: expected a column "
                f"_{OPTICS_GROUP}, since there are {len(numbers)} optics groups; add it"
            )
        return np.zeros(table.n_particles, dtype=np.int64)
    wanted = particle[OPTICS_GROUP]
    matches = wanted[:, None] == numbers[None, :]
    lost = np.flatnonzero(~matches.any(axis=1))
    if len(lost):
        raise InputError(
            f"{table.path}: row {lost[0] + 1}: _{OPTICS_GROUP} is {wanted[lost[0]]:g}, expected one "
            f"of data_optics: {listed}; correct the table"
        )
    return matches.argmax(axis=1)
