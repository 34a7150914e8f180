"""Weighted k-nearest-neighbor classification (Wu et al., arXiv 1805.01978), exact for any block size.

Features are l2-normalized and rounded to multiples of 2^-24, so that their inner products are exact in float64 whatever
the order of summation. A float32 product, whose error is bounded, does the bulk of the work: a prediction is taken from
it where no error within the bound could change it, and is made from exact similarities where one could.
"""

import math
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
    train, queries = _fixed_point(train), _fixed_point(queries)
    choices = [(n, t) for n in k for t in temperature]
    predictions = {choice: torch.empty(len(queries), dtype=torch.int64, device=train.device) for choice in choices}
    for start in range(0, len(queries), block):
        rows = queries[start : start + block]
        similarity, index = _candidates(train, rows, max(k))
        votes = [_vote(similarity, labels[index], min(n, len(train)), t, num_classes) for n, t in choices]
        error = _error(train)
        unproven = torch.stack(
            [
                ~_proven(similarity, scores, min(n, len(train)), t, error, len(train))
                for scores, (n, t) in zip(votes, choices, strict=True)
            ]
        ).any(0)
        exact_similarity, exact_index = _search(train, rows[unproven], max(k))
        for scores, (n, t) in zip(votes, choices, strict=True):
            predicted = scores.argmax(1)
            predicted[unproven] = _vote(exact_similarity, labels[exact_index], n, t, num_classes).argmax(1)
            predictions[n, t][start : start + block] = predicted
    return predictions


def nearest_neighbors(train: Tensor, queries: Tensor, k: int, block: int = 256) -> tuple[Tensor, Tensor]:
    """The min(k, N) most similar rows of ``train`` (N, D) for each of ``queries`` (Q, D), exactly.

    Returns:
        Cosine similarities (Q, k) float64, descending, and their indices (Q, k) int64; ties by the lower index.
    """
    train, queries = _fixed_point(train), _fixed_point(queries)
    parts = [_search(train, rows, k) for rows in torch.split(queries, block)]
    return torch.cat([similarity for similarity, _ in parts]), torch.cat([index for _, index in parts])


def _fixed_point(x: Tensor) -> Tensor:
    """l2-normalized rows as multiples of ``1 / _STEP``, which float32 holds exactly."""
    return (F.normalize(x.float()) * _STEP).round_() / _STEP


def _error(train: Tensor) -> float:
    """Largest error of a float32 product of two unit vectors, in any order of summation."""
    return 1.01 * train.shape[1] * 2.0**-24


def _candidates(train: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k + _SPARE most similar by float32 products (by float64 ones where matrix products are allowed less precision)."""
    dtype = torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64
    similarity = queries.to(dtype) @ train.to(dtype).T
    values, index = _top(similarity, min(k + _SPARE, len(train)))
    return values.double(), index


def _top(similarity: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``torch.topk`` of each row (Q, N), but for the order of ties, two to five times as fast on a CPU.

    Columns are put into groups; the ``count`` largest are in the ``count`` groups with the largest maxima.
    """
    n = similarity.shape[1]
    size = math.isqrt(n // count)
    if size < 3:
        largest = torch.topk(similarity, count)
        return largest.values, largest.indices
    width = n // size
    maxima = similarity[:, : size * width].reshape(-1, size, width).amax(1)
    groups = torch.topk(maxima, count, sorted=False).indices
    offsets = width * torch.arange(size, device=similarity.device)
    rest = torch.arange(size * width, n, device=similarity.device).expand(len(similarity), -1)
    index = torch.cat([(groups[:, None] + offsets[:, None]).flatten(1), rest], 1)
    largest = torch.topk(similarity.gather(1, index), count)
    return largest.values, index.gather(1, largest.indices)


def _vote(similarity: Tensor, near: Tensor, k: int, temperature: float, num_classes: int) -> Tensor:
    """Class scores (Q, C) of the first k; weights are relative to the nearest, which cannot overflow."""
    weight = torch.exp((similarity[:, :k] - similarity[:, :1]) / temperature)
    return weight.new_zeros(len(near), num_classes).scatter_add_(1, near[:, :k], weight)


def _proven(similarity: Tensor, scores: Tensor, k: int, temperature: float, error: float, total: int) -> Tensor:
    """Whether the best class (Q,) stays the best, however the similarities err, each by at most ``error`` e.

    Errors can do two things. They change weights: a weight is exp(similarity / T), so each class score stays within a share
    ``slack`` = exp(e / T) - 1 of itself. And they exchange neighbors: let b be the k-th similarity. A candidate beyond the
    first k can come in only if its similarity is at least b - 2e, and it pushes out a neighbor whose similarity is at most
    b + 2e. Neither of the two can weigh more than exp((b + 3e) / T), so all exchanges together move a class score by at most
    that times the number of such candidates, ``exchanged``. The best class is proven if its score at the least is above the
    second's at the most. Images that are no candidates must have no chance to come in: the last candidate is below b - 2e.
    """
    first, second = torch.topk(F.pad(scores, (0, 1)), 2).values.unbind(1)
    slack = math.expm1(error / temperature)
    nearest, last_in, last = similarity[:, 0], similarity[:, k - 1], similarity[:, -1]
    reach = last_in - 2 * error
    exchanged = (similarity[:, k:] >= reach[:, None]).sum(1) * torch.exp((last_in + 3 * error - nearest) / temperature)
    proven = first * (1 - slack) - exchanged > second * (1 + slack) + exchanged
    return proven if similarity.shape[1] == total else proven & (last < reach)


def _search(train: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``nearest_neighbors`` of fixed-point rows, in one block."""
    k = min(k, len(train))
    coarse, candidates = _candidates(train, queries, k)
    candidates = candidates.sort(1).values
    similarity, index = _best(_products(train, queries, candidates), candidates, k)
    if candidates.shape[1] < len(train):
        # A row left out is at most the last candidate plus the error.
        unproven = coarse[:, -1] + _error(train) >= similarity[:, -1]
        if unproven.any():
            whole = torch.arange(len(train), device=train.device).expand(int(unproven.sum()), -1)
            similarity[unproven], index[unproven] = _best(queries[unproven].double() @ train.double().T, whole, k)
    return similarity, index


def _products(train: Tensor, queries: Tensor, candidates: Tensor) -> Tensor:
    """Inner products (Q, m) float64 of each query (Q, D) with its own candidates, rows (Q, m) of ``train``."""
    (q, m), d = candidates.shape, train.shape[1]
    products = train.new_empty(q, m, dtype=torch.float64)
    size = max(1, (2**26 if train.is_cuda else 2**17) // (m * d))  # a few queries at a time, to stay in a CPU's cache
    for start in range(0, q, size):
        near = candidates[start : start + size]
        rows = train.index_select(0, near.flatten()).view(-1, m, d).double()
        products[start : start + size] = torch.linalg.vecdot(rows, queries[start : start + size, None].double())
    return products


def _best(similarity: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, in order; ``index`` ascends along the row, so a stable sort keeps lower ones first."""
    order = similarity.argsort(dim=1, descending=True, stable=True)[:, :k]
    return similarity.gather(1, order), index.gather(1, order)
