"""Defaults before flags: a preset, then a file, then what the command line says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w

from cryogimbal.errors import InputError
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.presets import PRESETS, config_from_table, config_to_table

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

DEFAULT_PRESET = "auto"


def base_config(arguments: Sequence[str]) -> ReconstructionConfig:
    """Preset and configuration file named on the command line, merged.

    Raises
    ------
    InputError
        If there is no such preset or file, or the file does not hold valid options.
    """
    name = _value_of("--preset", arguments) or DEFAULT_PRESET
    if name not in PRESETS:
        raise InputError(f"--preset: expected one of {', '.join(PRESETS)}, found {name}")
    file = _value_of("--config", arguments)
    if file is None:
        return PRESETS[name]
    return read_config(Path(file), PRESETS[name])


def read_config(path: Path, base: ReconstructionConfig) -> ReconstructionConfig:
    """Options of a TOML file over a base.

    Raises
    ------
    InputError
        If the file cannot be read, is not TOML, or has options that are unknown or out of range.
    """
    return config_from_table(read_toml(path), base, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds.

    Raises
    ------
    InputError
        If the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: expected a TOML file of options, {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a TOML file of options, {error}") from error


def config_text(config: ReconstructionConfig) -> str:
    """The options as TOML, every one of them."""
    return tomli_w.dumps(config_to_table(config))


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    for place, argument in enumerate(arguments):
        if argument == flag and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None
