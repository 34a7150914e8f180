"""Intervals around accuracies, by the bootstrap.

Where images belong together (tiles of one picture, photographs of one patient), one group says little more than one image, so
whole groups are drawn (Davison and Hinkley, "Bootstrap methods and their application", 1997, section 3.8). A bootstrap of few
groups is too narrow: ``widening`` says by how much. One group alone tells nothing.
"""

import math

import torch
from torch import Tensor

from ssl_core.rng import Rng

CONFIDENCE = 0.95
_DRAWS = 2**22
"""Random numbers in memory at once."""


def units(groups: Tensor | None, images: int) -> Tensor | None:
    """(M,) number of the group of each image, from 0 on; None where each is one of its own."""
    if groups is None:
        return None
    numbers: Tensor = torch.unique(groups, return_inverse=True)[1]
    return numbers if int(numbers.max()) + 1 < images else None


def summed(values: Tensor, number: Tensor | None) -> Tensor:
    """(M, ...) added up within each group: (G, ...); as it is without groups."""
    return (
        values if number is None else values.new_zeros(int(number.max()) + 1, *values.shape[1:]).index_add_(0, number, values)
    )


def effective(sizes: Tensor) -> int:
    """How many groups of equal size tell as much as groups of these sizes (Kish, "Survey sampling", 1965), rounded down.

    52 images of one patient and 17 of one each are 1.7.
    """
    sizes = sizes[sizes > 0].double()
    return int(float(sizes.sum() ** 2 / sizes.square().sum()) + 1e-9)


def student_t(groups: int) -> float:
    """Deviations of so many groups in half a 95 % interval; infinite for one.

    The expansion for many degrees of freedom (Abramowitz and Stegun, "Handbook of mathematical functions", 1964, 26.7.5) is 1 %
    too small at three.
    """
    if groups < 2:
        return math.inf
    v, z = groups - 1, 1.96
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return {1: 12.706, 2: 4.303}.get(v, t)


def widening(groups: int) -> float:
    """By which the bootstrap of so few groups is too narrow: it has (G - 1) / G of their variance, and 1.96 deviations where
    Student's t has more. Infinite for one."""
    return student_t(groups) / 1.96 * math.sqrt(groups / (groups - 1)) if groups > 1 else math.inf


def student_p(t: float, groups: int) -> float:
    """Two-sided p of a difference that is ``t`` deviations of so many groups away from zero: with t = sqrt(v) tan(a) it is one
    minus the integral of cos^(v - 1) from 0 to a, as a part of that to a right angle."""
    angles = torch.linspace(0, 1, 4001, dtype=torch.float64)
    below, whole = (
        float(torch.trapezoid((angles * end).cos().clamp(min=0) ** (groups - 2), angles * end))
        for end in (math.atan(t / math.sqrt(groups - 1)), math.pi / 2)
    )
    return max(0.0, 1 - below / whole)


def of_groups(mean: float, draws: Tensor, groups: int) -> tuple[float, float]:
    """The interval around ``mean`` by resampled means of so many groups, two at least."""
    half = 1.96 * widening(groups) * float(draws.std(correction=0))
    return mean - half, mean + half


def bootstrap_intervals(
    correct: Tensor, resamples: int, *parts: int, groups: Tensor | None = None
) -> list[tuple[float, float]]:
    """Percentile intervals (95 %) of mean accuracies over resampled images (Efron, 1979).

    All rows see the same resamples, so encoders evaluated with the same parts can be compared pairwise.

    Args:
        correct: (R, M), 1 where row r's prediction of image m is right.
        parts: integers naming the stream of random numbers.
        groups: (M,), equal for images that belong together; None: none do.
    """
    number, means = units(groups, correct.shape[1]), []
    right = summed(correct.T.float(), number)  # (M or G, R)
    m, sizes = len(right), None if number is None else summed(torch.ones_like(number, dtype=torch.float32), number)
    for ids in torch.split(torch.arange(resamples, device=correct.device), max(1, _DRAWS // m)):
        chosen = Rng(ids, *parts).integers(m, m)
        drawn = torch.stack([row[chosen].mean(1) for row in right.T])
        means.append(drawn if sizes is None else drawn / sizes[chosen].mean(1))
    edges = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], device=correct.device)
    rows, share = torch.cat(means, 1), correct.float().mean(1).tolist()
    found = [(float(low), float(high)) for low, high in torch.quantile(rows, edges, dim=1).T]
    groups_told = m if sizes is None else effective(sizes)
    if sizes is not None and groups_told == 1:
        return [(0.0, 1.0)] * len(share)
    if sizes is not None:  # never narrower than image by image
        apart = bootstrap_intervals(correct, resamples, *parts)
        ends = [(of_groups(s, row, groups_told), one) for s, row, one in zip(share, rows, apart, strict=True)]
        found = [(max(0.0, min(low, one[0])), min(1.0, max(high, one[1]))) for (low, high), one in ends]
    return [one_sided(s == 1, groups_told) if s in (0, 1) else drawn for s, drawn in zip(share, found, strict=True)]


def one_sided(is_right: bool, images: int) -> tuple[float, float]:
    """Of images that are all right, or all wrong, where a bootstrap has no width: Clopper and Pearson (Biometrika 1934)."""
    least = ((1 - CONFIDENCE) / 2) ** (1 / images)
    return (least, 1.0) if is_right else (0.0, 1 - least)
