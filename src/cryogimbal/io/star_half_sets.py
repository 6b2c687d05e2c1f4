"""The half of the stack that each particle belongs to, as RELION's tables have it."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cryogimbal.errors import InputError
from cryogimbal.io.star_document import number_columns
from cryogimbal.io.star_table import StarTable

HALF_SET = "rlnRandomSubset"


def table_half_sets(table: StarTable) -> Int[Tensor, " particle"] | None:
    """1 or 2 for each row; none where the table has no such column.

    Raises
    ------
    InputError
        If a row holds anything else.
    """
    if not table.has((HALF_SET,)):
        return None
    numbers = number_columns(table.document, table.particles, [HALF_SET])[HALF_SET]
    wrong = np.flatnonzero((numbers != 1) & (numbers != 2))
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"{table.path}: row {row + 1}: _{HALF_SET} is {numbers[row]:g}, expected 1 or 2; "
            "correct it, or remove the column and let the halves be drawn"
        )
    return torch.from_numpy(numbers.astype(np.int64))


def half_set_columns(half_set: Int[Tensor, " particle"]) -> dict[str, list[str]]:
    """The column to be written."""
    return {HALF_SET: [str(number) for number in half_set.tolist()]}
