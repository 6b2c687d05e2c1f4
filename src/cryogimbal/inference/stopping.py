"""When stage 2 ends, decided from what the run itself measures.

Two things say that another pass is of no use: poses no longer turn by what the band limit could tell,
and half-maps no longer predict images that they have not seen better than before, beyond what noise in
the images makes of that. Both are asked for, since poses may stand still in a poor map and a map may
gain while single images still move. Likelihoods of different band limits do not compare, so the rule
begins when the limit no longer grows. A likelihood that falls is no reason by itself: while noise and
scales are measured again its unit changes a little. A volume that Adam steps has no halves: poses alone
decide.
"""

from dataclasses import dataclass

import torch

from cryogimbal.inference.config_stages import AutoDecodingConfig
from cryogimbal.inference.held_out import HeldOutLikelihood
from cryogimbal.rotations import angle_deg


@dataclass(frozen=True, kw_only=True)
class FinishedPass:
    """What the rule needs to know of a pass over the images."""

    passes: int
    """Passes that count, with this one: those not held at a band limit."""
    turn_deg: float
    """Median turn of a pose."""
    tellable_deg: float
    """Turn that moves the rim of the particle by half a period of the band limit."""
    held_out: HeldOutLikelihood | None
    """Of the half-maps after it; none where there are no halves, or not yet in a support."""


def tellable_deg(radius: float, particle_width_box: float) -> float:
    """``1 / (radius x width)`` in degrees: sampling theorem for turns (Crowther et al. 1970).

    Parameters
    ----------
    radius
        Band limit in cycles per box.
    particle_width_box
        Width of the particle as a fraction of the box.
    """
    return float(angle_deg(torch.tensor(1 / (radius * particle_width_box))))


@dataclass(kw_only=True)
class StopRule:
    """Follows the passes at the last band limit and says when to end, and why."""

    config: AutoDecodingConfig
    before: HeldOutLikelihood | None = None

    def reason_to_stop(self, done: FinishedPass) -> str | None:
        """A sentence once another pass is of no use or not allowed, else none."""
        now, before = done.held_out, self.before
        self.before = now
        turned = f"median turn {done.turn_deg:.2g}°, {done.tellable_deg:.2g}° can be told"
        settled = done.turn_deg < self.config.settled_turn * done.tellable_deg
        planned = done.passes >= self.config.epochs
        if now is None or before is None:
            if settled and self.config.volume_step == "adam":
                return f"poses have settled ({turned}; without half-maps that alone decides)"
            return f"all {done.passes} passes are done ({turned})" if planned else None
        gain = now.nats_per_image - before.nats_per_image
        told = (
            f"{turned}; held-out log-likelihood {now.nats_per_image:.2f} nats an image, "
            f"{gain:+.2g} since the pass before, ± {now.standard_error:.2g}"
        )
        stalled = gain < now.standard_error
        if settled and stalled:
            return f"poses have settled and the map gains no more ({told})"
        if planned and (stalled or done.passes >= self.config.epochs + self.config.extra_epochs):
            return f"all {done.passes} passes are done ({told})"
        return None

    def state_dict(self) -> dict[str, float | None]:
        """What the next decision needs."""
        before = self.before
        return {
            "nats_per_image": None if before is None else before.nats_per_image,
            "standard_error": None if before is None else before.standard_error,
        }

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        """Continue from a checkpoint."""
        nats, error = state["nats_per_image"], state["standard_error"]
        self.before = None
        if nats is not None and error is not None:
            self.before = HeldOutLikelihood(nats_per_image=nats, standard_error=error)
