"""What is said of the results: paired comparisons of stored predictions, and a warning where a baseline is as good."""

import csv
import dataclasses
import io

import numpy as np
import pytest

from tasks import leaderboard
from tasks.conclusions import caution, remarks, sentences
from tasks.judged import Judged
from tasks.register.card import model_card
from tasks.report.page import build
from tasks.results import Result, load_results
from tasks.trainings import Training
from tasks.verdict import judge, judge_one
from tests.support.example_results import metrics_of, write_project

IMAGES = 411


def row(method: str, right: int, wrong_before: int = 0, seed: int = 0, **about: object) -> Result:
    """A result whose probe gets ``right`` images right, after the first ``wrong_before``; kNN ten fewer."""
    images = np.arange(IMAGES)
    linear, knn = ((images >= wrong_before) & (images < wrong_before + count) for count in (right, right - 10))
    share = {"linear_top1": linear.mean(), "knn_top1": knn.mean(), "holdout_linear_top1": 0.5}
    metrics = metrics_of(method, seed, **{name: float(value) for name, value in share.items()})
    return Result(metrics, right={"linear": linear, "knn": knn}, **about)


TRAINED = Training(epochs=4, steps=50, epochs_asked=14)
WORSE = [row("context", 37 + 267, 65, training=TRAINED), row("raw_pixels", 65 + 267)]


def test_a_baseline_that_is_better_is_said_first_with_what_to_do():
    verdict = judge(WORSE)
    assert verdict.not_beaten == ["raw_pixels"]
    assert verdict.standings["raw_pixels"].ahead["linear"].alone == (37, 65)
    first, second, *_ = sentences(verdict)
    assert first == (
        "Do not use this yet: raw pixels are better than context; by linear probe 37 test images are right with context alone"
        " and 65 with raw pixels alone, p = .007. Use raw pixels for now. context trained 4 epochs, 50 steps: set"
        " train.epochs to about 420, if its curve in the report still rises."
    )
    assert second.startswith("context is the only method: on its") and "the best encoder" not in " ".join(sentences(verdict))
    assert "Below the raw pixels: 1 of 1 methods by linear probe, 1 by kNN." in sentences(verdict)


def test_a_budget_in_images_is_raised_in_images():
    made = Training(epochs=4, steps=50, recipe={"images": 6400})
    said = sentences(judge([row("context", 37 + 267, 65, training=made), WORSE[1]]))
    assert said[0].endswith(
        "context trained 4 epochs, 50 steps: set train.images to about 200,000, if its curve in the report still rises."
    )


def test_a_baseline_that_cannot_be_told_apart_is_a_warning_too():
    verdict = judge([row("simclr", 300), row("random_init", 298, 1)])
    first = sentences(verdict)[0]
    assert first.startswith("Do not use this yet: an untrained encoder is not clearly worse than simclr")
    assert first.endswith("Train longer: raise train.images.")  # the steps are not known
    assert verdict.standings["random_init"].ties
    ahead = sentences(judge([row("simclr", 300), row("random_init", 302, 1)]))[0]
    assert ahead.startswith(
        "Do not use this yet: an untrained encoder is better than simclr, though not clearly; by linear probe"
    )
    equal = sentences(judge([row("simclr", 300), row("random_init", 300)]))[0]
    assert "is not clearly worse than simclr; by linear probe they are right on the same test images. Train" in equal


def test_without_a_test_the_held_out_labels_warn() -> None:
    def held_out(method: str, right: int) -> Result:
        given = metrics_of(method, holdout_linear_top1=right / 400)
        given = dataclasses.replace(given, found={k: v for k, v in given.found.items() if not k.startswith(("linear", "knn"))})
        return Result(given, judged=Judged({"linear": np.arange(400) < right}, {}))

    equal = judge([held_out("simclr", 300), held_out("random_init", 299), held_out("raw_pixels", 200)])
    (said,) = sentences(equal)
    assert said.startswith(
        "Do not use this yet: an untrained encoder is not clearly worse than simclr; by linear probe 1 held-out"
    )
    assert caution(equal) == said and leaderboard.title(equal) != leaderboard.BEST
    better = judge([held_out("simclr", 300), held_out("random_init", 200)])
    assert not sentences(better) and leaderboard.title(better) == leaderboard.BEST


