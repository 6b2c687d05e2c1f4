"""Named settings, and options to and from plain tables (TOML)."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from cryogimbal.errors import InputError
from cryogimbal.inference.config import EncoderConfig, ReconstructionConfig, VolumeConfig
from cryogimbal.inference.config_heads import HeadTrainingConfig
from cryogimbal.inference.config_stages import (
    AutoDecodingConfig,
    AutoEncodingConfig,
    BandConfig,
    SwitchConfig,
)

Options = TypeVar("Options")
# TOML has no null.
UNSET = "unset"


def _cryospin() -> ReconstructionConfig:
    """The paper's setting (sections 4 and 5): 7 heads, 7 + 13 epochs, both factors interpolated."""
    return ReconstructionConfig(
        start="encoder",
        shifts="none",
        noise="white",
        volume=VolumeConfig(
            oversampling=1, interpolation="factored", start_amplitude=1.0, start_exponent_sd=1.0
        ),
        encoder=EncoderConfig(
            n_heads=7, channels=(64, 128, 256, 256, 256), hidden=512, input_box=None
        ),
        auto_encoding=AutoEncodingConfig(
            network="vgg16",
            epochs=7,
            batch_size=64,
            encoder_rate=1e-4,
            volume_rate=0.05,
            band=BandConfig(),
            switch=SwitchConfig(rule="fixed"),
        ),
        auto_decoding=AutoDecodingConfig(
            epochs=13,
            extra_epochs=0,
            settled_turn=0.0,
            batch_size=64,
            hypotheses=1,
            pose_steps=5,
            optimiser="adam",
            pose_rate=0.05,
            pose_rate_end=None,
            volume_step="adam",
            volume_rate=0.02,
            band=BandConfig(),
        ),
        head_training=HeadTrainingConfig(epochs=0),
    )


def _cryospin_experimental() -> ReconstructionConfig:
    """The paper's setting for experimental data: 15 heads, 15 + 15 epochs, given shifts."""
    paper = _cryospin()
    return replace(
        paper,
        shifts="given",
        encoder=replace(paper.encoder, n_heads=15),
        auto_encoding=replace(paper.auto_encoding, epochs=15),
        auto_decoding=replace(paper.auto_decoding, epochs=15),
    )


PRESETS: Mapping[str, ReconstructionConfig] = {
    "auto": ReconstructionConfig(),
    # As in the paper, passes are counted beforehand.
    "semi-amortized": ReconstructionConfig(
        start="encoder", auto_decoding=AutoDecodingConfig(extra_epochs=0, settled_turn=0.0)
    ),
    "cryospin": _cryospin(),
    "cryospin-experimental": _cryospin_experimental(),
}


def config_to_table(config: ReconstructionConfig) -> dict[str, Any]:
    """Nested plain values, ready for TOML: every option is named, paths become text."""
    return _plain(asdict(config))


def config_from_table(table: Mapping[str, Any], base: Options, origin: str) -> Options:
    """``base``, a dataclass of options, with those that the table names.

    ``origin`` is the file named in errors.

    Raises
    ------
    InputError
        If an option is unknown, has the wrong type or is out of range.
    """
    merged = _merged(asdict(cast(Any, base)), table, origin, "")
    try:
        return TypeAdapter(type(base)).validate_python(merged)
    except ValidationError as error:
        problems = "; ".join(_problem(item) for item in error.errors())
        raise InputError(f"{origin}: {problems}") from error


def _problem(item: Any) -> str:
    cause = item.get("ctx", {}).get("error")
    place = ".".join(str(part) for part in item["loc"])
    if isinstance(cause, InputError):
        return f"[{place}] {cause}" if place else str(cause)
    return f"{place}: {item['msg']}, found {item['input']!r}"


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            plain[key] = _plain(value)
        elif value is None:
            plain[key] = UNSET
        else:
            plain[key] = str(value) if isinstance(value, Path) else value
    return plain


def _merged(
    base: dict[str, Any], table: Mapping[str, Any], origin: str, path: str
) -> dict[str, Any]:
    merged = dict(base)
    for key, value in table.items():
        if key not in base:
            known = ", ".join(sorted(base))
            raise InputError(f"{origin}: unknown option {path}{key}; expected one of {known}")
        nested = isinstance(base[key], dict) and isinstance(value, Mapping)
        if nested:
            merged[key] = _merged(base[key], value, origin, f"{path}{key}.")
        else:
            merged[key] = None if value == UNSET else value
    return merged
