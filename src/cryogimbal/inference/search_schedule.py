"""How band limit and temperature of a random start change from step to step, and when it ends."""

from dataclasses import dataclass

from cryogimbal.inference.config_posterior import PosteriorConfig

# Fraction of the planned steps after which band limit and temperature have reached their ends.
ANNEALED_AT = 0.8
# Orientations of a median image at which a start need not go on to higher frequencies.
SETTLED_SHARING = 2.5


@dataclass(frozen=True, kw_only=True)
class SearchSchedule:
    """From a few frequencies and a broad posterior to as many as it takes to tell poses apart.

    Where an image says little at the planned band limit, no map can be right about its pose there: the
    70S at an SNR of 0.05 in coloured noise is found between 10 and 12 cycles per box, not at 8.
    """

    config: PosteriorConfig
    highest_radius: float
    """Band limit of the images, in cycles per box."""

    @property
    def largest_radius(self) -> float:
        """Band limit at which a start ends, whatever it has come to."""
        return min(max(self.config.largest_radius, self.config.end_radius), self.highest_radius)

    def radius(self, step: int) -> float:
        """Band limit of a step: to the planned end, and on from there at the same pace."""
        config = self.config
        growth = (config.end_radius - config.start_radius) / self._annealed_at
        planned = min(config.end_radius, config.start_radius + growth * step)
        beyond = growth * max(0, step - config.iterations)
        return min(planned + beyond, self.largest_radius)

    def sharing(self, step: int, group_order: int) -> float:
        """Orientations that a median image is held to be shared by, at least, among different ones."""
        way = min(1.0, step / self._annealed_at)
        return max(1.0, self.config.start_sharing / group_order) ** (1 - way)

    def is_over(self, n_steps: int, sharing: float) -> bool:
        """Whether a start is at its end: images know their orientations, or never will."""
        if n_steps < self.config.iterations:
            return False
        return sharing <= SETTLED_SHARING or self.radius(n_steps - 1) == self.largest_radius

    @property
    def _annealed_at(self) -> float:
        return max(1.0, ANNEALED_AT * self.config.iterations)
