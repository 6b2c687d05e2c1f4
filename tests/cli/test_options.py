"""Options: a preset, then a file, then flags; every one named, checked and told."""

from pathlib import Path
from typing import Any

import pytest

import cryogimbal.cli.reconstruct as reconstruct_command
from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.presets import config_to_table
from tests.cli.commands import assert_says, command, refused

# What the paper and the specification of the preset say.
PAPER = {
    "start": "encoder",
    "encoder.n_heads": 7,
    "encoder.channels": (64, 128, 256, 256, 256),
    "encoder.pyramid_levels": 5,
    "auto_encoding.epochs": 7,
    "auto_encoding.batch_size": 64,
    "auto_encoding.encoder_rate": 1e-4,
    "auto_encoding.volume_rate": 0.05,
    "auto_encoding.loss": "squared",
    "auto_encoding.switch.rule": "fixed",
    "auto_decoding.epochs": 13,
    "auto_decoding.extra_epochs": 0,
    "auto_decoding.settled_turn": 0,
    "auto_decoding.batch_size": 64,
    "auto_decoding.pose_steps": 5,
    "auto_decoding.pose_rate": 0.05,
    "auto_decoding.volume_rate": 0.02,
    "auto_decoding.volume_step": "adam",
    "auto_decoding.loss": "squared",
    "volume.interpolation": "factored",
}
EXPERIMENTAL = PAPER | {
    "encoder.n_heads": 15,
    "auto_encoding.epochs": 15,
    "auto_decoding.epochs": 15,
    "shifts": "given",
}


@pytest.fixture
def chosen(
    monkeypatch: pytest.MonkeyPatch, simulated: Path, tmp_path: Path
) -> list[ReconstructionConfig]:
    """Options with which runs would begin."""
    seen: list[ReconstructionConfig] = []

    def note(_run: object, _source: object, config: ReconstructionConfig, **_: object) -> None:
        seen.append(config)

    monkeypatch.setattr(reconstruct_command, "run_to_end", note)
    monkeypatch.chdir(tmp_path)
    return seen


def begin(simulated: Path, *options: object) -> int:
    return command("reconstruct", simulated / "particles.star", "--out", "run", *options)


def value_of(config: ReconstructionConfig, option: str) -> Any:
    value: Any = config_to_table(config)
    for part in option.split("."):
        value = value[part]
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("preset", "expected"), [("cryospin", PAPER), ("cryospin-experimental", EXPERIMENTAL)]
)
def test_a_preset_is_the_paper_to_the_letter(
    preset: str,
    expected: dict[str, object],
    simulated: Path,
    chosen: list[ReconstructionConfig],
) -> None:
    assert begin(simulated, "--preset", preset) == 0
    assert {option: value_of(chosen[0], option) for option in expected} == expected


def test_a_file_goes_over_the_preset_and_a_flag_over_both(
    simulated: Path, chosen: list[ReconstructionConfig]
) -> None:
    Path("mine.toml").write_text("seed = 5\n[auto_encoding]\nepochs = 9\nbatch_size = 48\n")
    options = ("--preset=cryospin", "--config=mine.toml", "--auto-encoding.batch-size", 32)
    assert begin(simulated, *options) == 0
    (config,) = chosen
    assert config.encoder.channels == PAPER["encoder.channels"]  # from the preset
    assert (config.seed, config.auto_encoding.epochs) == (5, 9)  # from the file
    assert config.auto_encoding.batch_size == 32  # from the flag
    assert config.auto_encoding.encoder_rate == 1e-4  # beside those that the file names


@pytest.mark.parametrize(
    "options",
    [
        ("--preset", "cryospin-experimental"),
        ("--encoder.channels", 4, 5, 6, 7, 8, "--working-box", 33, "--encoder.input-box", "None"),
        ("--initial-map", "a map.mrc", "--seed", 7),
    ],
)
def test_the_file_that_a_run_writes_gives_the_same_options(
    options: tuple[object, ...], simulated: Path, chosen: list[ReconstructionConfig]
) -> None:
    assert begin(simulated, *options) == 0
    again = ("--out", "again", "--config", "run/config.toml")
    assert command("reconstruct", simulated / "particles.star", *again) == 0
    assert chosen[0] == chosen[1]
    assert chosen[0] != ReconstructionConfig()


