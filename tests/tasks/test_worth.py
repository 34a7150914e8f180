"""Whether training was worth it: decided on held-out labels, checked on the test, said in plain words."""

import csv
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from ssl_core import catalogue
from ssl_core.evaluation import comparison
from ssl_core.evaluation.comparison import Difference
from tasks import by_few, leaderboard
from tasks.conclusions import remarks, sentences, worth_it
from tasks.few_labels import Few
from tasks.judged import Judged, by_encoder
from tasks.leaderboard import to_csv, to_text
from tasks.results import Result, Row, load_results
from tasks.runtime.errors import IntegrityError
from tasks.runtime.files import load_tensors, save_tensors
from tasks.verdict import Verdict, judge, judge_one
from tasks.worth import UNTESTED, Answer, Budget, answer, budget, counted, points, reverse
from tests.support.example_results import HELD_OUT, metrics_of, write_project

IMAGES = 1000


def row(
    method: str,
    right: Sequence[int],
    test: Sequence[int] | None = None,
    seed: int = 0,
    few_label: Mapping[str, Mapping[str, int]] | None = None,
) -> Result:
    """A result whose probes on 1 %, 10 % and all labels get so many of the held-out images (and of the test images) right."""

    def images(count: int) -> np.ndarray:
        return np.arange(IMAGES) < count

    def choices(count: int) -> np.ndarray:
        """Three choices of labels, of which each has seen the last ten images."""
        found = np.stack([images(count + shift).astype(float) for shift in (-5, 0, 5)])
        found[:, -10:] = np.nan
        return found

    tested = test or right
    held_out = {"0.01": choices(right[0]), "0.1": choices(right[1]), "linear": images(right[2]), "knn": images(right[2])}
    few = {share: choices(count)[:, :-10] for share, count in zip(("0.01", "0.1"), tested, strict=False)}
    numbers = {"few_label": few_label} if few_label else {}
    metrics = metrics_of(
        method, seed, **numbers, linear_top1=tested[2] / IMAGES, knn_top1=0.5, holdout_linear_top1=right[2] / IMAGES
    )
    start = {"start_sha256": "0" * 64} if method == "pretrained" else {}
    metrics = dataclasses.replace(metrics, protocol={"train_labels": 10_000} | start)
    return Result(metrics, right={"linear": images(tested[2]), "knn": images(500)}, judged=Judged(held_out, few))


