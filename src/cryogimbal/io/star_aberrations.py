"""What a table says of its images beyond the CTF: refused by name, or left out and told."""

import numpy as np

from cryogimbal.errors import InputError
from cryogimbal.io.star_document import number_columns, text_rows
from cryogimbal.io.star_table import StarTable

_REFUSED = {
    "rlnCtfDataAreCtfPremultiplied": "images multiplied by their CTF",
    "rlnCtfDataArePhaseFlipped": "phase-flipped images",
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


def refuse_other_models(table: StarTable) -> None:
    """Refuse images that another model than the CTF describes.

    Raises
    ------
    InputError
        If the images are said to be multiplied by their CTF, or phase-flipped.
    """
    for block in (table.optics, table.particles):
        for name, meaning in _REFUSED.items():
            if block is None or name not in block.columns:
                continue
            flags = number_columns(table.document, block, [name])[name]
            if flags.any():
                raise InputError(
                    f"{table.path}: table data_{block.name}, row {np.flatnonzero(flags)[0] + 1}: "
                    f"_{name} is {flags[flags != 0][0]:g}, expected 0: {meaning} are not supported "
                    "yet; extract the particles again without it"
                )


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
