"""Which sign the images are taken to have, and what the user is told of it."""

from dataclasses import dataclass
from typing import Any

from cryogimbal.data.particles import ParticleStack
from cryogimbal.imaging.contrast import (
    Contrast,
    ContrastMeasurement,
    contrast_to_sign,
    measure_contrast,
)
from cryogimbal.inference.config import ReconstructionConfig

# Tables of RELION do not name the sign; RELION's own extraction makes particles light.
DECLARED: Contrast = "light"


@dataclass(frozen=True, kw_only=True)
class ContrastDecision:
    """What is declared, what the images show, and what the user chose."""

    option: str
    """The value of --contrast."""
    measured: ContrastMeasurement

    @property
    def used(self) -> Contrast:
        """The user's choice; else what the images show; where they do not tell, the declared one."""
        if self.option == "light" or self.option == "dark":
            return self.option
        return self.measured.contrast if self.measured.is_certain else DECLARED

    @property
    def sign(self) -> float:
        """Factor of the images."""
        return contrast_to_sign(self.used)

    @property
    def sentence(self) -> str:
        """One line for the reader."""
        return (
            f"{self.used} particles (RELION's convention: {DECLARED}; measured: {self._finding}"
            f"{'' if self.option == 'auto' else f'; --contrast {self.option}'})"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the reader should look at."""
        found = self.measured
        if self.option == "auto" and not found.is_certain:
            return (
                f"the images do not tell their sign ({self._finding}): {self.used} particles are "
                "assumed; if the map comes out inside out, give --contrast light or --contrast dark",
            )
        if not found.is_certain:
            return ()
        if self.option == "auto" and found.contrast != DECLARED:
            return (
                f"the images show {found.contrast} particles ({self._finding}) where RELION's "
                f"convention is {DECLARED}: they are inverted; --contrast {DECLARED} takes them as "
                "they are",
            )
        if self.used != found.contrast:
            return (
                f"--contrast {self.option}, but the images show {found.contrast} particles "
                f"({self._finding}); --contrast auto follows the images",
            )
        return ()

    def to_dict(self) -> dict[str, Any]:
        """For the summary of a run."""
        found = self.measured
        return {
            "used": self.used,
            "option": self.option,
            "declared": DECLARED,
            "measured": found.contrast if found.is_certain else None,
            "z": round(found.z, 2),
            "n_images": found.n_images,
        }

    @property
    def _finding(self) -> str:
        found = self.measured
        what = found.contrast if found.is_certain else "undecided"
        return f"{what}, z = {found.z:.1f} over {found.n_images:,} images"


def decide_contrast(stack: ParticleStack, config: ReconstructionConfig) -> ContrastDecision:
    """Measure the sign of a stack and hold it against the option."""
    return ContrastDecision(
        option=config.contrast, measured=measure_contrast(stack, config.particle_diameter)
    )
