"""The particle table of a STAR file: which of its tables it is, its poses and its image names."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cryogimbal.data.aberrations import Aberration
from cryogimbal.errors import InputError
from cryogimbal.io.stack_images import ImageNames, parse_image_names
from cryogimbal.io.star_blocks import StarBlock
from cryogimbal.io.star_document import (
    StarDocument,
    number_columns,
    read_star,
    text_rows,
)

IMAGE_NAME = "rlnImageName"
OPTICS_GROUP = "rlnOpticsGroup"
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGIN_ANGSTROM = ("rlnOriginXAngst", "rlnOriginYAngst")
ORIGIN_PIXEL = ("rlnOriginX", "rlnOriginY")


@dataclass(frozen=True, kw_only=True)
class StarTable:
    """A particle table as it was read, so that it can be written again with new values."""

    document: StarDocument
    particles: StarBlock
    optics: StarBlock | None
    """Optics table; none up to RELION 3.0."""
    warnings: tuple[str, ...] = ()
    """What was assumed, one sentence each."""
    aberrations: tuple[Aberration, ...] = ()
    """What the CTF alone does not say of the images."""
    image_files: tuple[Path, ...] = ()
    """Found file of each distinct path in the table; empty if they were not looked for."""

    @property
    def path(self) -> Path:
        """The file it was read from."""
        return self.document.path

    @property
    def n_particles(self) -> int:
        """Number of rows."""
        return self.particles.n_rows

    def has(self, columns: tuple[str, ...]) -> bool:
        """Whether the particle table has all of these columns."""
        return all(column in self.particles.columns for column in columns)


def read_table(path: Path) -> StarTable:
    """Read a STAR file and find its particle and optics tables; images are not looked for.

    Raises
    ------
    InputError
        If there is no particle table, more than one, or one without rows.
    """
    document = read_star(path)
    particles = _particle_block(document)
    if particles.n_rows == 0:
        raise InputError(
            f"{path}: table data_{particles.name}: expected at least one particle, found no rows"
        )
    optics = document.block("optics")
    if optics is not None and optics.n_rows == 0:
        optics = None
    return StarTable(document=document, particles=particles, optics=optics)


def image_names(table: StarTable) -> ImageNames:
    """Image name of every row."""
    rows = text_rows(table.document, table.particles, [IMAGE_NAME])
    return parse_image_names((values[0] for values in rows), table.path)


def table_euler_deg(table: StarTable) -> Float[np.ndarray, "particle 3"] | None:
    """Angles rot, tilt, psi in degrees; none unless all three columns are there."""
    if not table.has(ANGLES):
        return None
    columns = number_columns(table.document, table.particles, ANGLES)
    return np.stack([columns[name] for name in ANGLES], axis=-1)


def table_shifts_angstrom(
    table: StarTable, pixel_size_angstrom: Float[np.ndarray, " particle"]
) -> Float[np.ndarray, "particle 2"] | None:
    """Displacements from the box centre, the negative of the table's origins; none without them.

    ``rlnOriginX/Y`` (pixels, RELION 3.0) count only where ``rlnOriginXAngst/YAngst`` are missing.
    """
    for names, unit in ((ORIGIN_ANGSTROM, np.ones(1)), (ORIGIN_PIXEL, pixel_size_angstrom)):
        if table.has(names):
            columns = number_columns(table.document, table.particles, names)
            return -np.stack([columns[name] * unit for name in names], axis=-1)
    return None


def _particle_block(document: StarDocument) -> StarBlock:
    """The table with image names: data_particles, or the only one that has them."""
    named = [block for block in document.blocks if IMAGE_NAME in block.columns and block.is_loop]
    standard = [block for block in named if block.name == "particles"]
    chosen = standard or named
    if len(chosen) == 1:
        return chosen[0]
    listed = ", ".join(f"data_{block.name}" for block in (chosen or document.blocks))
    if chosen:
        raise InputError(
            f"{document.path}: expected one table with _{IMAGE_NAME}, found {len(chosen)}: "
            f"{listed}; leave one of them, named data_particles"
        )
    raise InputError(
        f"{document.path}: expected a particle table with a column _{IMAGE_NAME}, found only "
        f"{listed}; name the table of extracted particles"
    )