def test_a_supervised_encoder_that_was_never_trained_is_said_to_be_one() -> None:
    untrained = dataclasses.replace(row("supervised", 250), training=Training(epochs=0))
    said = " ".join(sentences(judge([row("simclr", 380), row("raw_pixels", 300), untrained])))
    assert "The supervised encoder, untrained here without labels" in said and "Training it with all the labels" not in said


@pytest.mark.parametrize(("majority", "said"), [(0.709, True), (0.35, False)])
def test_of_unequal_classes_it_is_said_what_the_most_frequent_one_would_get(majority: float, said: bool) -> None:
    def of(result: Result, balanced: float) -> Result:
        found = {"majority_top1": majority, "linear_balanced": balanced, "per_class": [0.9, balanced, None, balanced, 0.1]}
        return dataclasses.replace(result, metrics=dataclasses.replace(result.metrics, found=result.metrics.found | found))

    text = " ".join(sentences(judge([of(row("simclr", 300), 0.29), of(row("raw_pixels", 380), 0.85)])))
    words = "Always naming the most frequent class would be right on 70.9 % of the test images. With each class counted alike"
    assert (f"{words} the linear probe gets: simclr 29.0 %, raw_pixels 85.0 %." in text) == said


def test_a_clear_lead_is_said_without_a_warning():
    rows = [row("simclr", 380), row("moco", 379), row("raw_pixels", 300), row("supervised", 411)]
    verdict = judge(rows, rows[0])
    said = sentences(verdict)
    assert not verdict.not_beaten and said[0].startswith("simclr gives the best encoder of 2 methods")
    assert "The raw pixels give 73.0 % by linear probe (clearly less) and 70.6 % by kNN (clearly less)." in said
    assert (
        "Training it with all the labels gives 100.0 % by linear probe (clearly more) and 97.6 % by kNN (clearly more)." in said
    )
    assert "Not clearly different from simclr by linear probe: moco." in said
    assert "Below the raw pixels: 0 of 2 methods by linear probe, 0 by kNN." in said


def test_several_seeds_are_compared_together_and_without_counts():
    rows = [row("simclr", 380 + s, s, seed=s) for s in range(3)] + [row("raw_pixels", 300)]
    ahead = judge(rows).standings["raw_pixels"].ahead["linear"]
    assert ahead.alone is None and ahead.is_clear and ahead.mean == pytest.approx(81 / IMAGES)
    low, high = judge(rows).standings["simclr"].intervals["linear"]
    assert low < 381 / IMAGES < high


