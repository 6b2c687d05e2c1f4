"""Where particles are expected to be in their images, before poses are known."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
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


def joined_centres(parts: Sequence[Centres]) -> Centres | None:
    """Those of the images of all parts, one part after the other; none of no parts."""
    if not parts:
        return None
    return Centres(
        shift_box=torch.cat([part.shift_box for part in parts]),
        variance_box2=torch.cat([part.variance_box2 for part in parts]),
    )
