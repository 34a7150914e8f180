"""Paired comparisons: values worked out by hand, and intervals that hold what they promise."""

import math

import pytest
import torch
from scipy.stats import binomtest

from ssl_core.evaluation import comparison
from ssl_core.evaluation.intervals import bootstrap_intervals
from ssl_core.rng import Rng


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (1, 0, 1.0),
        (9, 1, 2 * 11 / 1024),  # (1 + 10) of 2^10 outcomes are as uneven to this side
        (1, 9, 2 * 11 / 1024),
        (37, 65, 0.0072062),
    ],
)
def test_mcnemar_counts_outcomes(first: int, second: int, p: float) -> None:
    assert comparison.mcnemar(first, second) == pytest.approx(p, abs=1e-5)


def test_thousands_of_disagreements_are_no_overflow() -> None:
    assert comparison.mcnemar(20_000, 20_000) == pytest.approx(1.0)
    assert 0 <= comparison.mcnemar(10_000, 30_000) < 1e-300
    assert comparison.mcnemar(20_000, 19_600) == pytest.approx(math.erfc((400 - 1) / math.sqrt(2 * 39_600)), rel=0.01)


@pytest.mark.parametrize(("k", "n"), [(0, 9), (1, 10), (37, 102), (10, 10), (400, 1000)])
def test_the_exact_interval_is_that_of_clopper_and_pearson(k: int, n: int) -> None:
    wanted = binomtest(k, n).proportion_ci(method="exact")
    assert comparison.exact_interval(k, n - k) == pytest.approx((2 * wanted.low - 1, 2 * wanted.high - 1), abs=1e-9)


def test_interval_and_test_of_two_encoders_never_disagree() -> None:
    """What stands in a sentence would say one thing and its numbers another."""
    for first in range(0, 41, 5):
        for second in range(41):
            low, high = comparison.exact_interval(first, second)
            assert (comparison.mcnemar(first, second) < 0.05) == (not low <= 0 <= high), (first, second)
    for first in range(60, 100):  # out of 400, around the edge; few draws, whose ends scatter
        images = torch.arange(400)
        found = comparison.difference((images < first)[None], (images >= 330)[None], 50, first)
        assert found.is_clear == (found.p < 0.05) and found.low < found.mean < found.high, first


def test_the_interval_of_two_encoders_is_never_narrower_than_the_exact_one() -> None:
    images = torch.arange(200)
    found = comparison.difference((images < 100)[None], (images < 94)[None], 1000, 0)
    low, high = (edge * 6 / 200 for edge in comparison.exact_interval(6, 0))
    assert found.low <= low and high <= found.high


def rows(*patterns: str) -> torch.Tensor:
    return torch.tensor([[c == "1" for c in pattern] for pattern in patterns])


def test_the_difference_of_equal_methods_is_nothing() -> None:
    same = rows("1101100111" * 20)
    found = comparison.difference(same, same, 500, 0)
    assert (found.mean, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0) and not found.is_clear


@pytest.mark.parametrize(("high", "p", "clear"), [(-0.009, 0.059, False), (-0.009, 0.04, True), (0.009, 0.04, False)])
def test_what_draws_leave_open_is_not_clear(high: float, p: float, clear: bool) -> None:
    """2 of 100 draws above zero are p = .06 with an interval that ends below it."""
    assert comparison.Difference(-0.083, -0.214, high, p).is_clear == clear


def test_a_small_difference_on_the_same_images_is_clear_though_the_intervals_overlap() -> None:
    images = torch.arange(2000)
    first, second = (images % 10 < 7)[None], ((images % 10 < 7) & (images % 50 != 0))[None]
    found = comparison.difference(first, second, 1000, 0)
    a, b = (comparison.interval(x, 1000, 0) for x in (first, second))
    assert found.mean == pytest.approx(0.02) and found.is_clear and found.p < 1e-9
    assert 0 < found.low < 0.02 < found.high and b[1] > a[0]
    back = comparison.difference(second, first, 1000, 0)
    assert (back.mean, back.low, back.high) == pytest.approx((-found.mean, -found.high, -found.low))


