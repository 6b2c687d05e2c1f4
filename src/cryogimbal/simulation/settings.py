"""What a simulated stack is to be like: every option with its default, validated."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from cryogimbal.errors import InputError
from cryogimbal.simulation.junk import JUNK_KINDS, JunkKind

# What a table of CTF values says itself.
_IN_CTF_TABLE = (
    "defocus_range",
    "astigmatism_sd",
    "voltage",
    "spherical_aberration",
    "amplitude_contrast",
)


@dataclass(frozen=True, kw_only=True)
class SimulationSettings:
    """Options of a simulation; ``cryogimbal simulate`` has one flag for each."""

    box: int | None = None
    """Pixels a side; 64 where none is given, or a map's own."""
    pixel_size: float | None = None
    """Sampling in Å; a map's own or, for a phantom, 192 Å / box where none is given."""
    n_particles: int = 5000
    """Number of images, junk among them."""
    snr: float = 0.1
    """Mean over the images that are no junk of the variance of the clean image with CTF (whole box) /
    noise variance."""
    seed: int = 0
    """Poses, CTF values, noise and junk follow from it; the phantom itself does not."""
    phantom_seed: int = 0
    """Another seed is another structure of the same symmetry."""
    envelope_b_factor: float | None = None
    """Fall-off exp(-B s^2 / 4) of the true density, B in Å^2; 8 pixel_size^2 where none is
    given, and none for a map."""
    shift_sd: float = 0.0
    """Standard deviation of the displacement from the box centre in Å, along x and y."""
    view_density_ratio: float = 1.0
    """Density of view directions where they are most over where they are fewest: von Mises-Fisher
    about z; 1: uniform."""
    noise_length: float = 0.0
    """Coloured noise: its power falls as 1 / (1 + (s L)^2) + floor with the frequency s in 1/Å, and this
    is L in Å; 0: white. Its standard deviation is 1 in any case."""
    noise_floor: float = 0.0
    """The floor of coloured noise, beside a power of 1 at frequency 0."""
    junk_fraction: float = 0.0
    """Share of images that are no single particle."""
    junk_kinds: tuple[JunkKind, ...] = JUNK_KINDS
    """What they are, in equal shares: noise alone, the edge of a frame through the box, a bright
    contaminant, two particles."""
    contrast: Literal["light", "dark"] = "light"
    """Particles against their background; light is RELION's convention."""
    ctf_table: Path | None = None
    """CTF values of real images, drawn from this ctf.pkl of cryoDRGN; its box and pixel size do not
    count. None: from the ranges below."""
    defocus_range: tuple[float, float] = (10000.0, 25000.0)
    """Mean defocus is uniform between these, in Å; underfocus is positive."""
    astigmatism_sd: float = 250.0
    """Standard deviation of the difference of the two defocus values in Å; its angle is uniform."""
    voltage: float = 300.0
    """Acceleration voltage in kV."""
    spherical_aberration: float = 2.7
    """Spherical aberration in mm."""
    amplitude_contrast: float = 0.1
    """Fraction of amplitude contrast."""

    def __post_init__(self) -> None:
        self._require_box()
        _require_above(0, "pixel-size", self.pixel_size)
        _require_at_least(1, "n-particles", self.n_particles)
        _require_above(0, "snr", self.snr)
        _require_at_least(0, "seed", self.seed)
        _require_at_least(0, "phantom-seed", self.phantom_seed)
        _require_at_least(0, "envelope-b-factor", self.envelope_b_factor)
        _require_at_least(0, "shift-sd", self.shift_sd)
        _require_at_least(1, "view-density-ratio", self.view_density_ratio)
        _require_at_least(0, "astigmatism-sd", self.astigmatism_sd)
        _require_above(0, "voltage", self.voltage)
        _require_at_least(0, "spherical-aberration", self.spherical_aberration)
        self._require_noise()
        self._require_junk()
        self._require_ctf()

    def _require_box(self) -> None:
        if self.box is not None and self.box < 8:
            raise InputError(f"--box: expected at least 8 pixels, found {self.box}")

    def _require_noise(self) -> None:
        _require_at_least(0, "noise-length", self.noise_length)
        _require_at_least(0, "noise-floor", self.noise_floor)
        if self.noise_floor > 0 and self.noise_length == 0:
            raise InputError(
                f"--noise-floor: found {self.noise_floor} but no --noise-length; white noise has no "
                "floor, give the length as well"
            )

    def _require_junk(self) -> None:
        if not 0 <= self.junk_fraction < 1:
            raise InputError(
                f"--junk-fraction: expected 0 to below 1, found {self.junk_fraction}; some images "
                "must be particles"
            )
        if not self.junk_kinds or len(set(self.junk_kinds)) < len(self.junk_kinds):
            raise InputError(
                f"--junk-kinds: expected some of {', '.join(JUNK_KINDS)}, each once, found "
                f"{', '.join(self.junk_kinds) or 'none'}"
            )

    def _require_ctf(self) -> None:
        low, high = self.defocus_range
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise InputError(
                f"--defocus-range: expected a lower and a higher number of Å, found {low} {high}"
            )
        if not 0 <= self.amplitude_contrast <= 1:
            raise InputError(
                f"--amplitude-contrast: expected 0 to 1, found {self.amplitude_contrast}"
            )
        if self.ctf_table is None:
            return
        for field in fields(self):
            if field.name in _IN_CTF_TABLE and getattr(self, field.name) != field.default:
                raise InputError(
                    f"--{field.name.replace('_', '-')}: found {getattr(self, field.name)} beside "
                    f"--ctf-table {self.ctf_table}, which has values of its own; give one of the two"
                )


def _require_above(limit: int, option: str, found: int | float | None) -> None:
    if found is not None and not (math.isfinite(found) and found > limit):
        raise InputError(f"--{option}: expected a number above {limit}, found {found}")


def _require_at_least(limit: int, option: str, found: int | float | None) -> None:
    if found is not None and not (math.isfinite(found) and found >= limit):
        raise InputError(f"--{option}: expected a number of at least {limit}, found {found}")