def test_help_shows_the_defaults_of_the_preset_beside_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command("reconstruct", "--preset", "cryospin", "--help") == 0
    shown = capsys.readouterr().out
    assert "64 128 256 256 256" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("options", "pieces"),
    [
        (("--sede", "3"), ["--sede"]),
        (("--preset", "relion"), ["--preset", "cryospin-experimental", "found relion"]),
        (("--seed", "-1"), ["--seed", "expected 0 or more", "found -1"]),
        (("--working-box", "8"), ["--working-box", "expected at least 16 pixels", "found 8"]),
        (("--max-particles", "0"), ["--max-particles", "expected at least 1", "found 0"]),
        (
            ("--posterior.max-starts", "0"),
            ["--posterior.max-starts", "expected at least 1", "found 0"],
        ),
        (
            ("--auto-decoding.pose-rate", "nan"),
            ["--auto-decoding.pose-rate", "expected above 0", "found nan"],
        ),
        (
            ("--auto-decoding.extra-epochs", "-1"),
            ["--auto-decoding.extra-epochs", "expected 0 or more", "found -1"],
        ),
        (
            ("--auto-decoding.settled-turn", "nan"),
            ["--auto-decoding.settled-turn", "expected 0 to 1", "found nan"],
        ),
        (
            ("--encoder.channels", "8", "8"),
            ["--encoder.channels", "expected five widths", "found (8, 8)"],
        ),
        (("--shifts", "search"), ["--shifts", "'search'", "none", "given"]),
        (("--shift-range", "1.5"), ["--shift-range", "at most 0.5 of the box", "found 1.5"]),
        (("--shift-range", "0"), ["--shift-range", "above 0", "found 0"]),
        (("--posterior.max-starts", "many"), ["--posterior.max-starts", "'many'"]),
    ],
)
def test_an_option_that_cannot_be_used_is_named(
    options: tuple[str, ...],
    pieces: list[str],
    simulated: Path,
    chosen: list[ReconstructionConfig],
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = simulated / "particles.star"
    message = refused(capsys, "reconstruct", table, "--out", "run", *options)
    assert_says(message, *pieces)
    assert not chosen and not Path("run").exists()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("seed = = 3\n", ["expected a TOML file of options", "line 1"]),
        ("\x00\n", ["expected a TOML file of options"]),
        ("sed = 3\n", ["unknown option sed", "expected one of", "seed"]),
        ("[posterior]\nsteps = 3\n", ["unknown option posterior.steps", "iterations"]),
        ("[posterior]\nmax_starts = 0\n", ["--posterior.max-starts", "at least 1", "found 0"]),
        ('[posterior]\nmax_starts = "many"\n', ["posterior.max_starts", "integer", "found 'many'"]),
        ("posterior = 3\n", ["posterior", "found 3"]),
        ('shifts = "search"\n', ["shifts", "none", "given", "found 'search'"]),
    ],
)
def test_a_file_of_options_that_cannot_be_used_is_named(
    text: str,
    pieces: list[str],
    simulated: Path,
    chosen: list[ReconstructionConfig],
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("mine.toml").write_text(text)
    table = simulated / "particles.star"
    message = refused(capsys, "reconstruct", table, "--out", "run", "--config", "mine.toml")
    assert_says(message, "mine.toml", *pieces)
    assert not chosen and not Path("run").exists()


def test_a_missing_file_of_options_is_named(
    simulated: Path, chosen: list[ReconstructionConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    table = simulated / "particles.star"
    message = refused(capsys, "reconstruct", table, "--out", "run", "--config", "none.toml")
    assert_says(message, "none.toml", "No such file")
    assert not chosen and not Path("run").exists()


@pytest.mark.parametrize("arguments", [(), ("reconstrukt",), ("simulate",), ("resume",)])
def test_a_command_that_is_not_one_says_what_is_expected(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert_says(refused(capsys, *arguments), "--help")
