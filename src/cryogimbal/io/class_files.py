"""The maps of one class in the folder of a run, and what is written beside them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ClassFiles:
    """Paths of what belongs to one class; with one class, or for the first, the plain names."""

    folder: Path
    number: int
    """From 1, as in tables."""

    @property
    def density(self) -> Path:
        """The density found."""
        return self.folder / ("map.mrc" if self.number == 1 else f"run_{self._name}.mrc")

    def half_map(self, number: int) -> Path:
        """The unfiltered map of half 1 or 2, named so that RELION's PostProcess finds its partner."""
        return self.folder / f"run_half{number}_{self._name}_unfil.mrc"

    @property
    def mask(self) -> Path:
        """What the half-maps are compared in."""
        return self.folder / f"mask{self.suffix}.mrc"

    @property
    def fsc_star(self) -> Path:
        """How the half-maps agree, laid out as RELION's postprocess.star."""
        return self.folder / f"fsc{self.suffix}.star"

    @property
    def fsc_xml(self) -> Path:
        """The corrected correlation for EMDB."""
        return self.folder / f"fsc{self.suffix}.xml"

    @property
    def suffix(self) -> str:
        """What names of further files end with; nothing for the first class."""
        return "" if self.number == 1 else f"_{self._name}"

    @property
    def _name(self) -> str:
        return f"class{self.number:03d}"