def test_images_that_belong_together_are_drawn_together_wherever_rows_are_judged():
    def rows(**groups):
        return [
            dataclasses.replace(made, judged=Judged({}, {}, groups))
            for made in (row("simclr", 300), row("simclr", 300, seed=1), row("raw_pixels", 250))
        ]

    apart, together = (judge(rows(**groups)).standings for groups in ({}, {"test": np.arange(IMAGES) // 3}))
    assert (apart["raw_pixels"].ahead["linear"].groups, together["raw_pixels"].ahead["linear"].groups) == (None, 137)
    narrow, wide = (high - low for low, high in (each["simclr"].intervals["linear"] for each in (apart, together)))
    assert wide > narrow + 0.02


def test_without_predictions_nothing_is_compared():
    verdict = judge([dataclasses.replace(result, right={}) for result in WORSE])
    assert not verdict.not_beaten and not verdict.standings["raw_pixels"].ahead


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    methods = ("simclr", "moco", "rotation", "raw_pixels", "random_init")
    return write_project(tmp_path_factory.mktemp("verdict") / "project", methods=methods, num_test=300)


def test_the_untrained_row_is_of_several_seeds_though_the_methods_have_one(project):
    results, missing = load_results(project)
    untrained = [r for r in results if r.method == "random_init"]
    assert [(r.seed, r.kept) for r in untrained] == [(0, True), (1, False), (2, False)] and not missing
    verdict = judge(results)
    line = next(row for row in verdict.rows if row.method == "random_init")
    assert line.best.name == "random_init-0" and " ± " in leaderboard.cells(line, verdict.standings["random_init"])["linear %"]
    for r in untrained:
        assert r.right["linear"].mean() == r.get("linear_top1") and r.right["knn"].mean() == r.get("knn_top1")


def test_a_seed_that_was_evaluated_itself_counts_once(tmp_path):
    write_project(tmp_path, methods=("random_init",), seeds=(1, 0), num_test=60)
    results, _ = load_results(tmp_path)
    assert sorted((r.seed, r.kept) for r in results) == [(0, True), (1, True), (2, False), (3, False)]


def test_every_place_marks_what_cannot_be_told_from_the_best(project):
    results, _ = load_results(project)
    verdict = judge(results)
    ties = {row.method for row in verdict.rows if verdict.standings[row.method].ties}
    assert "moco" in ties and "raw_pixels" not in ties
    lines = {line["method"]: line for line in csv.DictReader(io.StringIO(leaderboard.to_csv(verdict)))}
    assert {method for method, line in lines.items() if line["tied_with_best"]} == ties
    assert float(lines["raw_pixels"]["behind_best_p"]) < 0.05 and lines["simclr"]["behind_best"] == ""
    for text in (leaderboard.to_text(verdict), leaderboard.to_markdown(verdict)):
        marked = {line.strip("| ").split()[0] for line in text.splitlines() if " = " in line.partition("best")[0]}
        assert marked - {"*", "-"} == ties, text
    assert "below about 2 points the order of two methods may be the seed's" in leaderboard.footnote(verdict)
    build(project, project / "reports")
    assert " =<small>" in (project / "reports/report.html").read_text()


def test_the_card_warns_of_its_own_encoder_first():
    facts = {
        "encoder": {"config": {"name": "small"}, "channels": 1, "image_size": 28},
        "mean": [0],
        "std": [1],
        "data_sha256": "",
    }
    meta = {"name": "signs", "num_train": 1650}
    card = model_card("context-0", facts, WORSE[0].metrics, meta, remarks(judge_one(WORSE[0], WORSE)))
    assert card.index("Do not use this yet") < card.index("**Input**")
    assert "kNN" in card[: card.index("**Input**")]


def test_how_little_few_images_can_tell_is_said():
    def said(**counts: int) -> list[str]:
        (found,) = [row("simclr", 300)]
        about = dataclasses.replace(found.metrics, protocol=counts)
        return [s for s in sentences(judge([dataclasses.replace(found, metrics=about)])) if s.startswith("Few images")]

    assert said(holdout_labels=4, test_labels=12) == [
        "Few images tell little: one of the 4 held-out images is 25.0 points and one of the 12 test images is 8.3 points;"
        " no difference below 50 points is clear on 12 test images."
    ]
    assert said(holdout_labels=500, test_labels=5)[0].endswith("20.0 points; no difference is clear on 5 test images.")
    assert said(holdout_labels=500, test_labels=120) == []


def test_a_long_training_on_few_images_is_told_to_take_more_images_and_not_more_passes():
    long = Training(epochs=900, steps=3600, recipe={"images": 130_000})
    (first, *_) = sentences(judge([row("context", 37 + 267, 65, training=long), row("raw_pixels", 65 + 267)]))
    assert first.endswith(
        "context trained 900 epochs, 3,600 steps: more of the same will hardly help with so few images; add images, which need"
        " no labels."
    )


def test_an_untrained_encoder_is_called_the_same_network_only_where_it_is() -> None:
    small, large = ({"name": "small", "width": width, "depth": 3} for width in (8, 16))
    for network, gives in ((small, "The same network untrained gives"), (large, "An untrained encoder gives")):
        trained = row("simclr", 300, training=dataclasses.replace(TRAINED, network=network))
        verdict = judge([trained, row("random_init", 200, training=Training(network=small))])
        assert any(text.startswith(gives) for text in sentences(verdict))


def test_a_start_that_is_not_to_be_used_is_not_advised_to_train_longer() -> None:
    start = row("start", 300)
    said = caution(judge_one(start, [start, row("pretrained", 350)]))
    assert said.startswith("Do not use this yet: ImageNet features are better than start") and said.endswith(
        ". Take ImageNet features."
    )
