"""Is one method better than another? Paired comparisons on the same test images, over all seeds.

Two intervals that overlap say little about a difference: most test images are easy or hard for both methods. What counts
are the images that one of them gets right and the other does not (McNemar, Psychometrika 1947). Of one encoder each, the
interval covers two: that of Clopper and Pearson (Biometrika 1934) for whose these images are, which leaves out zero just where
McNemar's exact test calls the difference clear, and the bootstrap's, in which their number varies too.

With several, training seeds and test images both vary, so both are resampled (the hierarchical bootstrap; Davison and
Hinkley, "Bootstrap methods and their application", 1997, section 3.8). Resampling S seeds gives (S - 1) / S of their variance;
the deviations are scaled up accordingly.

Images that belong together are drawn together (``intervals``), and no exact test counts them one by one. Of a single group
nothing is clear.
"""

import functools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssl_core.evaluation.intervals import CONFIDENCE, effective, of_groups, one_sided, student_p, student_t, summed, units
from ssl_core.rng import Rng

_BLOCK = 2**22
"""Random numbers in memory at once."""
_IMAGES, _SEEDS = 1, 2
_POWER = (1.96 + 0.84) / 1.96
"""Half widths of a 95 % interval that a difference must be away from zero, to be found clear four times in five."""


@dataclass(frozen=True)
class Difference:
    """The accuracy of one method minus that of another on the same images."""

    mean: float
    low: float
    high: float
    """Ends of its 95 % interval."""
    p: float
    """Two-sided: how often a difference at least this large would come up between equals."""
    alone: tuple[int, int] | None = None
    """Images that the first method alone gets right, and the second alone; None with several seeds."""
    least_p: float = 0.0
    """The smallest p that could have come up: of a bootstrap it depends on the number of draws."""
    groups: int | None = None
    """Of images that belong together, as many of equal size as tell the same; None where each is one of its own."""

    @property
    def is_clear(self) -> bool:
        """Whether chance is an unlikely reason for it, by the interval and by p, which a few draws can tell apart."""
        return self.p <= 0.05 and not self.low <= 0 <= self.high


def interval(correct: Tensor, resamples: int, seed: int, groups: Tensor | None = None) -> tuple[float, float]:
    """95 % interval of a method's mean accuracy, over seeds and test images.

    Args:
        correct: (S, M) whether seed s gets image m right, or how often.
        resamples: draws of the bootstrap.
        seed: names the stream of random numbers.
        groups: (M,), equal for images that belong together; None: none do.
    """
    asked, mean = _asked(correct, groups), float(correct.double().mean())
    if asked == 1:
        return 0.0, 1.0
    if mean in (0, 1):
        return one_sided(mean == 1, asked or correct.shape[1])
    low, high = _percentiles(_resampled(correct, resamples, seed, 0).clamp(0, 1))
    if asked is None:
        return low, high
    least, most = of_groups(mean, _resampled(correct, resamples, seed, 0, groups), asked)
    return max(0.0, min(low, least)), min(1.0, max(high, most))


def difference(first: Tensor, second: Tensor, resamples: int, seed: int, groups: Tensor | None = None) -> Difference:
    """The paired difference of two methods, ``first`` minus ``second``.

    Args:
        first: (S, M) bool, whether seed s gets image m right; ``second`` (T, M) on the same images. The seeds are not paired.
        resamples: draws of the bootstrap.
        seed: names the stream of random numbers.
        groups: (M,), equal for images that belong together; None: none do.

    Returns:
        With one seed each, p is that of McNemar's exact test, or a larger one by groups. Otherwise the bootstrap has it.
    """
    drawn = _of_accuracies(of_means(first, second, resamples, seed, groups))
    if len(first) > 1 or len(second) > 1:
        return drawn
    alone = int((first & ~second).sum()), int((second & ~first).sum())
    low, high = (edge * sum(alone) / first.shape[1] for edge in exact_interval(*alone))
    exact = Difference(drawn.mean, low, high, mcnemar(*alone), alone)
    both = replace(exact, low=min(low, drawn.low), high=max(high, drawn.high))
    if drawn.groups:  # never surer than image by image
        return replace(both, p=max(exact.p, drawn.p), groups=drawn.groups)
    return both if both.is_clear == exact.is_clear else exact  # about zero the test decides


