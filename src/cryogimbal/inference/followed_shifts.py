"""Displacements of particles during a search: followed, so that few need to be compared.

What an image says of its particle's place grows with the map and its band limit, as the spacing at which
places must be compared shrinks. Around where each particle has been found so far a handful is enough.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogimbal.imaging.centres import Centres
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.shift_search import SPACING_PERIODS, shift_grid
from cryogimbal.inference.posterior import Displacements

# The range of displacements, in standard deviations per axis of what is expected of them at first, and
# of what images say about them later.
RANGE_DEVIATIONS, FOLLOWED_DEVIATIONS = 2.0, 2.5


class FollowedShifts:
    """Where each particle has been found so far, beside where its image was centred."""

    def __init__(self, n_particles: int, range_box: float, device: torch.device | str) -> None:
        self._range_box = range_box
        self._centre_box = torch.zeros(n_particles, 2, device=device)
        self._deviation_box = range_box

    def reset(self) -> None:
        """Forget what has been found."""
        self._centre_box = torch.zeros_like(self._centre_box)
        self._deviation_box = self._range_box

    def centred(self, batch: ParticleBatch) -> ParticleBatch:
        """Images moved back by where their particles have been found."""
        return batch if self._range_box == 0 else batch.centred(self._centre_box[batch.index])

    def shifts(self, radius: float) -> Float[Tensor, "shift 2"] | None:
        """Displacements to be compared at a band limit (fractions of the box); none: centred."""
        if self._range_box == 0:
            return None
        range_box = min(self._range_box, FOLLOWED_DEVIATIONS * self._deviation_box)
        # Without its neighbours a displacement could never be told from none.
        range_box = max(range_box, SPACING_PERIODS / radius)
        return shift_grid(range_box, radius).to(self._centre_box.device)

    def displacements(self, batch: ParticleBatch) -> Displacements | None:
        """The same with how probable they are for each image of a batch.

        The prior is that of the first centres, however often particles have been moved since.
        """
        shifts = self.shifts(batch.disc.radius)
        if shifts is None:
            return None
        from_first_centre = self._centre_box[batch.index, None] + shifts
        deviation = self._range_box / RANGE_DEVIATIONS
        log_prior = -0.5 * (from_first_centre / deviation).square().sum(2)
        return Displacements(shift_box=shifts, log_prior=log_prior)

    def follow(self, found: Centres, index: Int[Tensor, " batch"], radius: float) -> None:
        """Move particles by what has been found of them at a band limit."""
        self._centre_box = self._centre_box.index_add(0, index, found.shift_box)
        within_spacing = (SPACING_PERIODS / radius) ** 2 / 12
        self._deviation_box = float((found.variance_box2.median() + within_spacing).sqrt())

    def state_dict(self) -> dict[str, Any]:
        """Everything."""
        return {"centre_box": self._centre_box, "deviation_box": self._deviation_box}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._centre_box = state["centre_box"].to(self._centre_box.device)
        self._deviation_box = state["deviation_box"]