def test_with_one_seed_the_interval_is_that_of_the_images_alone() -> None:
    correct = Rng(torch.arange(1), 5).uniform(1500) < 0.8
    low, high = comparison.interval(correct, 2000, 0)
    old_low, old_high = bootstrap_intervals(correct, 2000, 0)[0]
    assert (low, high) == pytest.approx((old_low, old_high), abs=0.003)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.16 / 1500), rel=0.08)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_variance_of_seeds_is_not_shrunk(seeds: int) -> None:
    """Seeds that get all or nothing right: the images do not matter, and the draws have the variance of a mean of seeds."""
    correct = torch.zeros(seeds, 100, dtype=torch.bool)
    correct[0] = True
    draws = comparison._resampled(correct, 20_000, 0, 0)
    share = 1 / seeds
    assert float(draws.var()) == pytest.approx(share * (1 - share) / (seeds - 1), rel=0.05)


def test_an_interval_over_seeds_and_images_holds_the_truth_about_as_often_as_it_says() -> None:
    """200 experiments with four seeds that differ by 2 points and 400 images: about 9 in 10 (few seeds: less than 95 %)."""
    inside, experiments = 0, 200
    for number in range(experiments):
        rng = Rng(torch.arange(4), 77, number)
        skill = 0.7 + 0.02 * rng.normal(1)
        easy = Rng(torch.zeros(1, dtype=torch.int64), 78, number).uniform(400)
        correct = 0.5 * easy + 0.5 * rng.uniform(400) < _quantile(skill)
        low, high = comparison.interval(correct, 300, number)
        inside += low <= 0.7 <= high
    assert 0.85 <= inside / experiments <= 0.99


def _quantile(skill: torch.Tensor) -> torch.Tensor:
    """The threshold below which the mean of two uniform numbers falls with probability ``skill``."""
    return torch.where(skill < 0.5, torch.sqrt(skill / 2), 1 - torch.sqrt((1 - skill) / 2))


def test_seeds_that_scatter_make_a_difference_unclear() -> None:
    images = torch.arange(1000)
    steady = torch.stack([images % 10 < 6] * 3)
    scattered = torch.stack([images % 10 < share for share in (5, 7, 9)])
    found = comparison.difference(scattered, steady, 2000, 0)
    assert found.mean == pytest.approx(0.1) and not found.is_clear and found.low < 0 < found.high
    assert comparison.difference(torch.stack([images % 10 < 9] * 3), steady, 2000, 0).is_clear


def test_the_seeds_of_two_methods_are_drawn_apart() -> None:
    """Drawn together, two methods whose seeds scatter alike would be known to be equal."""
    scattered = torch.stack([torch.arange(200) < count for count in (80, 120, 160)])
    found = comparison.difference(scattered, scattered, 1000, 0)
    assert found.mean == 0 and found.low < -0.1 and found.high > 0.1


def test_a_row_counts_like_every_other_however_few_images_it_is_asked_of() -> None:
    first = torch.tensor([[1.0, torch.nan, torch.nan, torch.nan], [0.0, 0.0, 0.0, 0.0]])
    assert comparison.paired(first, torch.zeros(2, 4), 100, 0).mean == 0.5


def test_so_many_images_settle_a_difference_of_that_size_four_times_in_five() -> None:
    """Two encoders disagree on every fifth image, and the first is 5 points better."""
    alone = torch.tensor([0.125, 0.075, 0.8], dtype=torch.float64)
    half = 1.96 * math.sqrt((0.2 - 0.05**2) / 400)
    wanted = comparison.images_to_settle(comparison.Difference(0.05, 0.05 - half, 0.05 + half, 0.2), 400)
    assert 600 < wanted < 650
    drawn = torch.multinomial(alone, 400 * round(wanted), True, generator=torch.Generator().manual_seed(0)).view(400, -1)
    first, second = ((drawn == side).sum(1).tolist() for side in (0, 1))
    clear = [comparison.mcnemar(a, b) < 0.05 and a > b for a, b in zip(first, second, strict=True)]
    assert 0.72 < sum(clear) / len(clear) < 0.86
