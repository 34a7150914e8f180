"""Intervals around accuracies, by the bootstrap."""

import torch
from torch import Tensor

from ssl_core.rng import Rng

CONFIDENCE = 0.95
_DRAWS = 2**22
"""Random numbers in memory at once."""


def bootstrap_intervals(correct: Tensor, resamples: int, *parts: int) -> list[tuple[float, float]]:
    """Percentile intervals (95 %) of mean accuracies over resampled images (Efron, 1979).

    All rows see the same resamples, so encoders evaluated with the same parts can be compared pairwise.

    Args:
        correct: (R, M), 1 where row r's prediction of image m is right.
        parts: integers naming the stream of random numbers.
    """
    m, means = correct.shape[1], []
    for ids in torch.split(torch.arange(resamples, device=correct.device), max(1, _DRAWS // m)):
        chosen = Rng(ids, *parts).integers(m, m)
        means.append(torch.stack([row.float()[chosen].mean(1) for row in correct]))
    edges = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], device=correct.device)
    found = [(float(low), float(high)) for low, high in torch.quantile(torch.cat(means, 1), edges, dim=1).T]
    share = correct.float().mean(1).tolist()
    return [one_sided(s == 1, m) if s in (0, 1) else drawn for s, drawn in zip(share, found, strict=True)]


def one_sided(is_right: bool, images: int) -> tuple[float, float]:
    """Of images that are all right, or all wrong, where a bootstrap has no width: Clopper and Pearson (Biometrika 1934)."""
    least = ((1 - CONFIDENCE) / 2) ** (1 / images)
    return (least, 1.0) if is_right else (0.0, 1 - least)
