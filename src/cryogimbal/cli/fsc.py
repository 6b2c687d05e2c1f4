"""``cryogimbal fsc``: how two maps agree, shell by shell."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from cryogimbal.evaluation.alignment import apply_alignment
from cryogimbal.evaluation.fsc import FscCurve, PoseOrigin, fourier_shell_correlation
from cryogimbal.evaluation.map_alignment import align_maps
from cryogimbal.io.mrc import read_density
from cryogimbal.io.run_folder import write_json

ROWS = 16


@dataclass(frozen=True, kw_only=True)
class Fsc:
    """Fourier shell correlation of two maps, without a mask."""

    a: Annotated[Path, tyro.conf.Positional]
    """First map (.mrc)."""
    b: Annotated[Path, tyro.conf.Positional]
    """Second map, of the same box and voxel size."""
    align: bool = False
    """Turn, shift and if need be mirror the first map onto the second beforehand."""
    poses: PoseOrigin = "shared"
    """How the maps came by their poses; the word stands beside the curve."""
    out: Path | None = None
    """Also write the curve to this JSON file."""

    def run(self) -> None:
        """Execute the command."""
        first, second = read_density(self.a), read_density(self.b)
        console = Console(highlight=False)
        if self.align:
            alignment = align_maps(first, second)
            first = apply_alignment(first, alignment)
            console.print("aligned" + (", hand mirrored" if alignment.mirrored else ""))
        curve = fourier_shell_correlation(first, second, poses=self.poses)
        print_curve(console, curve)
        if self.out is not None:
            write_json(self.out, curve.to_dict())


def print_curve(console: Console, curve: FscCurve) -> None:
    """A short table of the curve and where it crosses the two thresholds."""
    table = Table(title=f"Fourier shell correlation, {curve.poses} poses, no mask")
    for name in ("shell", "resolution (Å)", "FSC"):
        table.add_column(name, justify="right")
    n_shells = len(curve.correlation)
    for shell in range(1, n_shells, max(1, n_shells // ROWS)):
        period = curve.box * curve.voxel_size_angstrom / shell
        table.add_row(str(shell), f"{period:.2f}", f"{float(curve.correlation[shell]):.3f}")
    console.print(table)
    for threshold in (0.5, 0.143):
        note = "" if curve.crosses(threshold) else " (never falls below before the last shell)"
        console.print(f"FSC {threshold:g} at {curve.resolution_angstrom(threshold):.2f} Å{note}")