def of_means(first: Tensor, second: Tensor, resamples: int, seed: int, groups: Tensor | None = None) -> Difference:
    """The same of numbers for each image of which more is better, read off the bootstrap.

    Args:
        first: (S, M) of seed s and image m; ``second`` (T, M) on the same images. The seeds are not paired.
        resamples: draws of the bootstrap.
        seed: names the stream of random numbers.
        groups: (M,), equal for images that belong together; None: none do.
    """
    mean = float(first.double().mean() - second.double().mean())
    asked = _asked(first, groups)

    def draws(groups: Tensor | None = None) -> Tensor:
        return _resampled(first, resamples, seed, 0, groups) - _resampled(second, resamples, seed, 1, groups)

    apart = draws()
    found = Difference(mean, *_percentiles(apart), _tail(apart), least_p=_least_p(apart))
    return found if asked is None else _together(found, draws(groups) if asked > 1 else apart, asked)


def paired(first: Tensor, second: Tensor, resamples: int, seed: int, groups: Tensor | None = None) -> Difference:
    """The difference of two methods whose rows belong together, ``first`` minus ``second``.

    Args:
        first: (S, M), 1 where row s gets image m right, 0 where not, NaN where it is not asked; ``second`` likewise. Row s of
            both is of the same choice of labels, for example.
        resamples: draws of the bootstrap, of images and of rows.
        seed: names the stream of random numbers.
        groups: (M,), equal for images that belong together; None: none do.
    """
    each = first.double() - second.double()
    draws, asked = _resampled(each, resamples, seed, 0), _asked(each, groups)
    draws = draws[~draws.isnan()]  # of few images a draw may hold none that is asked
    low, high = _percentiles(draws)
    found = Difference(float(each.nanmean(1).mean()), low, high, _tail(draws), least_p=_least_p(draws))
    if asked is None:
        return found
    return _of_accuracies(_together(found, _resampled(each, resamples, seed, 0, groups) if asked > 1 else draws, asked))


def _of_accuracies(found: Difference) -> Difference:
    """None is further from another than 1."""
    return replace(found, low=max(-1.0, found.low), high=min(1.0, found.high))


def _together(apart: Difference, draws: Tensor, groups: int) -> Difference:
    """The difference by resampled groups, and never surer than ``apart``, image by image; of one group nothing is clear."""
    if groups == 1:
        return replace(apart, low=-1.0, high=1.0, p=1.0, least_p=0.0, groups=1)
    low, high = of_groups(apart.mean, draws, groups)
    low, high = min(low, apart.low), max(high, apart.high)
    half = max(high - apart.mean, apart.mean - low)
    away = abs(apart.mean) / half if half else math.inf if apart.mean else 0.0
    return replace(
        apart, low=low, high=high, p=max(apart.p, student_p(away * student_t(groups), groups)), least_p=0.0, groups=groups
    )


def images_to_settle(found: Difference, images: int) -> float:
    """How many images would make a true difference of this size clear four times in five.

    Its interval shrinks with the square root of their number. What will be found scatters around what is true, so where the
    interval would just leave out zero it does so in half of the cases only (Cohen, "Statistical power analysis", 1988).

    Args:
        images: behind the difference that was found.

    Returns:
        Infinity where there is no difference at all.
    """
    half = (found.high - found.low) / 2
    return images * (_POWER * half / abs(found.mean)) ** 2 if found.mean else math.inf


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p of the exact test: that many images are right for one method alone, each as likely for either."""
    return min(1.0, 2 * _at_most(min(only_first, only_second), only_first + only_second, 0.5))


def exact_interval(only_first: int, only_second: int) -> tuple[float, float]:
    """95 % interval of the share of these images that is the first method's minus that of the second, from -1 to 1."""
    if not only_first + only_second:
        return 0.0, 0.0
    return 1 - 2 * _largest_share(only_second, only_first), 2 * _largest_share(only_first, only_second) - 1


