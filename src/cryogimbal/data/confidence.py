"""What is known of every particle beside its pose."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """How far each true pose may be from the one written, and how much each image is a particle."""

    width_deg: Float[Tensor, " particle"]
    """Radius of the ball around the rotation written that holds 68 % of the posterior."""
    shift_width_angstrom: Float[Tensor, " particle"] | None
    """The same of the shift; none where particles were not searched for shifts."""
    score: Float[Tensor, " particle"]
    """From 0, junk, to 1, a particle."""

    def __len__(self) -> int:
        """Number of particles."""
        return len(self.score)

    def __getitem__(self, index: Int[Tensor, " chosen"]) -> "Confidence":
        """The chosen particles, in the given order."""
        shift = self.shift_width_angstrom
        return Confidence(
            width_deg=self.width_deg[index],
            shift_width_angstrom=None if shift is None else shift[index],
            score=self.score[index],
        )
