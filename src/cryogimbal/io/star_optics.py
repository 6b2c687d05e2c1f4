"""Optics and CTF columns of a particle table, of RELION 3.0 (no optics table) and later.

A particle's own column comes before its optics group's, and that before RELION's default; a value
for which RELION has no default is an error where it is missing.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from cryogimbal.data.optics import CtfParameters, CtfTreatment
from cryogimbal.data.particles import PIXEL_SIZE_TOLERANCE
from cryogimbal.errors import InputError
from cryogimbal.io.star_aberrations import read_treatments
from cryogimbal.io.star_columns import Columns, read_columns
from cryogimbal.io.star_document import text_rows
from cryogimbal.io.star_table import OPTICS_GROUP, StarTable

PIXEL_SIZE = "rlnImagePixelSize"
IMAGE_SIZE = "rlnImageSize"
# RELION takes these for the images' sampling where rlnImagePixelSize is missing.
_OTHER_PIXEL_SIZES = ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize")
_DETECTOR = ("rlnDetectorPixelSize", "rlnMagnification")
# RELION's defaults that change what is reconstructed, so that their use is said aloud.
_DEFAULTS_TOLD = {
    "rlnVoltage": (200.0, "200 kV"),
    "rlnSphericalAberration": (0.0, "0 mm"),
    "rlnAmplitudeContrast": (0.0, "0"),
    "rlnDefocusAngle": (0.0, "0 degrees"),
}
_DEFAULTS_SILENT = {"rlnPhaseShift": 0.0, "rlnCtfBfactor": 0.0, "rlnCtfScalefactor": 1.0}
_HIGHEST_KILOVOLT = 3000.0
_NUMBERS = (
    IMAGE_SIZE,
    PIXEL_SIZE,
    *_OTHER_PIXEL_SIZES,
    *_DETECTOR,
    "rlnDefocusU",
    "rlnDefocusV",
    *_DEFAULTS_TOLD,
    *_DEFAULTS_SILENT,
)


@dataclass(frozen=True, kw_only=True)
class TableOptics:
    """Optics of a table: one row per used group, one CTF value of each kind per particle."""

    names: tuple[str, ...]
    index: Int[np.ndarray, " particle"]
    """Place of each particle's group in ``names``."""
    pixel_size_angstrom: Float[np.ndarray, " group"]
    declared_box: Int[np.ndarray, " group"]
    """Box that the table gives; 0 where it gives none."""
    treatment: tuple[CtfTreatment, ...]
    """What has been done to the images of each group."""
    ctf: CtfParameters
    warnings: tuple[str, ...]


def read_optics(table: StarTable) -> TableOptics:
    """Read optics groups and CTF values.

    Raises
    ------
    InputError
        If there is no defocus, no pixel size, an optics group that does not exist, a value out of
        range, or statements that contradict each other.
    """
    if "rlnDefocusU" not in table.particles.columns:
        raise InputError(
            f"{table.path}: table data_{table.particles.name}: expected CTF columns, found no "
            "_rlnDefocusU; estimate the CTF (for instance with CTFFIND in RELION) and extract the "
            "particles with it"
        )
    columns = read_columns(table, _NUMBERS)
    values, warnings = _ctf_values(columns)
    pixel_size, pixel_size_warnings = _pixel_size(table, columns)
    _check_ranges(table, values, pixel_size)
    index, names = _used_groups(table, columns, values, pixel_size)
    first = np.unique(index, return_index=True)[1]
    _require_one_pixel_size(table, names, index, pixel_size)
    return TableOptics(
        names=names,
        index=index,
        pixel_size_angstrom=pixel_size[first],
        declared_box=_declared_box(columns)[first],
        treatment=read_treatments(table, names, index),
        ctf=_ctf(values),
        warnings=(*warnings, *pixel_size_warnings),
    )


def read_pixel_size(table: StarTable) -> Float[np.ndarray, " particle"]:
    """Sampling of each particle's image in Å. Raises as read_optics does."""
    return _pixel_size(table, read_columns(table, _NUMBERS))[0]


def _used_groups(
    table: StarTable,
    columns: Columns,
    values: dict[str, Float[np.ndarray, " particle"]],
    pixel_size: Float[np.ndarray, " particle"],
) -> tuple[Int[np.ndarray, " particle"], tuple[str, ...]]:
    """Group of each particle among those in use, and their names."""
    if table.optics is None or columns.group_row is None:
        shared = [values[name] for name in ("rlnVoltage", "rlnSphericalAberration")]
        shared += [values["rlnAmplitudeContrast"], pixel_size]
        distinct, index = np.unique(np.stack(shared, axis=1), axis=0, return_inverse=True)
        return index.reshape(-1), tuple(f"opticsGroup{n + 1}" for n in range(len(distinct)))
    used, index = np.unique(columns.group_row, return_inverse=True)
    if "rlnOpticsGroupName" in table.optics.columns:
        rows = text_rows(table.document, table.optics, ["rlnOpticsGroupName"])
        names = [row[0] for row in rows]
    else:
        names = [f"opticsGroup{number:g}" for number in columns.group[OPTICS_GROUP]]
    return index.reshape(-1), tuple(names[row] for row in used)


