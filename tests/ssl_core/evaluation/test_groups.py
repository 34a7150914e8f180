"""Images that belong together, as tiles of one picture, are drawn together: one group says little more than one image."""

from dataclasses import replace

import pytest
import torch

from ssl_core.evaluation import comparison
from ssl_core.evaluation.few_labels import SEEN, Task, few_labels
from ssl_core.evaluation.intervals import bootstrap_intervals, effective, student_p, widening
from ssl_core.evaluation.protocol import Labels, evaluate
from tasks.runtime import params
from tests.conftest import ROOT

RESAMPLES = 500
CONFIG = params.evaluate_config(params.load(ROOT / "params.yaml"))


NUMBERS = torch.arange(40).repeat_interleave(25) * 7 + 3
"""Of 40 groups of 25 images."""


def alike(seed: int) -> torch.Tensor:
    """(1, 1000) whether images are right, the same within a group."""
    return (torch.rand(40, generator=torch.Generator().manual_seed(seed)) < 0.7).repeat_interleave(25)[None]


def test_copies_in_a_group_tell_no_more_than_one_image_and_alone_far_too_much() -> None:
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    single, right, number = alike(0)[:, ::25], alike(0)[:, order], NUMBERS[order]
    one = comparison.interval(single, RESAMPLES, 0)
    many, wrong = (comparison.interval(right, RESAMPLES, 0, groups) for groups in (number, None))
    assert many == pytest.approx(one, abs=0.03) and wrong[1] - wrong[0] < (many[1] - many[0]) / 3
    ((low, high),) = bootstrap_intervals(right, RESAMPLES, 0, groups=number)
    assert (low, high) == pytest.approx(many, abs=0.04)
    apart = torch.arange(1000)
    assert comparison.interval(right, RESAMPLES, 0, apart) == wrong, "each in a group of its own"
    assert bootstrap_intervals(right, RESAMPLES, 0, groups=apart) == bootstrap_intervals(right, RESAMPLES, 0)
    sure = torch.ones(1, 1000)
    assert comparison.interval(sure, RESAMPLES, 0, number) == comparison.interval(sure[:, :40], RESAMPLES, 0)


