"""How well a number tells two kinds apart."""

import scipy.stats
import torch
from jaxtyping import Bool, Float
from torch import Tensor


def roc_area(values: Float[Tensor, " n"], is_positive: Bool[Tensor, " n"]) -> float:
    """Area under the ROC curve: how often a positive has the higher value, ties counting half.

    By the rank sum of Mann and Whitney (1947).

    Raises
    ------
    ValueError
        If one of the kinds is not there.
    """
    n_positive = int(is_positive.sum())
    n_negative = len(values) - n_positive
    if n_positive == 0 or n_negative == 0:
        raise ValueError(f"two kinds are needed, found {n_positive} positive of {len(values)}")
    ranks = torch.from_numpy(scipy.stats.rankdata(values.double().cpu().numpy()))
    rank_sum = float(ranks[is_positive.cpu()].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
