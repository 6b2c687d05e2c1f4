"""Transforms, shells and rows by direct sums over every sample, float64."""

import itertools
import math

import torch
from torch import Tensor


def hartley_by_sums(signal: Tensor) -> Tensor:
    """``H(k) = sum_x f(x) cas(2 pi k.x / box) / sqrt(n)`` of a cube or square, any number of axes."""
    box, n_axes = signal.shape[-1], signal.ndim
    places = list(itertools.product(range(box), repeat=n_axes))
    spectrum = torch.zeros(signal.shape, dtype=torch.float64)
    for k_place in places:
        total = 0.0
        for x_place in places:
            pairs = zip(k_place, x_place, strict=True)
            dot = sum((k - box // 2) * (x - box // 2) for k, x in pairs)
            angle = 2 * math.pi * dot / box
            total += float(signal[x_place]) * (math.cos(angle) + math.sin(angle))
        spectrum[k_place] = total / math.sqrt(box**n_axes)
    return spectrum


def shell_sums_by_loop(values: Tensor) -> Tensor:
    """Sums over samples with ``round(|k|)`` from 0 to ``box // 2``."""
    box = values.shape[-1]
    sums = torch.zeros(box // 2 + 1, dtype=torch.float64)
    for place in itertools.product(range(box), repeat=values.ndim):
        shell = round(math.sqrt(sum((i - box // 2) ** 2 for i in place)))
        if shell <= box // 2:
            sums[shell] += float(values[place])
    return sums


def frequencies_by_sorting(box: int, radius: float) -> list[tuple[int, int]]:
    """(kx, ky) of a disc row: pairs k, -k by radius, then by row, then by column."""
    reach = range(-box, box + 1)
    upper = [
        (kx, ky)
        for ky in reach
        for kx in reach
        if (ky > 0 or (ky == 0 and kx > 0))
        and math.hypot(kx, ky) <= radius
        and 2 * math.hypot(kx, ky) < box
    ]
    upper.sort(key=lambda k: (k[0] ** 2 + k[1] ** 2, k[1], k[0]))
    return [(0, 0)] + [k for kx, ky in upper for k in ((kx, ky), (-kx, -ky))]
