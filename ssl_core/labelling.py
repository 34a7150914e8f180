"""A few labels that choose among encoders: which images to label, and how good an encoder is by these labels.

docs/label-free.md says how far this can be trusted, and why nothing is chosen without labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_core.clustering import kmeans
from ssl_core.evaluation.probe import linear_probe
from ssl_core.rng import Rng, permutation

SKETCH, FOLDS = 11, 12
"""Keep the streams of random numbers apart from those of other purposes."""
SKETCHED = 32
"""Random directions of each encoder by which images are compared: all encoders have the same say, whatever their width."""
ITERATIONS = 20
PARTS, REPEATS = 5, 4
"""Parts of the labels, each of which is judged by a probe on the others; and how often they are parted anew."""
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Of the probe's regularization, for features of unit variance and few images; the best one counts."""


def spread(features: Sequence[Tensor], count: int, seed: int) -> Tensor:
    """Images that stand for all the others by several encoders: the one nearest to the center of each of ``count`` clusters.

    Args:
        features: (N, D_i) of the same images, by each encoder.

    Returns:
        (count,) int64 different row numbers, ascending.

    Raises:
        ValueError: there are fewer images.
    """
    x = torch.cat([_sketch(each, seed, number) for number, each in enumerate(features)], 1)
    centers, own = kmeans(x, count, ITERATIONS, seed, SKETCH)
    distance = (x - centers[own]).square().sum(1)
    order = torch.argsort(distance, stable=True)
    firsts = [int(order[own[order] == cluster][0]) for cluster in torch.unique(own).tolist()]
    rest = order[~torch.isin(order, torch.tensor(firsts))]  # for clusters that are empty, where images are alike
    return torch.tensor(sorted([*firsts, *rest[: count - len(firsts)].tolist()]))


def _sketch(features: Tensor, seed: int, number: int) -> Tensor:
    """(N, SKETCHED) of mean square 1 on average, in which distances are those of the unit features, roughly."""
    x = F.normalize(features.float())
    x = x - x.mean(0)
    directions = Rng(torch.arange(x.shape[1]), seed, SKETCH, number).normal(SKETCHED)
    sketch = x @ directions
    return sketch / sketch.square().mean().sqrt().clamp(min=torch.finfo(sketch.dtype).tiny)


def judged_by_few(features: Tensor, labels: Tensor, seed: int) -> float:
    """Share of a few labelled images that linear probes on the others of them get right; parts are drawn class by class.

    Args:
        features: (n, D); ``labels`` (n,) int64 >= 0, of at least two classes.

    Raises:
        ValueError: fewer than two images, or all of one class.
    """
    classes, own = torch.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError("a choice by labels needs two classes")
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64).expand(REPEATS, -1)
    parts, right = (
        torch.stack([_parts(own, seed, repeat) for repeat in range(REPEATS)]),
        torch.zeros(len(STRENGTHS), dtype=torch.float64),
    )
    x, y = features.expand(REPEATS, -1, -1), own.expand(REPEATS, -1)
    for number in range(int(parts.max()) + 1):
        held = parts == number  # of as many images in every repeat
        fit = [each[~held].view(REPEATS, -1, *each.shape[2:]) for each in (x, y)]
        asked, truth = (each[held].view(REPEATS, -1, *each.shape[2:]) for each in (x, y))
        probe = linear_probe(fit[0], fit[1], strengths, len(classes), 1e-4)
        right += (probe.predict(asked) == truth[:, None]).sum((0, 2))
    return float((right / (REPEATS * len(own))).max())


def _parts(labels: Tensor, seed: int, repeat: int) -> Tensor:
    """(n,) the part of each image: those of a class one after the other, in random order."""
    order = permutation(len(labels), seed, FOLDS, repeat)
    by_class = order[torch.argsort(labels[order], stable=True)]
    part = torch.empty_like(labels)
    part[by_class] = torch.arange(len(labels)) % min(PARTS, len(labels))
    return part
