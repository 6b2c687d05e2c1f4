"""Compiled adjoint of slicing: every coefficient leaves its share at the eight corners of its cell.

The pair k, -k leaves at one cell and at that cell's mirror. Both go to the same place of a buffer with
one channel for straight and one for mirrored, so that a corner is one short vector; the mirrored
channel is turned round once at the end.
"""

import numpy as np

from cryogimbal.imaging.kernels.numba_loops import Array, cell, compiled


@compiled
def spread_rows(rows: Array, rotation: Array, frequency: Array, side: int, buffer: Array) -> None:
    """Add rows (image, 2 point) to ``buffer`` (side^3, 2)."""
    for image in range(rotation.shape[0]):
        turn, row = rotation[image], rows[image]
        for p in range(frequency.shape[1]):
            base, fx, fy, fz = cell(turn, frequency[0, p], frequency[1, p], side)
            straight, mirrored = row[2 * p], row[2 * p + 1]
            for corner in range(8):
                x, y, z = corner & 1, (corner >> 1) & 1, corner >> 2
                share = (fx if x else 1 - fx) * (fy if y else 1 - fy) * (fz if z else 1 - fz)
                place = np.uint32(base + (z * side + y) * side + x)
                buffer[place, 0] += share * straight
                buffer[place, 1] += share * mirrored


@compiled
def fold(buffer: Array, grid: Array) -> None:
    """Add straight and mirrored shares to a flat grid."""
    last = grid.shape[0] - 1
    for place in range(grid.shape[0]):
        grid[place] += buffer[place, 0] + buffer[last - place, 1]
