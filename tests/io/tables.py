"""Small particle sets for tests: an image stack and a table in the dialect of one RELION version."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import mrcfile
import numpy as np

RELION_31 = """# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
opticsGroup1 1 300.0 2.7 0.1 {pixel_size} {box}


# version 30001

data_particles

loop_
"""
CTF_COLUMNS = {"rlnDefocusU": "15000", "rlnDefocusV": "14000", "rlnDefocusAngle": "30"}
OLD_OPTICS_COLUMNS = {
    "rlnVoltage": "300",
    "rlnSphericalAberration": "2.7",
    "rlnAmplitudeContrast": "0.1",
    "rlnMagnification": "20000",
    "rlnDetectorPixelSize": "5",
}
PIXEL_SIZE = 2.5  # 1e4 * 5 / 20000 as well


def write_stack(path: Path, n_images: int, box: int, seed: int = 0) -> np.ndarray:
    """Noise images, written by mrcfile."""
    images = np.random.default_rng(seed).normal(size=(n_images, box, box)).astype(np.float32)
    with mrcfile.new(path) as file:
        file.set_data(images)
        file.set_image_stack()
    return images


def loop(columns: Mapping[str, Sequence[str]]) -> str:
    """Header and rows of a table."""
    headers = [f"_{name} #{n}" for n, name in enumerate(columns, start=1)]
    rows = [" ".join(row) for row in zip(*columns.values(), strict=True)]
    return "\n".join([*headers, *rows, ""])


def particle_columns(
    names: Sequence[str], extra: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[str]]:
    """Image names, CTF and further columns."""
    columns = {"rlnImageName": list(names)}
    columns |= {name: [value] * len(names) for name, value in CTF_COLUMNS.items()}
    columns |= {name: list(values) for name, values in (extra or {}).items()}
    return columns


def write_new_table(
    path: Path,
    names: Sequence[str],
    box: int,
    extra: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """RELION 3.1: optics and particles."""
    columns = {**particle_columns(names, extra), "rlnOpticsGroup": ["1"] * len(names)}
    head = RELION_31.format(pixel_size=PIXEL_SIZE, box=box)
    path.write_text(head + loop(columns))


def write_old_table(
    path: Path, names: Sequence[str], extra: Mapping[str, Sequence[str]] | None = None
) -> None:
    """RELION 3.0: one table."""
    columns = particle_columns(names, extra)
    columns |= {name: [value] * len(names) for name, value in OLD_OPTICS_COLUMNS.items()}
    path.write_text("\ndata_images\n\nloop_\n" + loop(columns))


def image_names(n_images: int, file: str = "stack.mrcs") -> list[str]:
    return [f"{n:06d}@{file}" for n in range(1, n_images + 1)]
