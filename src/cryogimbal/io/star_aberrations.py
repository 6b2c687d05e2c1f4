"""What a table says of its images beyond the CTF: what was done to them, and aberrations."""

import numpy as np
from jaxtyping import Int

from cryogimbal.data.aberrations import Aberration, AberrationKind
from cryogimbal.data.optics import CtfTreatment
from cryogimbal.errors import InputError
from cryogimbal.io.star_columns import read_columns
from cryogimbal.io.star_document import text_rows
from cryogimbal.io.star_table import StarTable

_TREATMENTS: dict[str, CtfTreatment] = {
    "rlnCtfDataAreCtfPremultiplied": "multiplied",
    "rlnCtfDataArePhaseFlipped": "phase_flipped",
}
# Columns and the values that mean no aberration.
_ABERRATIONS: dict[AberrationKind, dict[str, float]] = {
    "beam tilt": {"rlnBeamTiltX": 0.0, "rlnBeamTiltY": 0.0},
    "odd Zernike": {"rlnOddZernike": 0.0},
    "even Zernike": {"rlnEvenZernike": 0.0},
    "anisotropic magnification": {
        "rlnMagMat00": 1.0,
        "rlnMagMat01": 0.0,
        "rlnMagMat10": 0.0,
        "rlnMagMat11": 1.0,
    },
}


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


def read_aberrations(table: StarTable) -> tuple[Aberration, ...]:
    """Each distinct aberration of the particles, with values other than none."""
    found: list[Aberration] = []
    group_row = read_columns(table, ()).group_row
    for block in (table.optics, table.particles):
        if block is None:
            continue
        for kind, neutral in _ABERRATIONS.items():
            columns = tuple(name for name in neutral if name in block.columns)
            rows = text_rows(table.document, block, list(columns)) if columns else []
            seen: set[tuple[str, ...]] = set()
            for row, texts in enumerate(map(tuple, rows)):
                values = _values(dict(zip(columns, texts, strict=True)), neutral)
                if texts in seen or all(
                    value == nothing
                    for value, nothing in zip(values, _nothing(neutral, values), strict=True)
                ):
                    continue
                seen.add(texts)
                particles = [row]
                if block is table.optics and group_row is not None:
                    particles = np.flatnonzero(group_row == row).tolist()
                if particles:
                    found.append(
                        Aberration(
                            kind=kind,
                            values=values,
                            columns=columns,
                            place=f"table data_{block.name}, row {row + 1}",
                            particle=particles[0],
                        )
                    )
    return tuple(found)


def _values(texts: dict[str, str], neutral: dict[str, float]) -> tuple[float, ...]:
    """Numbers of all columns of a kind; what the table lacks means none."""
    return tuple(
        number
        for name, nothing in neutral.items()
        for number in (_numbers(texts[name]) if name in texts else [nothing])
    )


def _nothing(neutral: dict[str, float], values: tuple[float, ...]) -> tuple[float, ...]:
    """The values that mean none; a vector of any length is one of zeros."""
    return tuple(neutral.values()) if len(neutral) > 1 else (0.0,) * len(values)


def _numbers(value: str) -> list[float]:
    """Numbers of a value or of a vector ``[a,b,c]``; infinite where there is no number."""
    try:
        return [float(piece) for piece in value.strip("[]").split(",") if piece]
    except ValueError:
        return [float("inf")]
