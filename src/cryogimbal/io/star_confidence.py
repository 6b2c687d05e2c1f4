"""Scores and widths of particles in tables, and rows chosen by their score."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from cryogimbal.data.confidence import Confidence
from cryogimbal.errors import InputError
from cryogimbal.io.star_document import number_columns, parse_star
from cryogimbal.io.star_table import StarTable
from cryogimbal.io.star_write import with_image_files, write_table

SCORE = "rlnParticleFigureOfMerit"
# RELION has no such columns, and keeps those that it does not know.
WIDTH_DEG = "cryogimbalPoseWidthDeg"
SHIFT_WIDTH_PX = "cryogimbalShiftWidthPx"


def confidence_columns(confidence: Confidence, pixel_size_angstrom: float) -> dict[str, list[str]]:
    """The columns to be written; shifts in pixels of the images."""
    columns = {
        SCORE: [f"{value:.6f}" for value in confidence.score.tolist()],
        WIDTH_DEG: [f"{value:.4f}" for value in confidence.width_deg.tolist()],
    }
    if confidence.shift_width_angstrom is not None:
        in_pixels = (confidence.shift_width_angstrom / pixel_size_angstrom).tolist()
        columns[SHIFT_WIDTH_PX] = [f"{value:.4f}" for value in in_pixels]
    return columns


def table_scores(table: StarTable) -> Float[np.ndarray, " particle"]:
    """Score of each row.

    Raises
    ------
    InputError
        If the table has no scores, or one is no number from 0 to 1.
    """
    if not table.has((SCORE,)):
        raise InputError(
            f"{table.path}: expected a column _{SCORE}, found none; a run of cryogimbal reconstruct "
            "writes it into its particles.star"
        )
    scores = number_columns(table.document, table.particles, [SCORE])[SCORE]
    wrong = np.flatnonzero((scores < 0) | (scores > 1))
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"{table.path}: row {row + 1}: _{SCORE} is {scores[row]:g}, expected 0 to 1; these are "
            "not the scores of cryogimbal"
        )
    return scores


def write_chosen_rows(path: Path, table: StarTable, kept: Bool[np.ndarray, " particle"]) -> None:
    """Write a table as it was read with only the chosen rows; image paths follow to the new folder.

    Raises
    ------
    ValueError
        If no row is chosen.
    """
    if not kept.any():
        raise ValueError("no row is chosen")
    dropped = {line for line, keep in zip(table.particles.row_lines, kept, strict=True) if not keep}
    lines = [line for number, line in enumerate(table.document.lines) if number not in dropped]
    document = parse_star("\n".join(lines), table.path)
    block = next(block for block in document.blocks if block.name == table.particles.name)
    optics = None if table.optics is None else document.block(table.optics.name)
    chosen = replace(table, document=document, particles=block, optics=optics)
    write_table(path, with_image_files(chosen), {})
