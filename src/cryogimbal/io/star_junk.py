"""Labels of junk in the tables of simulations: which images hold no single particle, and what else."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from cryogimbal.io.star_document import number_columns
from cryogimbal.io.star_table import StarTable

# RELION keeps columns that it does not know.
IS_JUNK = "cryogimbalJunk"
JUNK_KIND = "cryogimbalJunkKind"


def junk_columns(kinds: Sequence[str], no_junk: str) -> dict[str, list[str]]:
    """The columns of a table from the kind of each image; ``no_junk`` is that of particles."""
    return {IS_JUNK: [str(int(kind != no_junk)) for kind in kinds], JUNK_KIND: list(kinds)}


def table_junk(table: StarTable) -> Bool[Tensor, " particle"] | None:
    """Whether each image is labelled as junk; none where a table has no labels.

    Raises
    ------
    InputError
        If a label is no number.
    """
    if not table.has((IS_JUNK,)):
        return None
    labels = number_columns(table.document, table.particles, [IS_JUNK])[IS_JUNK]
    return torch.from_numpy(labels != 0)
