"""k-means whose result depends on the data and the key alone: not on threads, devices' atomics or the order of sums."""

import torch
from torch import Tensor

from ssl_core.rng import Rng

BLOCK = 8192
"""Rows whose distances to all centroids are in memory at once."""


@torch.no_grad()
def kmeans(x: Tensor, k: int, iterations: int, *parts: int) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from a k-means++ start (Arthur and Vassilvitskii, SODA 2007), a fixed number of iterations.

    A cluster that becomes empty restarts at the point that is farthest from its centroid, a second one at the next farthest.

    Args:
        x: (N, D) float.
        k: number of clusters, at most N.
        parts: integers naming the stream of random numbers, for example the epoch.

    Returns:
        Centroids (k, D), the means of their members, and the nearest centroid (N,) int64 of each row.

    Raises:
        ValueError: ``k`` is not between 1 and N.
    """
    if not 1 <= k <= len(x):
        raise ValueError(f"k-means needs 1 to {len(x)} clusters, not {k}")
    x = x.float()
    centroids = _plus_plus(x, k, *parts)
    for _ in range(iterations):
        assignment, distance = _nearest(x, centroids)
        means, count = cluster_means(x, assignment, k)
        empty = count == 0
        farthest = torch.argsort(distance, descending=True, stable=True)[:k]
        spare = x[farthest][(empty.cumsum(0) - 1).clamp_(min=0)]  # the j-th empty cluster takes the j-th farthest point
        centroids = torch.where(empty[:, None], spare, means)
    return centroids, _nearest(x, centroids)[0]


def cluster_means(x: Tensor, assignment: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Means (k, D) of the rows of each cluster (0 where empty) and their number (k,).

    The sums are taken in integers, so they do not depend on the order in which a device adds.
    """
    scale = 2.0**31 / x.abs().max().clamp(min=torch.finfo(x.dtype).tiny).double()
    sums = torch.zeros(k, x.shape[1], dtype=torch.int64, device=x.device)
    sums.index_add_(0, assignment, (x.double() * scale).round().to(torch.int64))
    count = torch.zeros(k, dtype=torch.int64, device=x.device).index_add_(0, assignment, torch.ones_like(assignment))
    return (sums.double() / scale / count.clamp(min=1)[:, None]).to(x.dtype), count


def _nearest(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Index (N,) of the nearest centroid, the first on a tie, and the squared distance (N,) to it."""
    half_norm = 0.5 * centroids.square().sum(1)
    best = [(half_norm - rows @ centroids.T).min(1) for rows in torch.split(x, BLOCK)]
    distance = torch.cat([b.values for b in best]) * 2.0 + x.square().sum(1)
    return torch.cat([b.indices for b in best]), distance.clamp_(min=0.0)


def _plus_plus(x: Tensor, k: int, *parts: int) -> Tensor:
    """k rows of x (k, D), each drawn with probability proportional to the squared distance to those before it.

    The running sums are of integers: the order does not matter, and a GPU that is to be deterministic has none of floats.
    """
    draws = Rng(torch.arange(k, device=x.device), *parts).uniform().double()
    norms = x.square().sum(1)
    chosen = x[(draws[:1] * len(x)).long()]
    centroids, distance = [chosen], torch.full_like(norms, torch.inf)
    for draw in draws[1:]:
        new = (norms - 2.0 * (x @ chosen[0]) + chosen.square().sum()).clamp_(min=0.0)
        distance = torch.minimum(distance, new)
        scale = 2.0**62 / len(x) / distance.max().clamp(min=torch.finfo(x.dtype).tiny).double()
        cumulative = (distance.double() * scale).long().cumsum(0)
        index = torch.searchsorted(cumulative, (draw * cumulative[-1]).long(), right=True).clamp_(max=len(x) - 1)
        chosen = x[index[None]]
        centroids.append(chosen)
    return torch.cat(centroids)
