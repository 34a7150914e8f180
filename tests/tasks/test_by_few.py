"""What a few labels say of encoders that are equally good: seldom anything."""

import numpy as np
import pytest
import torch

from ssl_core.evaluation.comparison import Difference, of_means
from ssl_core.labelling import explained_by_few
from tasks import by_few
from tasks.choice import champion
from tasks.conclusions import worth_it
from tasks.few_labels import Few
from tasks.results import Result
from tasks.verdict import judge, judge_one
from tasks.worth import Answer
from tests.support.example_results import metrics_of

LABELS, SIMULATED = 100, 60


def equals(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """What each of ``count`` encoders explains of labels, which show the same classes in other noise, half of it shared."""
    classes, centers, shared = rng.integers(0, 10, LABELS), rng.normal(size=(10, 32)), rng.normal(size=(LABELS, 32))
    noise = (0.5**0.5 * (shared + rng.normal(size=shared.shape)) for _ in range(count))
    return [
        explained_by_few(torch.from_numpy(0.6 * centers[classes] + own), torch.from_numpy(classes)).numpy() for own in noise
    ]


def result(method: str, explained: np.ndarray, groups: np.ndarray | None = None, **about: object) -> Result:
    return Result(metrics_of(method, **about), few=Few(explained, LABELS, groups))


def around(share: float, seed: int = 0) -> np.ndarray:
    """What is explained of each label where ``share`` is of all."""
    return share + np.random.default_rng(seed).normal(0, 0.1, LABELS)


def test_two_equal_encoders_are_seldom_told_apart_and_the_best_of_twelve_is_seldom_worth_it() -> None:
    rng, apart, worth = np.random.default_rng(0), 0, 0
    for _ in range(SIMULATED):
        *methods, pixels = equals(rng, 13)
        rows = [result(f"m{number}", each) for number, each in enumerate(methods)]
        pair = judge([rows[0], result("raw_pixels", pixels)])
        apart += bool(pair.standings["raw_pixels"].behind and pair.standings["raw_pixels"].behind.is_clear)
        found = judge([*rows, result("raw_pixels", pixels)]).budget_of_few
        worth += found is not None and found.answer is Answer.YES
    assert apart <= 0.12 * SIMULATED and worth <= 0.1 * SIMULATED, (apart, worth)


@pytest.mark.parametrize("groups", [None, 2, 3, 12])
def test_p_is_that_of_the_interval(groups: int | None) -> None:
    at_its_end = by_few.widened(Difference(0.13, 0.03, 0.23, 0.01, groups=groups))
    assert at_its_end.low == pytest.approx(0) and at_its_end.p == pytest.approx(0.05, abs=0.002)
    assert by_few.widened(Difference(0.13, -1.0, 1.0, 1.0, groups=1)).p == 1


def test_what_is_explained_may_differ_by_more_than_all() -> None:
    rng = np.random.default_rng(0)
    first, second = torch.from_numpy(rng.normal(0.9, 0.1, (1, 60))), torch.from_numpy(rng.normal(-0.6, 0.1, (1, 60)))
    found = of_means(first, second, 400, 0, torch.arange(60) // 5)
    assert found.low < found.mean < found.high and found.mean > 1.4


def test_a_gain_that_the_best_of_so_many_may_have_by_chance_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gain = Difference(0.08, 0.01, 0.15, 0.02)
    monkeypatch.setattr(by_few, "ahead", lambda first, second: gain if first is not second else None)
    explained = np.full(LABELS, 0.4)
    rows = [result("simclr", explained + 0.08), result("raw_pixels", explained)]
    assert judge(rows).budget_of_few.answer is Answer.YES  # type: ignore[union-attr]
    rows += [result(name, explained) for name in ("byol", "moco")]
    several, card = judge(rows), judge_one(rows[0], rows)
    for verdict in (several, card):
        assert verdict.budget_of_few.answer is Answer.UNKNOWN  # type: ignore[union-attr]
    assert worth_it(several)[0] == (
        "100 labels do not tell whether training on your images is worth it: what simclr explains of them is +8.0 points"
        " (1.0 to 15.0) over raw pixels, which the best of so many methods may be by chance; twice as many labels tell more."
    )


@pytest.mark.parametrize("size", [2, 10])
def test_labels_of_images_that_belong_together_count_by_the_group(size: int) -> None:
    groups = np.arange(LABELS) // size
    verdict = judge([result("simclr", around(0.4), groups), result("raw_pixels", around(0.3, 1), groups)])
    if size == 2:
        assert verdict.budget_of_few.held_out.groups == 50  # type: ignore[union-attr]
    else:
        assert verdict.budget_of_few is None and "100 labels of 10 groups are too few" in worth_it(verdict)[0]


def test_a_collapsed_seed_does_not_take_the_champion_away() -> None:
    sound, lost = result("simclr", around(0.2)), result("simclr", around(-0.5), seed=1, verdict="collapsed")
    assert champion([sound, lost]) is sound
