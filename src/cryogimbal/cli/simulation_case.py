"""A simulation described by a TOML file: its source, its options, its optics groups.

::

    source = "$DATA/atomic/model.cif.gz"   # what `cryogimbal simulate` takes as its source
    n_particles = 20000                    # every option of `cryogimbal simulate`, with underscores
    snr = 0.05

    [[optics_groups]]                      # may be left out; the images are shared out equally
    voltage = 300.0
    [[optics_groups]]
    voltage = 200.0
    pixel_size = 2.0

Environment variables in texts are replaced, so that a file names no folder of one computer.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryogimbal.cli.options import read_toml
from cryogimbal.errors import InputError
from cryogimbal.inference.presets import config_from_table
from cryogimbal.simulation.settings import SimulationSettings

SUFFIX = ".toml"
# What an optics group may have of its own; everything else is of the whole stack.
GROUP_OPTIONS = (
    "amplitude_contrast",
    "astigmatism_sd",
    "box",
    "ctf_table",
    "defocus_range",
    "pixel_size",
    "spherical_aberration",
    "voltage",
)


@dataclass(frozen=True, kw_only=True)
class SimulationCase:
    """What to simulate."""

    source: str
    settings: SimulationSettings
    groups: tuple[Mapping[str, Any], ...] = ()
    """What each optics group has of its own; none: there is one."""
    origin: str = ""
    """The file, for messages."""

    def group_settings(self) -> tuple[SimulationSettings, ...]:
        """Settings of each optics group, the images shared out equally.

        Raises
        ------
        InputError
            If the options of a group and of the stack contradict each other.
        """
        if not self.groups:
            return (self.settings,)
        n_groups, n_images = len(self.groups), self.settings.n_particles
        if n_images < n_groups:
            raise InputError(
                f"{self.origin}: expected at least one image for each of {n_groups} optics groups, "
                f"found n_particles = {n_images}"
            )
        share, rest = divmod(n_images, n_groups)
        return tuple(
            replace(
                config_from_table(group, self.settings, f"{self.origin}: optics group {number}"),
                n_particles=share + (number <= rest),
            )
            for number, group in enumerate(self.groups, start=1)
        )


def case_argument(arguments: list[str]) -> Path | None:
    """The TOML file that stands where the source does, if one does."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument.endswith(SUFFIX) and not argument.startswith("-") and before != "--out":
            return Path(argument)
    return None


def read_case(path: Path) -> SimulationCase:
    """Read a simulation's description.

    Raises
    ------
    InputError
        If the file cannot be read, lacks a source, names an unset environment variable, or has options
        that are unknown, out of range or contradictory.
    """
    table = _expanded(read_toml(path), path)
    source, groups = table.pop("source", None), table.pop("optics_groups", [])
    if not isinstance(source, str):
        raise InputError(
            f"{path}: expected source = a phantom, an atomic model or a map, found {source!r}"
        )
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise InputError(f"{path}: expected tables [[optics_groups]], found {groups!r}")
    for number, group in enumerate(groups, start=1):
        for key in group:
            if key not in GROUP_OPTIONS:
                raise InputError(
                    f"{path}: optics group {number}: unknown option {key}; expected one of "
                    f"{', '.join(GROUP_OPTIONS)}"
                )
    settings = config_from_table(table, SimulationSettings(), str(path))
    case = SimulationCase(source=source, settings=settings, groups=tuple(groups), origin=str(path))
    case.group_settings()
    return case


def _expanded(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        return {key: _expanded(item, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, path) for item in value]
    if not isinstance(value, str):
        return value
    text = os.path.expandvars(value)
    unset = re.search(r"\$\{?(\w+)", text)
    if unset:
        raise InputError(
            f"{path}: found the environment variable {unset[1]} in {value!r}, but it is not set; set "
            "it, or write the path itself"
        )
    return text
