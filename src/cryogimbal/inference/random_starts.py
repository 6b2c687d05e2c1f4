"""Random starts of a search: what they begin with, what they come to, when there were enough."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from cryogimbal.imaging.backprojection import SufficientStatistics
from cryogimbal.imaging.model import ParticleBatch
from cryogimbal.imaging.volume import GridGeometry
from cryogimbal.inference.grid_search import OVERSAMPLING, solve_lightly
from cryogimbal.rotations import random_rotations


@dataclass(frozen=True, kw_only=True)
class Start:
    """What one random start has come to."""

    densities: Float[Tensor, "class box box box"]
    radius: float
    """Band limit of the densities, in cycles per box."""
    is_settled: bool
    """Whether images knew their orientations at the end."""
    is_accelerated: bool
    loss: float
    """Mean squared residual per coefficient at the best orientations."""
    explained: float
    """How much smaller that is than without any density."""


def random_densities(
    batch: ParticleBatch,
    geometry: GridGeometry,
    mask: Float[Tensor, "box box box"],
    n_classes: int,
    generator: Generator,
) -> Float[Tensor, "class box box box"]:
    """Noise in a mask for each class, low-passed, as strong as a map of the images at random poses."""
    statistics = SufficientStatistics.zeros(geometry, mask.device)
    rotation = random_rotations(len(batch.index), generator).to(mask.device)
    statistics.add_images(batch, rotation, OVERSAMPLING)
    blurred = solve_lightly(statistics, geometry) * mask
    found = []
    for _ in range(n_classes):
        noise = torch.randn(blurred.shape, generator=generator).to(mask.device) * mask
        smooth = geometry.density_of_grid(geometry.grid_of_density(noise))
        found.append(smooth * (blurred.std() / smooth.std()))
    return torch.stack(found)


def best_start(starts: Sequence[Start]) -> Start:
    """The start that leaves the smallest residual."""
    return min(starts, key=lambda start: start.loss)


def wants_momentum(starts: Sequence[Start], most: int) -> bool:
    """Whether the next start is an accelerated one: some starts have ended and none has settled.

    Parameters
    ----------
    most
        Accelerated starts to be made; what does not settle may also be a symmetric particle, for which
        annealed ones go on.
    """
    unsettled = bool(starts) and not any(start.is_settled for start in starts)
    return unsettled and sum(start.is_accelerated for start in starts) < most


def two_best_agree(starts: Sequence[Start], agreement: float) -> bool:
    """Whether the best annealed start has been reached twice: a wrong one seldom is.

    Accelerated starts take no part: they are made where none has settled, and explain equally little as
    long as they have found nothing.

    Parameters
    ----------
    agreement
        Fraction by which what two starts explain may differ.
    """
    explained = [start.explained for start in starts if not start.is_accelerated]
    explained.sort(reverse=True)
    return len(explained) > 1 and explained[0] - explained[1] < agreement * explained[0]


def one_stands_out(starts: Sequence[Start], agreement: float) -> bool:
    """Whether an accelerated start explains what no annealed one does.

    Parameters
    ----------
    agreement
        Fraction by which what two starts explain may differ by chance.
    """
    best = best_start(starts) if starts else None
    if best is None or not best.is_accelerated:
        return False
    others = [start.explained for start in starts if not start.is_accelerated]
    return all(best.explained - other > agreement * best.explained for other in others)


def verdict_on(starts: Sequence[Start], agreement: float) -> str:
    """Which start goes on, and what speaks for it."""
    if len(starts) == 1:
        return "the only random start"
    if one_stands_out(starts, agreement):
        return f"the last of {len(starts)} random starts explains more than any other,"
    if two_best_agree(starts, agreement):
        return f"the two best of {len(starts)} random starts agree, the better one"
    return f"no two of {len(starts)} random starts agree, the best one (be wary of the map)"
