"""Options of the start from random volumes."""

from dataclasses import dataclass
from typing import Literal

from cryogimbal.inference.config_checks import require


@dataclass(frozen=True, kw_only=True)
class PosteriorConfig:
    """Start by stochastic expectation maximisation over a grid of all orientations."""

    max_starts: int = 8
    """Most random volumes to start from; no more are tried once the two best agree."""
    agreement: float = 0.04
    """Two starts agree if what they explain of the images differs by less than this fraction."""
    iterations: int = 50
    """Steps from each random volume, each on one minibatch; more while orientations stay open."""
    minibatch: int = 1000
    """Images per step."""
    n_side: Literal[1, 2, 4, 8, 16] = 4
    """HEALPix resolution of the orientation grid; the spacing is about 60 / n_side degrees."""
    start_radius: float = 4.0
    """Band limit of the first step, in cycles per box."""
    end_radius: float = 8.0
    """Band limit of the last steps, in cycles per box."""
    largest_radius: float = 14.0
    """Band limit to which a start goes on, beyond its steps, while images leave orientations open."""
    start_sharing: float = 100.0
    """Orientations that share a median image at first; falls to 1 (annealing by temperature)."""
    accelerated_starts: int = 2
    """Most starts with momentum, which follow where displaced particles did not settle."""
    accelerated_iterations: int = 200
    """Most steps of such a start."""
    accelerated_images: int = 2500
    """Images that such a start works on: those of which most signal is expected."""
    accelerated_minibatch: int = 1500
    """Images per step of such a start."""
    accelerated_start_radius: float = 10.0
    """Band limit of its first step, in cycles per box."""
    accelerated_end_radius: float = 12.0
    """Band limit of its last steps, in cycles per box."""
    momentum: float = 0.9
    """Part of the last change of the map by which each of its steps goes further."""
    mode_n_side: Literal[1, 2, 4, 8, 16] = 8
    """Resolution of the grid on which the modes of every image are looked for at the end."""
    memory_mib: int = 512
    """Memory in MiB that scores of images against orientations may take at a time."""

    def __post_init__(self) -> None:
        require(self.max_starts >= 1, "posterior.max-starts", "at least 1", self.max_starts)
        require(0 < self.agreement < 1, "posterior.agreement", "between 0 and 1", self.agreement)
        require(self.iterations >= 1, "posterior.iterations", "at least 1", self.iterations)
        require(self.minibatch >= 1, "posterior.minibatch", "at least 1", self.minibatch)
        require(
            1 <= self.start_radius <= self.end_radius,
            "posterior.start-radius",
            f"1 to the end radius ({self.end_radius})",
            self.start_radius,
        )
        require(
            self.start_sharing >= 1, "posterior.start-sharing", "at least 1", self.start_sharing
        )
        require(
            self.accelerated_starts >= 0,
            "posterior.accelerated-starts",
            "0 or more",
            self.accelerated_starts,
        )
        require(
            self.accelerated_iterations >= 1,
            "posterior.accelerated-iterations",
            "at least 1",
            self.accelerated_iterations,
        )
        require(
            self.accelerated_minibatch >= 1,
            "posterior.accelerated-minibatch",
            "at least 1",
            self.accelerated_minibatch,
        )
        require(
            self.accelerated_images >= self.accelerated_minibatch,
            "posterior.accelerated-images",
            f"at least those of a step ({self.accelerated_minibatch})",
            self.accelerated_images,
        )
        require(
            1 <= self.accelerated_start_radius <= self.accelerated_end_radius,
            "posterior.accelerated-start-radius",
            f"1 to its end radius ({self.accelerated_end_radius})",
            self.accelerated_start_radius,
        )
        require(0 <= self.momentum < 1, "posterior.momentum", "0 to below 1", self.momentum)
        require(self.memory_mib >= 1, "posterior.memory-mib", "at least 1", self.memory_mib)
