"""Scores of predictions and clusterings, with intervals."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_core.rng import Rng

CONFIDENCE = 0.95
_DRAWS = 2**22
"""Random numbers in memory at once."""


def per_class(predicted: Tensor, labels: Tensor, num_classes: int) -> list[float | None]:
    """Share of each class's images that are predicted right (recall); None for a class without images."""
    count = torch.bincount(labels, minlength=num_classes)
    right = torch.bincount(labels[predicted == labels], minlength=num_classes)
    return [r / n if n else None for r, n in zip(right.tolist(), count.tolist(), strict=True)]


def balanced(recalls: Sequence[float | None]) -> float:
    """Balanced accuracy: the mean recall of the classes that have images."""
    known = [r for r in recalls if r is not None]
    return sum(known) / len(known)


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
    return [(float(low), float(high)) for low, high in torch.quantile(torch.cat(means, 1), edges, dim=1).T]


def clustering_scores(clusters: Tensor, labels: Tensor) -> tuple[float, float]:
    """Agreement of a clustering (N,) with classes (N,), both int64 >= 0, whatever the clusters are called.

    Returns:
        Normalized mutual information (arithmetic mean of the entropies), in [0, 1], and the adjusted Rand index (Hubert
        and Arabie, 1985), 0 on average for a random clustering and 1 for the same one.
    """
    width = int(labels.max()) + 1
    table = torch.bincount(clusters * width + labels, minlength=(int(clusters.max()) + 1) * width).view(-1, width).double()
    return _nmi(table), _ari(table)


def _nmi(table: Tensor) -> float:
    joint = table / table.sum()
    a, b = joint.sum(1), joint.sum(0)
    both, first, second = (float(-torch.special.xlogy(p, p).sum()) for p in (joint, a, b))
    information = first + second - both
    return max(0.0, 2 * information / (first + second)) if first + second > 0 else 1.0


def _ari(table: Tensor) -> float:
    def pairs(counts: Tensor) -> float:
        return float((counts * (counts - 1) / 2).sum())

    together, first, second, total = pairs(table), pairs(table.sum(1)), pairs(table.sum(0)), pairs(table.sum())
    expected = first * second / total if total else 0.0
    most = (first + second) / 2
    return (together - expected) / (most - expected) if most != expected else 1.0
