"""``cryogimbal select``: the particles of a run above a score, in a table of their own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from cryogimbal.errors import InputError
from cryogimbal.io.run_folder import open_run_folder
from cryogimbal.io.star_confidence import table_scores, write_chosen_rows
from cryogimbal.io.star_table import read_table


@dataclass(frozen=True, kw_only=True)
class Select:
    """Write the particles of a run whose score is high enough to a table, and say how many are left out.

    The run itself stays as it is: its own table has all particles.
    """

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Folder of a finished run."""
    min_score: float
    """Least score that is kept, from 0 to 1: about the probability that an image is a particle."""
    out: Path
    """The new table (.star); not there yet."""

    def run(self) -> None:
        """Execute the command.

        Raises
        ------
        InputError
            If the run is not finished or has no scores, the table exists, or nothing would be left.
        """
        if not 0 <= self.min_score <= 1:
            raise InputError(f"--min-score: expected 0 to 1, found {self.min_score}")
        if self.out.exists():
            raise InputError(f"{self.out}: expected no such file, found one; choose another --out")
        run = open_run_folder(self.run_folder)
        if not run.particles.exists():
            raise InputError(
                f"{run.path}: expected a finished run, found no {run.particles.name}; "
                f"cryogimbal resume {run.path} finishes it"
            )
        table = read_table(run.particles)
        scores = table_scores(table)
        kept = scores >= self.min_score
        if not kept.any():
            raise InputError(
                f"--min-score: expected at most the best score, {scores.max():.6f}, found "
                f"{self.min_score}; no particle would be left"
            )
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_chosen_rows(self.out, table, kept)
        console = Console(highlight=False, soft_wrap=True)
        console.print(
            f"{int(kept.sum()):,} of {len(kept):,} particles kept, {int((~kept).sum()):,} dropped "
            f"(score below {self.min_score:g})",
            markup=False,
        )
        console.print(f"  {self.out}", markup=False)
