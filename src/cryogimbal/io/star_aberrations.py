"""What a table says of its images beyond the CTF: refused by name, or left out and told."""

import numpy as np
from jaxtyping import Int

from cryogimbal.data.optics import CtfTreatment
from cryogimbal.errors import InputError
from cryogimbal.io.star_columns import read_columns
from cryogimbal.io.star_document import text_rows
from cryogimbal.io.star_table import StarTable

_TREATMENTS: dict[str, CtfTreatment] = {
    "rlnCtfDataAreCtfPremultiplied": "multiplied",
    "rlnCtfDataArePhaseFlipped": "phase_flipped",
}
_ABERRATIONS: tuple[tuple[str, tuple[str, ...], dict[str, float]], ...] = (
    ("beam tilt (mrad)", ("rlnBeamTiltX", "rlnBeamTiltY"), {}),
    ("antisymmetric aberration", ("rlnOddZernike",), {}),
    ("symmetric aberration", ("rlnEvenZernike",), {}),
    (
        "anisotropic magnification",
        ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11"),
        {"rlnMagMat00": 1.0, "rlnMagMat11": 1.0},
    ),
)


def read_treatments(
    table: StarTable, names: tuple[str, ...], index: Int[np.ndarray, " particle"]
) -> tuple[CtfTreatment, ...]:
    """What has been done to the images of each optics group in use.

    Parameters
    ----------
    names
        Of the groups.
    index
        Group of each particle.

    Raises
    ------
    InputError
        If images are said to be multiplied by their CTF and phase-flipped at once, or some of one
        group are treated and others are not.
    """
    columns = read_columns(table, tuple(_TREATMENTS))
    found = [columns.find(name) for name in _TREATMENTS]
    multiplied, flipped = (
        np.zeros(len(index), np.bool_) if flags is None else flags != 0 for flags in found
    )
    both = np.flatnonzero(multiplied & flipped)
    if len(both):
        raise InputError(
            f"{table.path}: row {both[0] + 1}: expected one of _{' and _'.join(_TREATMENTS)} at most, "
            "found both set; images multiplied by their CTF have no phases to flip: correct the table"
        )
    first = np.unique(index, return_index=True)[1]
    state = multiplied + 2 * flipped
    other = np.flatnonzero(state != state[first][index])
    if len(other):
        row, group = int(other[0]), int(index[other[0]])
        raise InputError(
            f"{table.path}: row {row + 1}: expected images treated as in row {first[group] + 1}, which "
            f"is of the same optics group '{names[group]}', found another value of "
            f"_{' or _'.join(_TREATMENTS)}; give them an optics group of their own"
        )
    kinds: tuple[CtfTreatment, ...] = ("none", *_TREATMENTS.values())
    return tuple(kinds[int(state[row])] for row in first)


def ignored_aberrations(table: StarTable) -> tuple[str, ...]:
    """One sentence for each aberration with values other than none."""
    found: list[str] = []
    for block in (table.optics, table.particles):
        if block is None:
            continue
        for meaning, names, neutral in _ABERRATIONS:
            present = [name for name in names if name in block.columns]
            if not present:
                continue
            distinct = {tuple(v) for v in text_rows(table.document, block, present)}
            largest = max(
                (
                    abs(n - neutral.get(name, 0.0))
                    for values in distinct
                    for name, value in zip(present, values, strict=True)
                    for n in _numbers(value)
                ),
                default=0.0,
            )
            if largest > 0:
                found.append(
                    f"{meaning} in data_{block.name} is ignored "
                    f"(_{', _'.join(present)}; largest deviation {largest:g})"
                )
    return tuple(found)


def _numbers(value: str) -> list[float]:
    """Numbers of a value or of a vector ``[a,b,c]``; what is no number counts as not zero."""
    try:
        return [float(piece) for piece in value.strip("[]").split(",") if piece]
    except ValueError:
        return [float("inf")]
