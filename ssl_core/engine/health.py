"""Is an encoder collapsed? Indicators that need no label, and a verdict against the untrained encoder."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Verdict = Literal["healthy", "dimensional collapse", "collapsed"]

RANK_EPS = 1e-7
WATCHED_NEIGHBORS = 10
UNIFORMITY_BLOCK = 1024
"""Rows of the similarity matrix in memory at once."""


def watched(images: int, count: int) -> Tensor:
    """Positions of at most ``count`` training images for ``health``, evenly spaced: images often lie class by class."""
    count = min(images, count)
    return torch.arange(count) * images // count


def health(features: Tensor, pair: tuple[Tensor, Tensor] | None = None) -> dict[str, float]:
    """Label-free indicators of ``features``; compare them only at the same number of images.

    Args:
        features: (N, D) of N >= 2 different images.
        pair: features of two views of the same images, both (M, D).

    Returns:
        ``feature_std``: mean over dimensions of the standard deviation of l2-normalized features; 1 / sqrt(D) when they
        spread over the whole sphere, 0 when all are equal (SimSiam, arXiv 2011.10566, section 4.1).
        ``effective_rank``: RankMe, from 1 to min(N, D). ``uniformity``: towards -4 is spread out, 0 is all equal (but -4 where
        all are zero, which have no direction).
        ``alignment``, with a pair: mean squared distance of two views; small is good only if uniformity is too.

    Raises:
        ValueError: fewer than two images, or a value that is not finite.
    """
    if len(features) < 2:
        raise ValueError(f"health needs at least 2 images, not {len(features)}")
    if not torch.isfinite(features).all():
        raise ValueError("the features are not finite")
    unit = F.normalize(features.double())
    values = {
        "feature_std": float(unit.std(0, correction=0).mean()),
        "effective_rank": effective_rank(features),
        "uniformity": uniformity(unit),
    }
    if pair is not None:
        values["alignment"] = alignment(*pair)
    return values


def knn_by_the_others(features: Tensor, labels: Tensor, groups: Tensor | None = None) -> dict[str, float]:
    """``knn``: the share of images whose class their nearest neighbors among the others tell, by votes exp(similarity / 0.07).

    It is watched over a training and chooses nothing. Rows without a label (-1) do not count, nor do those without an image of
    another group.

    Args:
        features: (N, D); ``labels`` (N,) int64.
        groups: (N,) int64, equal for images that belong together, which are no neighbors; None: each is one of its own.

    Returns:
        Nothing where fewer than two classes are known, or fewer than two groups.
    """
    known = labels >= 0
    unit, own = F.normalize(features[known].float()), labels[known]
    if len(own) <= WATCHED_NEIGHBORS or bool((own == own[0]).all()):
        return {}
    group = torch.arange(len(own), device=own.device) if groups is None else groups[known]
    similarity, nearest = (unit @ unit.T).masked_fill_(group == group[:, None], -torch.inf).topk(WATCHED_NEIGHBORS, 1)
    votes = similarity.new_zeros(len(own), int(own.max()) + 1).scatter_add_(1, own[nearest], (similarity / 0.07).exp())
    asked = similarity[:, 0].isfinite()
    return {"knn": float((votes.argmax(1) == own)[asked].float().mean())} if bool(asked.any()) else {}


def effective_rank(features: Tensor) -> float:
    """RankMe (arXiv 2210.02885): exp of the entropy of the normalized singular values of (N, D), not centered."""
    x = features.double()
    gram = x.T @ x if x.shape[0] > x.shape[1] else x @ x.T
    sigma = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    p = sigma / sigma.sum().clamp(min=torch.finfo(sigma.dtype).tiny) + RANK_EPS
    return math.exp(-float((p * p.log()).sum()))


def uniformity(unit: Tensor) -> float:
    """ln of the mean of exp(-2 d^2) over pairs of different rows of (N, D) unit vectors (arXiv 2005.10242)."""
    n, total = len(unit), 0.0
    for rows in torch.split(unit, UNIFORMITY_BLOCK):
        total += float(torch.exp(4 * (rows @ unit.T) - 4).sum())
    own = float(torch.exp(4 * (unit * unit).sum(1) - 4).sum())
    return math.log((total - own) / (n * (n - 1)))


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of the l2-normalized rows of two (N, D) (arXiv 2005.10242)."""
    return float((F.normalize(first.double()) - F.normalize(second.double())).square().sum(1).mean())


def judge(values: Mapping[str, float], reference: Mapping[str, float]) -> Verdict:
    """Judge ``health`` values against those of the same encoder before training, on the same images.

    An untrained encoder, its residual branches on, is no zero: rectified and averaged features share a large mean, so that
    its feature_std is only 0.1 to 0.3 of 1 / sqrt(D) and its effective rank 7 to 19 of 64 to 512 dimensions, about 40 with
    group normalization (measured on Fashion-MNIST; small ResNets, ResNet-18 and ViT). Sound trainings lose rank in their
    first steps, down to 0.41 of it, and then gain it; broken ones never do (docs/decisions/0014-the-untrained-encoder.md).

    - collapsed: feature_std below a tenth of the reference, or below 1e-4;
    - dimensional collapse: effective rank below 0.4 of the reference and below 4; after 100 optimizer steps (``step``, where
      ``values`` has it), below 0.55 of it and below 10;
    - healthy: otherwise.
    """
    if values["feature_std"] < max(0.1 * reference["feature_std"], 1e-4):
        return "collapsed"
    least, share = (10.0, 0.55) if values.get("step", 0) >= 100 else (4.0, 0.4)
    if values["effective_rank"] < min(least, share * reference["effective_rank"]):
        return "dimensional collapse"
    return "healthy"