def _largest_share(own: int, others: int) -> float:
    """The largest share with which so few of its own, or fewer, still come up in 2.5 % of the cases."""
    low, high = own / (own + others), 1.0
    while others and (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _at_most(own, own + others, middle) >= (1 - CONFIDENCE) / 2 else (low, middle)
    return high


def _at_most(k: int, n: int, share: float) -> float:
    """The probability of k or fewer of n, each with probability ``share``, between 0 and 1."""
    counts = torch.arange(k + 1, dtype=torch.float64)
    ways = math.lgamma(n + 1) - torch.lgamma(counts + 1) - torch.lgamma(n - counts + 1)
    return math.exp(float(torch.logsumexp(ways + counts * math.log(share) + (n - counts) * math.log1p(-share), 0)))


def _asked(correct: Tensor, groups: Tensor | None) -> int | None:
    """How many groups of equal size tell as much as those that any row is asked of; None where each image is one of its own."""
    number = units(groups, correct.shape[1])
    return None if number is None else effective(torch.bincount(number[~correct.double().isnan().all(0)]))


def _resampled(correct: Tensor, resamples: int, seed: int, row: int, groups: Tensor | None = None) -> Tensor:
    """(resamples,) float64 means of ``correct`` (S, M) over resampled images, the same for every row, and resampled seeds.

    Args:
        correct: numbers; NaN where an image does not count.
        groups: (M,) of images that are drawn together.
    """
    seeds, number = len(correct), units(groups, correct.shape[1])
    values, means = correct.to(torch.float64).T, []
    is_asked = ~values.isnan()
    whole = number is None and bool(is_asked.all())
    values, asked = summed(values.nan_to_num(), number), summed(is_asked.double(), number)
    if number is not None:
        values, asked = values[known := asked.sum(1) > 0], asked[known]
    images = len(values)
    spread = math.sqrt(seeds / (seeds - 1)) if seeds > 1 else 0.0
    average = torch.mean if number is None else torch.nanmean  # some rows may be asked of none of the groups of a draw
    for ids in torch.split(torch.arange(resamples), max(1, _BLOCK // images)):
        times = _times(int(ids[0]), int(ids[-1]) + 1, images, seed).double()
        each = times @ values / (images if whole else times @ asked)
        middle = average(each, 1)
        picked = average(each.gather(1, Rng(ids, seed, _SEEDS, row).integers(seeds, seeds)), 1)
        picked = torch.where(picked.isnan(), middle, picked) if number is not None else picked
        means.append(middle + spread * (picked - middle))
    return torch.cat(means)


@functools.lru_cache(maxsize=8)
def _times(first: int, end: int, images: int, seed: int) -> Tensor:
    """(end - first, images) how often each image is in each of these draws. A table compares many rows on the same ones."""
    chosen = Rng(torch.arange(first, end), seed, _IMAGES).integers(images, images)
    return torch.zeros(chosen.shape).scatter_add_(1, chosen, torch.ones(()).expand_as(chosen))


def _tail(draws: Tensor) -> float:
    """Two-sided p of resampled differences: how often they are on the other side of zero."""
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, (tail + 1) * _least_p(draws))


def _least_p(draws: Tensor) -> float:
    return 2 / (len(draws) + 1)


def _percentiles(draws: Tensor) -> tuple[float, float]:
    edges = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], dtype=draws.dtype)
    low, high = torch.quantile(draws, edges).tolist()
    return low, high
