"""A few labels that choose among encoders: which images to label, and how good an encoder is by these labels.

docs/label-free.md says how far this can be trusted, and why nothing is chosen without labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_core.clustering import kmeans
from ssl_core.rng import Rng

SKETCH = 11
"""Keeps the stream of random numbers apart from those of other purposes."""
SKETCHED = 32
"""Random directions of each encoder by which images are compared: all encoders have the same say, whatever their width."""
ITERATIONS = 20
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Of the ridge regression, where the kernel of an image with itself is 1; the best one counts."""


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


def explained_by_few(features: Tensor, labels: Tensor, groups: Tensor | None = None) -> Tensor:
    """How much of the label of each of a few images a kernel ridge regression on the other ones predicts.

    The mean is a leave-one-out R2: 1 - (sum of squared errors) / (the same of a regression that knows the frequency of the
    classes alone), 1 at the most. The kernel is Gaussian on unit features; its width is the median distance. The errors of
    image i without image i follow from one fit, e_i = (G y)_i / G_ii with G = (K + lambda I)^-1 (Allen, "The relationship
    between variable selection and data augmentation and a method for prediction", Technometrics 1974). Those of the images of a
    group without the group are e_g = G_gg^-1 (G y)_g.

    Args:
        features: (n, D); ``labels`` (n,) int64 >= 0, of at least two classes.
        groups: (n,) equal for images that belong together: none is predicted from another one of its group.

    Returns:
        (n,) float64: 1 for a label that is predicted without error.

    Raises:
        ValueError: all images are of one class.
    """
    classes, own = torch.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError("a choice by labels needs two classes")
    y = F.one_hot(own).double()
    y = y - y.mean(0)
    regularized = torch.stack([_kernel(features) + strength * torch.eye(len(y), dtype=y.dtype) for strength in STRENGTHS])
    inverse = torch.linalg.inv(regularized)
    errors = _left_out(inverse, y, groups).square().sum(2)
    least: Tensor = errors[errors.sum(1).argmin()]
    return 1 - least / y.square().sum(1).mean()


def _left_out(inverse: Tensor, y: Tensor, groups: Tensor | None) -> Tensor:
    """(S, n, C) what is missed of ``y`` (n, C) by fits without the image, or without its group."""
    fitted = inverse @ y
    if groups is None:
        return fitted / inverse.diagonal(dim1=1, dim2=2)[..., None]
    errors = torch.empty_like(fitted)
    for group in torch.unique(groups):
        rows = torch.nonzero(groups == group)[:, 0]
        errors[:, rows] = torch.linalg.solve(inverse[:, rows[:, None], rows], fitted[:, rows])
    return errors


def _kernel(features: Tensor) -> Tensor:
    """(n, n) float64, Gaussian in the distances of the unit features."""
    x = F.normalize(features.double())
    squares = (2 - 2 * x @ x.T).clamp(min=0)
    between = squares[~torch.eye(len(x), dtype=torch.bool)]
    return torch.exp(-squares / (2 * between.median().clamp(min=torch.finfo(torch.float32).tiny)))
