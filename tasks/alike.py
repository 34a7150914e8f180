"""Which images are alike, told from their features: the nearest of each, near-duplicates, outliers and suspected labels."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ssl_core.evaluation.knn import nearest_neighbors

BLOCK = 256
SAME = 1e-6
"""A row that differs from the mean of all by less than this share of its length is no other than the mean: rounding."""
NEIGHBORS = 10
"""Of an image: by them it is judged whether it is an outlier or has the wrong label."""
AGREEMENT = 0.8
"""Share of the neighbors that have one other label where a label is suspected."""
SPREAD, LEAST = 4.0, 0.05
"""An outlier lies this many median absolute deviations below the median, and at least so far."""
MOST_PAIRS = 10_000
"""Pairs that are kept; of more, their groups say more."""


@dataclass(frozen=True)
class Duplicates:
    """Near-duplicates: all of them count, however many neighbors are shown."""

    count: int
    """Pairs in all."""
    pairs: list[tuple[float, int, int]]
    """(similarity, first, second), the most alike first; all, or the ``MOST_PAIRS`` most alike."""
    groups: list[list[int]]
    """Images that a chain of pairs joins, in order; the largest group first."""


def unit(features: torch.Tensor) -> torch.Tensor:
    """Rows (N, D + 1) whose inner products are the centered cosines of ``features`` (N, D).

    Without the mean, which all images share, similarities spread over [-1, 1] and a threshold means something. Images that are
    the mean itself (all are copies of one) have no direction left; the last column makes them alike.
    """
    centered = features - features.mean(0) if len(features) > 2 else features
    same = (centered.norm(dim=1) <= SAME * features.norm(dim=1))[:, None]
    directed = torch.nn.functional.normalize(centered, dim=1) * ~same
    return torch.cat([directed, same.to(directed.dtype)], 1)


def likeness(features: torch.Tensor, count: int, asked: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(similarity, index), each (N, count): the images most like each image, or the first ``asked`` of them, without itself, by
    centered cosine."""
    rows = unit(features)
    queries = rows[:asked]
    similarity, index = nearest_neighbors(rows, queries, count + 1)
    itself = index == torch.arange(len(queries))[:, None]
    itself[:, -1] |= ~itself.any(1)  # among more than ``count`` copies an image may not find itself
    return similarity[~itself].view(len(queries), -1), index[~itself].view(len(queries), -1)


@dataclass(frozen=True)
class Suspect:
    """An image that looks like those of another class."""

    row: int
    label: str
    other: str
    """What most of its neighbors are called."""
    share: float
    """Of the neighbors."""


def outliers(similarity: torch.Tensor) -> list[int]:
    """Rows that are much less like their neighbors (N, k) than is usual, the least first."""
    mean = similarity.mean(1)
    usual = mean.median()
    limit = usual - max(LEAST, SPREAD * float((mean - usual).abs().median()))
    return [row for row in torch.argsort(mean, stable=True).tolist() if mean[row] < limit]


def suspects(labels: Sequence[str], index: torch.Tensor) -> list[Suspect]:
    """Images whose neighbors (N, k) nearly all have one other label than they, the surest first; an empty label is none."""
    found = []
    for row, near in enumerate(index.tolist()):
        others = Counter(labels[other] for other in near if labels[other])
        if labels[row] and others:
            (other, count), known = others.most_common(1)[0], sum(others.values())
            if other != labels[row] and count >= AGREEMENT * known:
                found.append(Suspect(row, labels[row], other, count / known))
    return sorted(found, key=lambda suspect: (-suspect.share, suspect.row))


def duplicates(features: torch.Tensor, threshold: float) -> Duplicates:
    """All pairs whose centered cosine is at least ``threshold``; memory grows with N alone (features: (N, D))."""
    count, label = 0, torch.arange(len(features))
    kept = torch.empty(0, 3, dtype=torch.float64)
    for found in _pairs(unit(features), threshold):
        count += len(found)
        kept = torch.cat([kept, found])
        order = torch.argsort(kept[:, 0], descending=True, stable=True)[:MOST_PAIRS]  # blocks come in the order of rows
        kept = kept[order]
        _join(label, found[:, 1].long(), found[:, 2].long())
    members: dict[int, list[int]] = {}
    for row, root in enumerate(label.tolist()):
        members.setdefault(root, []).append(row)
    groups = sorted((rows for rows in members.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows))
    return Duplicates(count, [(s, int(i), int(j)) for s, i, j in kept.tolist()], groups)


def _pairs(rows: torch.Tensor, threshold: float) -> Iterator[torch.Tensor]:
    """(similarity, first, second) float64 of the pairs, a block of rows at a time, in the order of rows.

    Float32 products find the candidates, float64 ones decide.
    """
    error = rows.shape[1] * 2.0**-23
    for start in range(0, len(rows), BLOCK):
        coarse = rows[start : start + BLOCK] @ rows.T >= threshold - error
        first, second = torch.nonzero(coarse.triu(start + 1), as_tuple=True)
        first += start
        for i, j in zip(first.split(BLOCK * BLOCK), second.split(BLOCK * BLOCK), strict=True):
            similarity = torch.linalg.vecdot(rows[i].double(), rows[j].double()).clamp(max=1.0)
            found = torch.stack([similarity, i.double(), j.double()], 1)
            yield found[similarity >= threshold]


def _join(label: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> None:
    """Give the rows of each pair one label, the lowest; changes ``label`` (N,)."""
    while True:
        one, other = label[first], label[second]
        if torch.equal(one, other):
            return
        low, high = torch.minimum(one, other), torch.maximum(one, other)
        lowest = torch.arange(len(label)).scatter_reduce_(0, high, low, "amin")  # where each label's rows go
        while not torch.equal(further := lowest[lowest], lowest):
            lowest = further
        label.copy_(lowest[label])
