"""Where particles are expected to be in their images, before poses are known."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Centres:
    """Where particles are expected to be, and how far from there they are on average."""

    shift_box: Float[Tensor, "batch 2"]
    """Posterior mean of the displacement (x, y) in fractions of the box."""
    variance_box2: Float[Tensor, " batch"]
    """Posterior variance per axis."""

    def __getitem__(self, index: Int[Tensor, " chosen"]) -> "Centres":
        """Those of the chosen images, in the given order."""
        return Centres(shift_box=self.shift_box[index], variance_box2=self.variance_box2[index])
