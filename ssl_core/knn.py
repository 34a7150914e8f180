"""Weighted k-nearest-neighbor classification (Wu et al., arXiv 1805.01978), exact and the same on every machine.

Features are rounded to multiples of 2^-24 after l2 normalization (finer than float32 at 1/16 and above), so that their
inner products are exact in float64 whatever the order of summation. The search first takes candidates by float32
products, whose error is bounded, then ranks the candidates exactly; a query whose candidates cannot be proven complete
is ranked against the whole set.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_SPARE = 32
"""Candidates beyond k."""
_STEP = 2.0**24
"""Fixed-point steps in 1."""


def knn(
    train: Tensor,
    labels: Tensor,
    queries: Tensor,
    k: Sequence[int],
    temperature: Sequence[float],
    num_classes: int,
    block: int = 256,
) -> dict[tuple[int, float], Tensor]:
    """Predict by the classes of the k most similar training images, weighted by exp(cosine similarity / temperature).

    One search gives every (k, temperature). Ties: equal similarities go to the lower training index, equal class scores
    to the lower class.

    Args:
        train: (N, D) features; ``labels`` (N,) int64 in [0, num_classes).
        queries: (Q, D).
        k: numbers of neighbors; one above N means N.
        block: queries per matrix product; changes speed and memory, never the answer.

    Returns:
        (Q,) int64 for each (k as given, temperature).

    Raises:
        ValueError: no training image, or a k or temperature that is not positive.
    """
    if not len(train) or min(k) < 1 or min(temperature) <= 0:
        raise ValueError("kNN needs at least one training image, k >= 1 and temperature > 0")
    similarity, index = neighbors(train, queries, max(k), block)
    near = labels[index]
    return {(n, t): _vote(similarity[:, :n], near[:, :n], t, num_classes) for n in k for t in temperature}


def _vote(similarity: Tensor, near: Tensor, temperature: float, num_classes: int) -> Tensor:
    """Class with the largest summed weight (Q,); weights are relative to the nearest, which cannot overflow."""
    weight = torch.exp((similarity - similarity[:, :1]) / temperature)
    scores = weight.new_zeros(len(near), num_classes).scatter_add_(1, near, weight)
    return scores.argmax(1)


def neighbors(train: Tensor, queries: Tensor, k: int, block: int = 256) -> tuple[Tensor, Tensor]:
    """The min(k, N) most similar rows of ``train`` (N, D) for each of ``queries`` (Q, D).

    Returns:
        Cosine similarities (Q, k) float64, descending, and their indices (Q, k) int64; ties by the lower index.
    """
    k = min(k, len(train))
    train, queries = _fixed_point(train), _fixed_point(queries)
    coarse = train.to(torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64)
    similarity = train.new_empty(len(queries), k)
    index = torch.empty(len(queries), k, dtype=torch.int64, device=train.device)
    for start in range(0, len(queries), block):
        rows = slice(start, start + block)
        similarity[rows], index[rows] = _search(train, coarse, queries[rows], k)
    return similarity, index


def _fixed_point(x: Tensor) -> Tensor:
    """l2-normalized rows as float64 multiples of ``1 / _STEP``."""
    return (F.normalize(x.double()) * _STEP).round_() / _STEP


def _search(train: Tensor, coarse: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``neighbors`` of one block of queries."""
    count = min(k + _SPARE, len(train))
    found = torch.topk(queries.to(coarse) @ coarse.T, count)
    candidates = found.indices.sort(1).values
    exact = _products(train, queries, candidates)
    similarity, index = _best(exact, candidates, k)
    if count < len(train):
        # A row left out is at most the last candidate plus the error of a float32 product of unit vectors.
        error = 1.01 * train.shape[1] * 2.0**-24
        unproven = found.values[:, -1] + error >= similarity[:, -1]
        if unproven.any():
            whole = torch.arange(len(train), device=train.device).expand(int(unproven.sum()), -1)
            similarity[unproven], index[unproven] = _best(queries[unproven] @ train.T, whole, k)
    return similarity, index


def _products(train: Tensor, queries: Tensor, candidates: Tensor) -> Tensor:
    """Inner products (Q, m) of each query (Q, D) with its own candidates, rows (Q, m) of ``train``; a few queries at a time."""
    gathered = 2**26 if train.is_cuda else 2**17  # values: on a CPU they should stay in its cache
    (m, d), parts = (candidates.shape[1], train.shape[1]), []
    size = max(1, gathered // (m * d))
    for rows, near in zip(torch.split(queries, size), torch.split(candidates, size), strict=True):
        parts.append(torch.linalg.vecdot(train.index_select(0, near.flatten()).view(-1, m, d), rows[:, None]))
    return torch.cat(parts)


def _best(similarity: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, in order; ``index`` ascends along the row, so a stable sort keeps lower ones first."""
    order = similarity.argsort(dim=1, descending=True, stable=True)[:, :k]
    return similarity.gather(1, order), index.gather(1, order)
