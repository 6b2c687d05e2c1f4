"""From a structure found without symmetry to one in the frame of a point group."""

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cryogimbal.data.density import DensityMap
from cryogimbal.evaluation.alignment import Alignment, apply_alignment
from cryogimbal.evaluation.symmetric_density import symmetrise_density
from cryogimbal.evaluation.symmetry_axes import SymmetryAxes
from cryogimbal.inference.pose_table import PoseTable
from cryogimbal.symmetry import NO_SYMMETRY, SymmetryGroup

# Compact maps agree with turned copies of themselves to 0.1 to 0.4 over eight shells anyway.
LEAST_AGREEMENT = 0.45
# Axes are looked for in the first map, and where they do not show, in the map after auto-decoding.
MOST_SEARCHES = 2


@dataclass(frozen=True, kw_only=True)
class Imposition:
    """What is known of the group that the user has named."""

    asked: SymmetryGroup
    imposed: bool = False
    """Whether map and poses are in its frame, and kept to it."""
    searches: int = 0
    """How often its axes have been looked for."""
    agreement: float | None = None
    """What the last search found, see :class:`SymmetryAxes`."""

    @property
    def group(self) -> SymmetryGroup:
        """The group that counts now."""
        return self.asked if self.imposed else NO_SYMMETRY

    @property
    def is_sought(self) -> bool:
        """Whether the axes are to be looked for in the next map."""
        return self.asked.order > 1 and not self.imposed and self.searches < MOST_SEARCHES

    def after(self, axes: SymmetryAxes) -> "Imposition":
        """The group is imposed where the map has it."""
        return replace(
            self,
            imposed=axes.agreement >= LEAST_AGREEMENT,
            searches=self.searches + 1,
            agreement=axes.agreement,
        )

    def state_dict(self) -> dict[str, Any]:
        """All but the group, which is an option."""
        return {
            "imposed": self.imposed,
            "searches": self.searches,
            "agreement": self.agreement,
        }

    def of_state(self, state: dict[str, Any]) -> "Imposition":
        """As it was saved by :meth:`state_dict`."""
        return replace(self, **state)

    def to_dict(self) -> dict[str, Any]:
        """For the summary of a run."""
        return {
            "symmetry": self.group.name,
            "symmetry_asked": self.asked.name,
            "symmetry_agreement": self.agreement,
        }


NOTHING_IMPOSED = Imposition(asked=NO_SYMMETRY)


def telling(imposition: Imposition, axes: SymmetryAxes) -> str:
    """What a search for axes has found, for people."""
    name = axes.group.name
    found = (
        f"at the best axes of {name} the map agrees with its copies to {axes.agreement:.2f} up to "
        f"{axes.resolution_angstrom:.1f} Å (1 is exact)"
    )
    if imposition.imposed:
        moved = float(axes.alignment.shift_angstrom.norm())
        return (
            f"{found}; it is turned to them, moved by {moved:.1f} Å, and kept symmetric from here"
        )
    expected = f"{found}, where at least {LEAST_AGREEMENT} was expected"
    if imposition.is_sought:
        return f"{expected}; the search goes on without symmetry and looks again in its next map"
    return (
        f"{expected}: the particle does not seem to have {name}, and no symmetry is imposed; give "
        "another --symmetry, or --symmetry-from start to have it in any case"
    )


def density_on_axes(density: DensityMap, axes: SymmetryAxes) -> Float[Tensor, "box box box"]:
    """The map turned to the axes and made symmetric."""
    return symmetrise_density(apply_alignment(density, axes.alignment), axes.group).values


def table_on_axes(table: PoseTable, alignment: Alignment, box_angstrom: float) -> PoseTable:
    """The poses that belong to the turned map: see :mod:`cryogimbal.evaluation.alignment`."""
    rotation = table.rotation @ alignment.rotation.to(table.rotation).T
    shift = table.shift_box
    if shift is not None:
        origin = rotation @ (alignment.shift_angstrom / box_angstrom).to(rotation)
        shift = shift - origin[..., :2]
    return PoseTable(rotation=rotation, weight=table.weight, shift_box=shift)