def _require_one_pixel_size(
    table: StarTable,
    names: tuple[str, ...],
    index: Int[np.ndarray, " particle"],
    pixel_size: Float[np.ndarray, " particle"],
) -> None:
    first = np.unique(index, return_index=True)[1]
    of_group = pixel_size[first][index]
    other = np.flatnonzero(np.abs(pixel_size - of_group) > PIXEL_SIZE_TOLERANCE * of_group)
    if len(other):
        row, group = int(other[0]), int(index[other[0]])
        raise InputError(
            f"{table.path}: row {row + 1}: expected a pixel size of {of_group[row]:g} Å as in row "
            f"{first[group] + 1}, which is of the same optics group '{names[group]}', found "
            f"{pixel_size[row]:g} Å; give images of another sampling an optics group of their own"
        )


def _ctf_values(
    columns: Columns,
) -> tuple[dict[str, Float[np.ndarray, " particle"]], tuple[str, ...]]:
    """One value of each kind per particle, and what was assumed."""
    values: dict[str, Float[np.ndarray, " particle"]] = {}
    warnings: list[str] = []
    for name in ("rlnDefocusU", "rlnDefocusV", *_DEFAULTS_TOLD, *_DEFAULTS_SILENT):
        found = columns.find(name)
        if found is None and name == "rlnDefocusV":
            warnings.append("no _rlnDefocusV in the table: _rlnDefocusU is used, no astigmatism")
            found = values["rlnDefocusU"]
        elif found is None and name in _DEFAULTS_TOLD:
            default, text = _DEFAULTS_TOLD[name]
            warnings.append(f"no _{name} in the table: RELION's default of {text} is used")
            found = np.full(columns.n_particles, default)
        elif found is None:
            found = np.full(columns.n_particles, _DEFAULTS_SILENT[name])
        values[name] = found
    return values, tuple(warnings)


def _pixel_size(
    table: StarTable, columns: Columns
) -> tuple[Float[np.ndarray, " particle"], tuple[str, ...]]:
    """Sampling of each image in Å and what was assumed.

    Up to RELION 3.0 it is ``1e4 * detector pixel (um) / magnification``.
    """
    found = columns.find(PIXEL_SIZE)
    if found is not None:
        return found, ()
    # Without an optics table these would be the micrograph's sampling before any binning.
    for name in _OTHER_PIXEL_SIZES if table.optics is not None else ():
        found = columns.find(name)
        if found is not None:
            return found, (f"no _{PIXEL_SIZE} in the table: _{name} is used, as RELION does",)
    if all(name in columns.particle for name in _DETECTOR):
        detector, magnification = (columns.particle[name] for name in _DETECTOR)
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1e4 * detector / magnification, ()
    raise InputError(
        f"{table.path}: expected a pixel size, found neither _{PIXEL_SIZE} nor "
        f"_{' and _'.join(_DETECTOR)}; add one of them to the table"
    )


def _declared_box(columns: Columns) -> Int[np.ndarray, " particle"]:
    found = columns.find(IMAGE_SIZE)
    return np.zeros(columns.n_particles, np.int64) if found is None else found.astype(np.int64)


def _check_ranges(
    table: StarTable,
    values: dict[str, Float[np.ndarray, " particle"]],
    pixel_size: Float[np.ndarray, " particle"],
) -> None:
    kilovolt, contrast = values["rlnVoltage"], values["rlnAmplitudeContrast"]
    checks = (
        ("pixel size", pixel_size, (pixel_size > 0) & np.isfinite(pixel_size), "above 0 Å"),
        (
            "_rlnVoltage",
            kilovolt,
            (kilovolt > 0) & (kilovolt <= _HIGHEST_KILOVOLT),
            f"in kilovolts, above 0 and at most {_HIGHEST_KILOVOLT:g}",
        ),
        (
            "_rlnAmplitudeContrast",
            contrast,
            (contrast >= 0) & (contrast < 1),
            "at least 0 and below 1",
        ),
    )
    for name, found, good, expected in checks:
        bad = np.flatnonzero(~good)
        if len(bad):
            raise InputError(
                f"{table.path}: row {bad[0] + 1}: {name} is {found[bad[0]]:g}, expected a value "
                f"{expected}; correct the table"
            )


def _ctf(values: dict[str, Float[np.ndarray, " particle"]]) -> CtfParameters:
    def column(name: str) -> torch.Tensor:
        return torch.from_numpy(values[name].astype(np.float32))

    return CtfParameters(
        defocus_u_angstrom=column("rlnDefocusU"),
        defocus_v_angstrom=column("rlnDefocusV"),
        defocus_angle_rad=torch.deg2rad(column("rlnDefocusAngle")),
        phase_shift_rad=torch.deg2rad(column("rlnPhaseShift")),
        voltage_kilovolt=column("rlnVoltage"),
        spherical_aberration_mm=column("rlnSphericalAberration"),
        amplitude_contrast=column("rlnAmplitudeContrast"),
        bfactor_angstrom2=column("rlnCtfBfactor"),
        scale=column("rlnCtfScalefactor"),
    )
