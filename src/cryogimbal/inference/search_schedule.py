"""How band limit and temperature of a random start change from step to step, and when it ends."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cryogimbal.inference.config_posterior import PosteriorConfig

# Fraction of the planned steps after which band limit and temperature have reached their ends.
ANNEALED_AT = 0.8
# Orientations of a median image at which a start need not go on to higher frequencies.
SETTLED_SHARING = 2.5
# The same of an accelerated start, which then waits for its structure to come through.
GROWN_AT = 0.1
# Orientations of a median image once it has, at a lower band limit; before that there are twice as many.
ACCELERATED_SETTLED_SHARING = 3.5


@runtime_checkable
class StartSchedule(Protocol):
    """What changes from step to step of a random start, and from one kind of start to another."""

    @property
    def minibatch(self) -> int:
        """Images per step."""
        ...

    @property
    def most_telling(self) -> int | None:
        """Images to work on, those of which most signal is expected; none: all."""
        ...

    @property
    def momentum(self) -> float:
        """Part of a step's change by which the map goes on in the same direction."""
        ...

    def radius(self, step: int) -> float:
        """Band limit of a step, in cycles per box."""
        ...

    def sharing(self, step: int, group_order: int) -> float:
        """Orientations that a median image is held to be shared by, at least, among different ones."""
        ...

    def has_settled(self, sharing: float) -> bool:
        """Whether images know their orientations, by how many share a median one."""
        ...

    def is_over(self, n_steps: int, sharing: float) -> bool:
        """Whether a start is at its end."""
        ...


@dataclass(frozen=True, kw_only=True)
class SearchSchedule:
    """From a few frequencies and a broad posterior to as many as it takes to tell poses apart.

    Where an image says little at the planned band limit, no map can be right about its pose there: the
    70S at an SNR of 0.05 in coloured noise is found between 10 and 12 cycles per box, not at 8.
    """

    config: PosteriorConfig
    highest_radius: float
    """Band limit of the images, in cycles per box."""
    most_telling: int | None = None
    """All images take part."""
    momentum: float = 0.0
    """A volume held broad by temperature has no direction to keep."""

    @property
    def minibatch(self) -> int:
        """Images per step."""
        return self.config.minibatch

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

    def has_settled(self, sharing: float) -> bool:
        """Whether images know their orientations, by how many share a median one."""
        return sharing <= SETTLED_SHARING

    def is_over(self, n_steps: int, sharing: float) -> bool:
        """Whether a start is at its end: images know their orientations, or never will."""
        if n_steps < self.config.iterations:
            return False
        return self.has_settled(sharing) or self.radius(n_steps - 1) == self.largest_radius

    @property
    def _annealed_at(self) -> float:
        return max(1.0, ANNEALED_AT * self.config.iterations)


@dataclass(frozen=True, kw_only=True)
class AcceleratedSchedule:
    """Steps at the images' own temperature, each going on beyond the volume that it solves for.

    Where displacements are unknown, low frequencies say too little for a structure to be found and high
    ones say nothing until displacements are known. Expectation maximisation then fits the power of the
    images by a ball of random texture and creeps from there: what tells structures apart is little and
    grows with a high power of the signal in an image. So the images with most of it work alone, momentum
    makes what is right grow several times sooner, and noise in the map (momentum over the images of a
    step) is kept just below what would wash it out again.
    """

    config: PosteriorConfig
    highest_radius: float
    """Band limit of the images, in cycles per box."""

    @property
    def minibatch(self) -> int:
        """Images per step: noise is carried on as well, so there must be less of it."""
        return self.config.accelerated_minibatch

    @property
    def most_telling(self) -> int | None:
        """Images to work on, those of which most signal is expected."""
        return self.config.accelerated_images

    @property
    def momentum(self) -> float:
        """Part of a step's change by which the map goes on in the same direction."""
        return self.config.momentum

    def radius(self, step: int) -> float:
        """Band limit of a step, in half cycles."""
        first, last = self.config.accelerated_start_radius, self.config.accelerated_end_radius
        way = min(1.0, step / max(1.0, GROWN_AT * self.config.accelerated_iterations))
        return min(round(2 * (first + (last - first) * way)) / 2, self.highest_radius)

    def sharing(self, step: int, group_order: int) -> float:  # noqa: ARG002
        """No more than the images themselves leave open."""
        return 1.0

    def has_settled(self, sharing: float) -> bool:
        """Whether the structure has come through, by how many orientations share a median image."""
        return sharing <= ACCELERATED_SETTLED_SHARING

    def is_over(self, n_steps: int, sharing: float) -> bool:
        """Whether a start is at its end: its structure has come through, or all steps are done."""
        planned = self.config.accelerated_iterations
        if n_steps < GROWN_AT * planned:
            return False
        return self.has_settled(sharing) or n_steps >= planned