def patients(groups: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two equal encoders on 24 images of each of so many patients, of whom each finds some easy, and the patients."""
    generator = torch.Generator().manual_seed(seed)
    easy, other = torch.randn(2, groups, 1, generator=generator)
    first, second = (torch.rand(groups, 24, generator=generator) < torch.sigmoid(easy + sign * other / 2) for sign in (1, -1))
    return first.reshape(1, -1), second.reshape(1, -1), torch.arange(groups).repeat_interleave(24)


@pytest.mark.parametrize(("groups", "most"), [(1, 0), (2, 8), (3, 11), (5, 10), (10, 10)])
def test_of_few_patients_equal_encoders_are_rarely_called_different(groups: int, most: int) -> None:
    """5 of 100, give or take chance; a bootstrap of the patients alone calls 84, 32, 16, 14 and 10 different."""
    found = [comparison.difference(*patients(groups, seed)[:2], RESAMPLES, 0, patients(groups, seed)[2]) for seed in range(100)]
    assert sum(one.is_clear for one in found) <= most


def test_one_large_group_among_single_images_is_hardly_more_than_one() -> None:
    for sizes, told in (([52], 1), ([52, *[1] * 17], 1), ([52, 52, *[1] * 10], 2), ([24] * 8, 8), ([3], 1), ([7] * 49, 49)):
        assert effective(torch.tensor(sizes)) == told
    own = torch.tensor([0] * 52 + list(range(1, 18)))
    right = torch.rand(1, 69, generator=torch.Generator().manual_seed(0)) < 0.6
    assert comparison.interval(right, RESAMPLES, 0, own) == (0.0, 1.0)
    assert bootstrap_intervals(right.float(), RESAMPLES, 0, groups=own) == [(0.0, 1.0)]
    assert not comparison.difference(right, ~right, RESAMPLES, 0, own).is_clear


def test_one_patient_tells_nothing() -> None:
    first, second, own = patients(1, 0)
    assert comparison.interval(first, RESAMPLES, 0, own) == (0.0, 1.0)
    assert bootstrap_intervals(first.float(), RESAMPLES, 0, groups=own) == [(0.0, 1.0)]
    for found in (comparison.difference, comparison.of_means, comparison.paired):
        told = found(first.double() if found is not comparison.difference else first, second, RESAMPLES, 0, own)  # type: ignore[operator]
        assert not told.is_clear and (told.low, told.high, told.p) == (-1.0, 1.0, 1.0)


def test_equal_encoders_that_are_asked_of_few_patients_only_are_rarely_called_different() -> None:
    """Each choice of a few labels is asked for other patients; a choice that has seen all of a draw has no say in it."""
    clear = 0
    for seed in range(60):
        first, second, own = patients(4, seed)
        asked = torch.stack([own != skipped for skipped in range(3)])  # (3, M)
        rows = (torch.where(asked, right.double(), torch.nan) for right in (first, second))
        clear += comparison.paired(*rows, RESAMPLES, 0, own).is_clear
    assert clear <= 8
    alone = torch.where(own == 0, first.double(), torch.nan)
    told = comparison.paired(alone, torch.where(own == 0, second.double(), torch.nan), RESAMPLES, 0, own)
    assert not told.is_clear and told.groups == 1, "of four patients one is asked"
    one_each = torch.cat([torch.where(own == row, first.double(), torch.nan) for row in range(4)])
    assert comparison.paired(one_each, one_each, RESAMPLES, 0, own).p == 1.0


def test_the_p_of_few_groups_is_students() -> None:
    for groups, t in ((2, 12.706), (3, 4.303), (4, 3.182), (6, 2.571), (31, 2.042)):
        assert student_p(t, groups) == pytest.approx(0.05, abs=2e-4)
    assert student_p(0.0, 5) == 1.0 and student_p(1e9, 3) < 1e-6
    first, _, own = patients(6, 1)
    told = comparison.difference(first, ~first, RESAMPLES, 0, own)
    assert told.is_clear == (told.p < 0.05) and -1 <= told.low <= told.mean <= told.high <= 1
    same = torch.tensor([[True, False] * 12 * 2])  # two patients of whom each differs by a half
    sure = comparison.difference(same, torch.zeros_like(same), RESAMPLES, 0, torch.arange(2).repeat_interleave(24))
    assert sure.high - sure.low > 0.2, "never narrower than image by image"
    four = torch.ones(1, 4, dtype=torch.bool)  # of two patients, each right by one encoder alone: by McNemar 2 / 2^4
    told = comparison.difference(four, ~four, RESAMPLES, 0, torch.tensor([0, 0, 1, 1]))
    assert not told.is_clear and told.p == pytest.approx(0.125)
    numbers = comparison.of_means(four.double(), 0 * four.double(), RESAMPLES, 0, torch.tensor([0, 0, 1, 1]))
    assert numbers.is_clear and numbers.p < 0.05, "an interval without width and its p agree"
    images = torch.arange(400)
    most, fewer = (images < 300)[None], ((images < 250) | (images >= 395))[None]  # they differ on three groups alone
    told, drawn = (compare(most, fewer, RESAMPLES, 0, images // 25) for compare in (comparison.difference, comparison.of_means))
    assert told.p >= drawn.p > comparison.mcnemar(50, 5)


def test_the_widening_is_that_of_students_t() -> None:
    for groups, t in ((2, 12.706), (3, 4.303), (4, 3.182), (6, 2.571), (11, 2.228), (31, 2.042)):
        assert widening(groups) == pytest.approx(t / 1.96 * (groups / (groups - 1)) ** 0.5, rel=0.01)
    assert widening(1) == float("inf")


def test_equal_encoders_are_not_told_apart_by_images_that_are_right_together() -> None:
    pairs = [(alike(seed), alike(seed + 1000)) for seed in range(60)]
    together, apart = (
        sum(comparison.difference(*pair, RESAMPLES, 0, groups).is_clear for pair in pairs) for groups in (NUMBERS, None)
    )
    assert together <= 8 and apart >= 25, (together, apart)


def test_a_probe_on_few_labels_is_not_asked_for_images_of_groups_that_it_has_seen() -> None:
    labels = torch.arange(120) % 3
    noise = torch.randn(120, 3, generator=torch.Generator().manual_seed(0))
    features = torch.nn.functional.one_hot(labels, 3).float() + 0.01 * noise
    task = Task(features, labels, features[:9], labels[:9], 3, False)
    groups = torch.arange(120) // 12
    held = torch.ones(120, dtype=torch.bool)
    alone, whole = (few_labels([task], held, CONFIG, 0, g).held_out["0.1"] == SEEN for g in (None, groups))
    for before, now in zip(alone, whole, strict=True):
        assert set(groups[now].tolist()) == set(groups[before].tolist()) and now.sum() == 12 * len(set(groups[now].tolist()))
    held[::2] = False
    evaluated = Labels(labels, held, labels[:9], 3, groups)
    quick = replace(CONFIG, label_fractions=(0.1,), linear_lambdas=3, label_seeds=2, bootstrap=40)
    seen = evaluate({"block1": (features, features[:9])}, evaluated, quick, 0).held_out["0.1"] == SEEN
    assert seen.any(1).all()
    assert not any(torch.isin(groups[held][~row], groups[held][row]).any() for row in seen)
