"""Random generators that are functions of the seed and of the place in the run.

Nothing random is carried from step to step, so a checkpoint needs no generator state and a resumed
run draws what the unbroken one would have drawn.
"""

import hashlib

import torch
from jaxtyping import Int
from torch import Tensor


def generator_for(seed: int, *place: str | int) -> torch.Generator:
    """CPU generator for one purpose at one place of the run, such as ("epoch order", 3)."""
    text = "/".join(str(part) for part in (seed, *place))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def epoch_batches(
    n: int, batch_size: int, seed: int, *place: str | int
) -> tuple[Int[Tensor, " batch"], ...]:
    """All of 0..n-1 in a random order that depends on seed and place, cut into batches."""
    order = torch.randperm(n, generator=generator_for(seed, "order", *place))
    return order.split(batch_size)
