"""``cryogimbal flip-hand``: the mirror image of maps, with the poses that go with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from cryogimbal.cli.options import read_toml
from cryogimbal.cli.taught_encoder import write_mirrored_encoder
from cryogimbal.errors import InputError
from cryogimbal.evaluation.hand import mirror_map, mirror_that_keeps_axes
from cryogimbal.io.file_set import finish_replacing, replace_together
from cryogimbal.io.mrc import read_density, write_density
from cryogimbal.io.run_folder import RunFolder, open_run_folder, read_json, write_json
from cryogimbal.io.star import read_poses
from cryogimbal.io.star_hand import mirrored_pose_columns
from cryogimbal.io.star_table import read_table
from cryogimbal.io.star_write import with_image_files, write_table
from cryogimbal.report.plots import plot_map, plot_view_directions
from cryogimbal.rotations import Mirror
from cryogimbal.symmetry import symmetry_group

# In summary.json, once the hand is not the one that the search found.
FLIPPED = "hand_flipped"


@dataclass(frozen=True, kw_only=True)
class FlipHand:
    """Mirror maps and poses together; images do not tell the hand, a helix or a known fold does.

    Of a run: every map, the poses, the encoder, in place or (--out) in a new folder. Twice is nothing.
    """

    run_folder: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder of a finished run; or name --maps and --particles."""
    maps: tuple[Path, ...] = ()
    """Maps (.mrc) that belong together: half-maps, a mask."""
    particles: Path | None = None
    """Their particles: a STAR file with angles."""
    out: Path | None = None
    """Folder for what is mirrored; a run's own files are replaced where none is given."""
    mirror: Literal["auto", "z", "centre"] = "auto"
    """In the plane across z or through the centre, which differ by half a turn about z; auto: z, or
    the centre where the run's symmetry needs it to keep its axes (T, I3, I4)."""

    def run(self) -> None:
        """Execute the command.

        Raises
        ------
        InputError
            If it is not clear what to mirror, a file cannot be used, or one would be overwritten.
        """
        console = Console(highlight=False, soft_wrap=True)
        if self.run_folder is None:
            self._flip_files(console)
            return
        if self.maps or self.particles is not None:
            raise InputError(
                "flip-hand expects the folder of a run, or --maps and --particles, found both; "
                "leave one of them out"
            )
        if finish_replacing(self.run_folder):
            console.print(
                f"an interrupted flip of {self.run_folder} is finished; give the command again to "
                "flip it back",
                markup=False,
            )
            return
        run = open_run_folder(self.run_folder)
        if not run.summary.exists():
            raise InputError(
                f"{run.path}: expected a finished run, found no {run.summary.name}; "
                f"cryogimbal resume {run.path} finishes it"
            )
        self._flip_run(console, run)

    def _flip_run(self, console: Console, run: RunFolder) -> None:
        mirror = self._mirror(str(read_toml(run.config).get("symmetry", "C1")))
        files = [*sorted(run.path.glob("*.mrc")), run.particles, run.encoder, run.summary]
        files = [file for file in files if file.exists()]
        if self.out is None:
            with replace_together(run.path) as folder:
                _write_mirrored(files, folder, mirror)
            _redraw(run)
        else:
            _write_new(files, self.out, mirror)
        _announce(console, files, self.out or run.path, mirror)
        if self.out is None and run.evaluation.exists():
            console.print(
                f"{run.evaluation} is of the other hand; cryogimbal evaluate makes it anew",
                markup=False,
            )

    def _flip_files(self, console: Console) -> None:
        files = [*self.maps, *([] if self.particles is None else [self.particles])]
        if not files:
            raise InputError(
                "flip-hand expects the folder of a run, or --maps and --particles, found neither"
            )
        if self.out is None:
            raise InputError("flip-hand expects --out FOLDER beside --maps or --particles")
        mirror = self._mirror("C1")
        _write_new(files, self.out, mirror)
        _announce(console, files, self.out, mirror)

    def _mirror(self, symmetry: str) -> Mirror:
        if self.mirror != "auto":
            return self.mirror
        return mirror_that_keeps_axes(symmetry_group(symmetry))


def _write_new(files: Sequence[Path], out: Path, mirror: Mirror) -> None:
    """Write mirrored files under their names into a folder that has none of them."""
    names = [file.name for file in files]
    for file in files:
        if names.count(file.name) > 1:
            raise InputError(
                f"{file}: expected files of different names, found {file.name} twice; flip them one "
                "after the other"
            )
        if (out / file.name).exists():
            raise InputError(
                f"{out}: expected a folder without {file.name}, found one; choose another --out"
            )
    existed = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with replace_together(out) as folder:
            _write_mirrored(files, folder, mirror)
    except InputError:
        if not existed:
            out.rmdir()
        raise


def _write_mirrored(files: Sequence[Path], folder: Path, mirror: Mirror) -> None:
    for file in files:
        new = folder / file.name
        if file.suffix == ".star":
            table = with_image_files(read_table(file))
            write_table(new, table, mirrored_pose_columns(table, mirror))
        elif file.suffix == ".pt":
            write_mirrored_encoder(file, new, mirror)
        elif file.suffix == ".json":
            summary = read_json(file)
            flipped = not summary.pop(FLIPPED, False)
            write_json(new, summary | ({FLIPPED: True} if flipped else {}))
        else:
            write_density(new, mirror_map(read_density(file), mirror))


def _redraw(run: RunFolder) -> None:
    if not run.figures.is_dir():
        return
    plot_map(read_density(run.density), run.figures / "map.png")
    plot_view_directions(read_poses(run.particles).rotation, run.figures / "view_directions.png")


def _announce(console: Console, files: Sequence[Path], folder: Path, mirror: Mirror) -> None:
    console.print("mirrored in z" if mirror == "z" else "mirrored through the centre", markup=False)
    for file in files:
        console.print(f"  {folder / file.name}", markup=False)