def grouped(method: str, right: Sequence[int], *splits: str) -> Result:
    """``row`` where each twenty images of these splits belong together."""
    made = row(method, right)
    return dataclasses.replace(
        made, judged=dataclasses.replace(made.judged, groups=dict.fromkeys(splits, np.arange(IMAGES) // 20))
    )


@pytest.fixture
def pretrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A further row that needs no training."""
    monkeypatch.setitem(catalogue.BASELINES, "pretrained", "ImageNet features")


@pytest.mark.usefixtures("pretrained")
def test_a_clear_lead_over_the_best_free_row_at_every_budget_is_worth_it() -> None:
    results = [row("simclr", (600, 700, 800)), row("raw_pixels", (500, 660, 700)), row("pretrained", (550, 600, 770))]
    verdict = judge(results)
    assert [b.answer for b in verdict.budgets] == [Answer.YES] * 3
    assert [b.over for b in verdict.budgets] == ["pretrained", "raw_pixels", "pretrained"]
    said, checked = worth_it(verdict)
    assert said.startswith("Training on your images is worth it: +5.1 points (")
    assert "over raw pixels with 10 % of the labels and +3.0 points (" in said
    assert said.endswith("over ImageNet features with all labels.")
    assert checked.startswith("Decided on held-out training labels, then checked on the test images, once: +5.1 points (")
    assert checked.count("(the same: worth it)") == 3
    said, checked = worth_it(verdict, brief=True)
    assert said.startswith("Training on your images is worth it: +5.1 points over ImageNet features with 1 % of the labels, +")
    assert " to " not in said + checked and checked.count("(the same: worth it)") == 3
    assert verdict.standings["simclr"].answer is Answer.YES and verdict.standings["pretrained"].answer is None


def test_worth_it_without_a_test_says_that_nothing_checked_it() -> None:
    pair = [row("simclr", (600, 700, 800)), row("raw_pixels", (500, 660, 700))]
    pool = [dataclasses.replace(r, right={}, judged=Judged(r.judged.held_out, {})) for r in pair]
    said, checked, *_ = worth_it(judge(pool))
    assert said.startswith("Training on your images is worth it") and checked == UNTESTED
    worse = [
        dataclasses.replace(r, metrics=dataclasses.replace(r.metrics, method=name))
        for r, name in zip(pool, ("raw_pixels", "simclr"), strict=True)
    ]
    assert "not worth it" in worth_it(judge(worse))[0] and UNTESTED not in worth_it(judge(worse))


@pytest.mark.usefixtures("pretrained")
def test_where_the_off_the_shelf_encoder_is_better_it_is_to_be_used() -> None:
    verdict = judge([row("simclr", (500, 600, 700)), row("pretrained", (600, 700, 800)), row("random_init", (100, 200, 300))])
    said, _ = worth_it(verdict)
    assert said.startswith("Training on your images is not worth it, use ImageNet features: −10.1 points (−")
    assert verdict.not_beaten == ["pretrained"]
    card = remarks(judge_one(verdict.best, [r for line in verdict.rows for r in line.results]))
    assert card[0] == said and card[2].startswith("Do not use this yet: ImageNet features are better than simclr")


def test_an_open_question_names_the_labels_that_would_settle_it() -> None:
    better, worse = np.arange(IMAGES) % 50 == 0, np.arange(IMAGES) % 80 == 1
    first, second = row("simclr", (500, 500, 500)), row("raw_pixels", (500, 500, 500))
    for result, extra in ((first, better), (second, worse)):
        result.judged.held_out["linear"] = (np.arange(IMAGES) < 500) | extra  # type: ignore[index]
    found = judge([first, second]).budgets[-1]
    half = (found.held_out.high - found.held_out.low) / 2
    assert found.answer is Answer.UNKNOWN and found.more is not None
    wanted = IMAGES * (2.8 / 1.96 * half / found.held_out.mean) ** 2
    assert found.more == pytest.approx(wanted - IMAGES, rel=0.06)
    assert (
        f"about {found.more:,} more labelled images, held out, would most likely settle it"
        in worth_it(judge([first, second]))[0]
    )


def test_equals_are_told_by_no_number_of_labels() -> None:
    said, checked, other = worth_it(judge([row("simclr", (500, 600, 700)), row("raw_pixels", (500, 600, 700))]))
    assert said.startswith(
        "Whether training on your images is worth it cannot be told by 1,000 held-out labels: 0.0 points (0.0 to 0.0)"
    )
    assert "with all labels, all against raw pixels; " in said
    assert said.endswith("as far as any reasonable number of labels could tell, they are equally good.")
    assert checked.count("the same: cannot be told") == 3
    assert other == "Features off the shelf were not compared; the row pretrained has those of an ImageNet encoder."


@pytest.mark.parametrize(
    ("mean", "shown"), [(0.0312, "+3.1"), (-0.0312, "−3.1"), (0.0004, "0.0"), (-0.0004, "0.0"), (-0.0, "0.0")]
)
def test_a_difference_that_rounds_to_zero_has_no_sign(mean: float, shown: str) -> None:
    assert points(Difference(mean, -0.0003, 0.02, 0.5)) == f"{shown} points (0.0 to 2.0)"


def test_a_difference_turned_round_has_its_interval_turned_round() -> None:
    assert reverse(Difference(0.1, -0.05, 0.3, 0.2, alone=(3, 1))) == Difference(-0.1, -0.3, 0.05, 0.2)


@pytest.mark.parametrize("right", [(2, 1), (3, 3)])
def test_very_few_held_out_images_promise_nothing(right: tuple[int, int]) -> None:
    """Neither that a few more would settle it, nor that the two are equally good."""
    first, second = row("simclr", (500, 500, 500)), row("raw_pixels", (500, 500, 500))
    for result, count in zip((first, second), right, strict=True):
        result.judged.held_out.clear()  # type: ignore[attr-defined]
        result.judged.held_out["linear"] = np.arange(3) < count  # type: ignore[index]
    said, *_ = worth_it(judge([first, second]))
    assert "cannot be told by 3 held-out labels: " in said
    assert said.endswith("; so few do not say how many would; about 630 unrelated ones tell a difference of 5 points.")


@pytest.mark.parametrize(("split", "counts"), [("held_out", (50, None)), ("test", (None, 50))])
def test_each_split_is_compared_by_its_own_groups(split: str, counts: tuple[int | None, int | None]) -> None:
    every = judge([grouped("simclr", (600, 700, 800), split), grouped("raw_pixels", (500, 660, 700), split)]).budgets[-1]
    assert every.test is not None and (every.held_out.groups, every.test.groups) == counts


def test_images_of_few_groups_promise_nothing_however_many_they_are() -> None:
    said, *_ = worth_it(
        judge([grouped(m, (500, 500, right), "held_out") for m, right in (("simclr", 505), ("raw_pixels", 500))])
    )
    assert "; so few do not say how many would; " in said


def test_of_several_open_budgets_the_one_that_takes_most_images_says_how_many() -> None:
    open_ones = [
        Budget(share, "raw_pixels", Difference(mean, mean - 0.05, mean + 0.05, 0.3), IMAGES, None)
        for share, mean in (("0.1", 0.03), ("linear", 0.01))
    ]
    fewer, most = (each.more for each in open_ones)
    assert fewer is not None and most is not None and fewer < most
    assert f"about {most:,} more labelled images" in answer(open_ones)


def test_the_answer_may_differ_from_budget_to_budget_and_on_the_test() -> None:
    results = [row("simclr", (600, 600, 700), test=(530, 650, 800)), row("raw_pixels", (500, 600, 800), test=(510, 600, 790))]
    said, checked, *_ = worth_it(judge(results))
    assert said.startswith("Training on your images is worth it with 1 % of the labels: +10.1 points (")
    assert "; it is not worth it with all labels, use raw pixels: −10.0 points (" in said
    assert "; it cannot be told with 10 % of the labels by 1,000 held-out labels: " in said
    assert "with 1 % of the labels (the same: worth it)" in checked and "(by these: worth it)" in checked
    assert "with all labels (the opposite: worth it)" in checked


def test_a_gain_that_the_test_does_not_confirm_is_none() -> None:
    """The labels that chose the best of many methods flatter it."""
    rival = row("raw_pixels", (500, 600, 800), test=(510, 600, 790))
    verdict = judge([row("simclr", (600, 600, 900), test=(500, 600, 791)), rival])
    few, _, every = verdict.budgets
    assert (few.answer, every.answer) == (Answer.UNKNOWN, Answer.UNKNOWN) and few.held_out.is_clear
    assert verdict.standings["simclr"].answer is Answer.UNKNOWN
    said, checked, *_ = worth_it(verdict)
    why = "on the test it is not clearly above raw pixels with 1 % of the labels and all labels; "
    assert said.startswith(
        "Whether training on your images is worth it cannot be told: by 1,000 held-out labels +10.1 points ("
    )
    assert why in said and said.endswith("they are equally good.")  # of the budget in between
    assert "with 1 % of the labels (the opposite: not worth it)" in checked and "with all labels (not clear there)" in checked
    sure = judge(
        [row("simclr", (700, 800, 900), test=(650, 750, 850)), row("raw_pixels", (600, 700, 800), test=(500, 600, 700))]
    )
    assert worth_it(sure)[0].startswith("Training on your images is worth it: +10.1 points (") and not sure.in_doubt
    another = row("random_init", (590, 690, 790), test=(700, 800, 900))  # behind by the held-out labels, ahead on the test
    said, checked, *_ = worth_it(doubt := judge([sure.rows[0].best, sure.rows[1].best, another]))
    assert doubt.in_doubt and said.endswith("; on the test it is not clearly above an untrained encoder.")
    assert doubt.standings["simclr"].answer is Answer.UNKNOWN and "(the same: worth it)" in checked  # against raw pixels


def test_budgets_with_one_answer_are_named_together() -> None:
    said, *_ = worth_it(judge([row("simclr", (600, 700, 700)), row("raw_pixels", (500, 600, 800))]))
    assert said.startswith("Training on your images is worth it with 1 % and 10 % of the labels: +10.1 points (")
    assert " over raw pixels; it is not worth it with all labels, use raw pixels: −10.0 points (" in said
    assert said.endswith(" against raw pixels.")


def test_seeds_are_compared_together_and_an_untrained_row_of_more_seeds_too() -> None:
    results = [row("simclr", (600, 700, 800 + s), seed=s) for s in range(2)]
    results += [row("random_init", (500, 600, 700), seed=s) for s in range(2)]
    results.append(dataclasses.replace(row("random_init", (500, 600, 700), seed=2), kept=False))
    found = judge(results).budgets
    assert [b.share for b in found] == ["0.01", "0.1", "linear"]
    assert [b.held_out.mean for b in found] == pytest.approx([100 / 990, 100 / 990, 0.1005])


def test_with_few_labels_one_encoder_is_not_compared_with_several() -> None:
    """Three choices of labels of the one would pass for the three seeds of the other."""
    one = Row("simclr", (row("simclr", (600, 700, 800)),))
    three = Row("raw_pixels", tuple(row("raw_pixels", (500, 660, 700), seed=seed) for seed in range(3)))
    assert budget(one, [three], "0.01") is None and budget(one, [three], "linear") is not None


def test_without_labels_or_rows_to_compare_with_nothing_is_claimed() -> None:
    assert worth_it(judge([Result(metrics_of("simclr")), Result(metrics_of("raw_pixels"))])) == [
        "Without labels nothing tells which encoder is best, so none is named champion: python -m tasks.label picks 100 images"
        " (all, if there are fewer), and their labels choose (docs/label-free.md).",
        "Without labels nothing tells whether training on your images is worth it. A hundred do where the difference is large"
        " (python -m tasks.label), class folders where it is small: about 630 held-out labels tell one of 5 points, and"
        " data.holdout_fraction of the training images are held out (a tenth as shipped).",
    ]
    assert worth_it(judge([row("simclr", (600, 700, 800))])) == []
    assert worth_it(judge([row("raw_pixels", (600, 700, 800))])) == []


def test_the_stored_predictions_are_read_back_and_damage_is_named(tmp_path) -> None:
    project = write_project(tmp_path / "p", methods=("simclr", "raw_pixels", "random_init"), num_test=60)
    results, _ = load_results(project)
    untrained = [r for r in results if r.method == "random_init"]
    assert [r.judged.held_out["linear"].shape for r in untrained] == [(HELD_OUT,)] * 3
    assert not np.array_equal(untrained[0].judged.held_out["linear"], untrained[1].judged.held_out["linear"])
    simclr = next(r for r in results if r.method == "simclr").judged
    assert np.isnan(simclr.held_out["0.1"]).mean() == 0.1 and simclr.few["0.01"].shape == (3, 60)
    shown = leaderboard.to_markdown(judge(results))
    assert shown.index("raining on your images") < shown.index("is the only method") < shown.index("| method")
    path = project / "out/predictions/simclr-0.safetensors"
    save_tensors(path, load_tensors(path) | {"held_out/linear": np.zeros(3, np.int32)})
    with pytest.raises(IntegrityError, match=r"simclr-0\.safetensors: held_out/linear"):
        load_results(project)


def test_the_terminal_ends_with_the_answer(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    project = write_project(tmp_path / "p", methods=("simclr", "raw_pixels", "random_init"), num_test=300)
    leaderboard.show(project)
    *_, said, checked, other = capsys.readouterr().out.splitlines()
    assert said.startswith("Training on your images is worth it") and checked.startswith("Decided on held-out")
    assert other.startswith("Features off the shelf were not compared")


def test_of_few_images_a_budget_whose_choices_leave_none_to_ask_is_no_budget() -> None:
    """Of three held-out images 10 % of the labels leave one to ask and 1 % of them none: two of each class are seen."""

    def small(method: str, left: Sequence[float]) -> Result:
        made, nothing = row(method, (0, 0, 0)), np.full((2, 3), np.nan)
        few = {"0.01": nothing, "0.1": np.array([[np.nan, np.nan, each] for each in left])}
        all_labels = {"linear": np.array([True, False, True]), "knn": np.array([True, False, True])}
        return dataclasses.replace(made, judged=Judged(few | all_labels, {}))

    verdict = judge([small("simclr", (1, 1)), small("random_init", (0, 1))])
    assert [b.share for b in verdict.budgets] == ["0.1", "linear"]
    assert np.isfinite([number for b in verdict.budgets for number in (b.held_out.mean, b.held_out.low, b.held_out.p)]).all()
    assert "nan" not in " ".join(worth_it(verdict))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ((100, 1000), ["1 % of the labels", "10 % of the labels", "all labels"]),
        ((1250, 1250), ["1,250 labels (12.5 %)", "all labels"]),  # the classes need more than either share
        ((240, 10_000), ["240 labels (2.4 %)", "all labels"]),
        ((10_000, 10_000), ["all labels"]),
    ],
)
def test_a_budget_is_called_by_the_labels_that_it_had(labels: tuple[int, int], said: list[str]) -> None:
    few = {share: {"labels": count, "mean": 0.5, "std": 0.0} for share, count in zip(("0.01", "0.1"), labels, strict=True)}
    verdict = judge([row("simclr", (500, 600, 700), few_label=few), row("raw_pixels", (400, 500, 600))])
    assert [budget.labels for budget in verdict.budgets] == said


def test_without_a_test_a_budget_is_called_by_the_labels_that_it_had_too() -> None:
    made = row("simclr", (500, 600, 700)), row("raw_pixels", (400, 500, 600))
    known = {"train_labels": 300, "few_labels": {"0.01": 20, "0.1": 40}}
    held_out = [
        dataclasses.replace(r, metrics=dataclasses.replace(r.metrics, protocol=r.metrics.protocol | known)) for r in made
    ]
    assert [budget.labels for budget in judge(held_out).budgets] == ["20 labels (6.67 %)", "40 labels (13.3 %)", "all labels"]


def test_the_choices_of_labels_of_one_encoder_are_no_further_encoders() -> None:
    first, second = np.array([[1.0, 0.0, np.nan], [1.0, np.nan, np.nan]]), np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    assert by_encoder([first]) is first
    np.testing.assert_array_equal(by_encoder([first, second]), [[1.0, 0.0, np.nan], [0.5, 0.5, 1.0]])
    rng, called = np.random.default_rng(0), 0
    for _ in range(40):  # equals, of five seeds and five choices, whose accuracies scatter by 1.5 points
        hard = rng.random(1000)
        rows = [
            by_encoder([hard + 0.15 * rng.normal(size=(5, 1000)) < 0.7 + 0.015 * rng.normal() for _ in range(5)])
            for _ in range(2)
        ]
        called += comparison.paired(*map(torch.from_numpy, rows), 300, 0).is_clear
    assert called <= 8, "27 % were, by rows of all choices"


SHARES = {"simclr": 0.50, "rotation": 0.49, "jigsaw": 0.30}


def judged(shares: Mapping[str, float], labels: int = 100, others: int = 80) -> Verdict:
    """Of encoders that explain so much of a few labels, each a little more or less."""
    noise = np.random.default_rng(0).normal(0, 0.1, (len(shares), 100))
    each = {method: share + own[:labels] for (method, share), own in zip(shares.items(), noise, strict=True)}
    return judge([Result(metrics_of(method), few=Few(explained, others)) for method, explained in each.items()])


@pytest.mark.usefixtures("pretrained")
def test_enough_of_a_few_labels_answer_and_say_what_they_cannot_tell() -> None:
    better = judged(SHARES | {"pretrained": 0.30})
    assert not better.in_doubt and better.ties == ["rotation"]
    assert sentences(better) == ["Not clearly different from simclr by these labels: rotation."]
    yes, chose = worth_it(better)
    assert yes.startswith("Training on your images is worth it by 100 labels: what simclr explains of them is +")
    assert yes.endswith("over ImageNet features.") and chose.startswith("100 labelled images choose")
    assert {row.method: better.standings[row.method].answer for row in better.rows} == {
        "simclr": Answer.YES, "rotation": Answer.YES, "jigsaw": Answer.UNKNOWN, "pretrained": None
    }  # fmt: skip
    table = to_text(better)
    assert re.search(r"^rotation .* =  ", table, re.M) and not re.search(r"^jigsaw .*=", table, re.M)
    assert "= not told from the best method by these labels" in table and "training, by these labels" in table
    board = {line["method"]: line for line in csv.DictReader(io.StringIO(to_csv(better)))}
    assert board["rotation"]["tied_with_best"] == "yes" and float(board["jigsaw"]["behind_best_low"]) > 0.1

    even = judged(SHARES | {"pretrained": 0.5})
    warning, _ = sentences(even)
    assert warning.startswith("Do not use this yet: by 100 labels ImageNet features are not clearly worse than simclr, R2 ")
    assert "100 labels do not tell whether training on your images is worth it: " in worth_it(even)[0]
    worse = judged(SHARES | {"pretrained": 0.7})
    assert "is not worth it by 100 labels, use ImageNet features: " in worth_it(worse)[0]
    assert sentences(worse)[0].startswith("Do not use this yet: by 100 labels ImageNet features are better than simclr, R2 ")
    assert "Use ImageNet features for now." in sentences(worse)[0]
    alone = judged(SHARES)
    assert not alone.in_doubt and "no row that needs no training is among run.methods" in worth_it(alone)[0]


@pytest.mark.usefixtures("pretrained")
@pytest.mark.parametrize(
    ("mean", "end"),
    [
        (
            0.072,
            "; about 400 would, if the difference is what it looks like (python -m tasks.label --count adds images to those"
            " with labels).",
        ),
        (
            0.05,
            "against ImageNet features; about 820 would, if the difference is what it looks like.",
        ),  # more than anybody labels for this
        (0.0005, "; as far as any reasonable number of labels could tell, they are equally good."),
    ],
)
def test_an_open_question_of_a_few_labels_says_how_many_would_tell(mean: float, end: str) -> None:
    found = Budget(by_few.FEW, "pretrained", Difference(mean, mean - 0.1, mean + 0.1, 0.5), 100, None)
    assert by_few.answer(found, "simclr").endswith(end)


@pytest.mark.usefixtures("pretrained")
@pytest.mark.parametrize(
    ("shares", "labels", "others", "why"),
    [
        (
            SHARES | {"pretrained": 0.3},
            49,
            30,
            "49 labels are too few to tell simclr from what needs no training, 50 or more tell",
        ),
        (
            SHARES | {"pretrained": 0.3},
            100,
            9,
            "only 9 of 100 labels are not of the most frequent class, too few to compare by",
        ),
        ({"simclr": -0.03, "pretrained": -0.05}, 100, 80, "the features of simclr predict nothing of the labels (R2 −"),
        ({"simclr": -0.03}, 100, 80, "the features of simclr predict nothing of the labels (R2 −"),
    ],
)
def test_labels_that_tell_nothing_recommend_nothing(shares: dict[str, float], labels: int, others: int, why: str) -> None:
    verdict = judged(shares, labels, others)
    assert verdict.in_doubt and not verdict.not_beaten and not verdict.ties
    assert leaderboard.title(verdict) != leaderboard.BEST
    assert (verdict.champion is None) == why.startswith("the features")
    assert [line for line in sentences(verdict) if line.startswith(f"Do not use this yet: {why}")]
    assert worth_it(verdict)[0].startswith(f"Nothing tells yet whether training on your images is worth it: {why}")
    assert all(standing.answer is None for standing in verdict.standings.values())


@pytest.mark.usefixtures("pretrained")
def test_features_that_predict_nothing_are_told_from_those_that_do() -> None:
    verdict = judged({"simclr": -0.03, "pretrained": 0.4})
    (warning,) = sentences(verdict)
    assert warning.startswith("Do not use this yet: by 100 labels ImageNet features are better than simclr, R2 ")
    assert warning in remarks(judge_one(verdict.rows[1].best, [row.best for row in verdict.rows]))


def test_the_smallest_p_of_a_bootstrap_is_a_bound() -> None:
    first, second = torch.ones(2, 50, dtype=torch.bool), torch.zeros(2, 50, dtype=torch.bool)
    assert counted(comparison.difference(first, second, 1000, 0), "a", "b").endswith("p ≤ .002")
    assert counted(comparison.difference(first[:1], second[:1], 1000, 0), "a", "b").endswith("p < .001")
