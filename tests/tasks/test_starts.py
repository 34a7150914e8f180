"""A training that lost what it started with is told from one that did not."""

import hashlib
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tasks import leaderboard, starts
from tasks.cautions import verdict_text
from tasks.choice import start_of
from tasks.conclusions import remarks, sentences
from tasks.metrics import Health, Metrics
from tasks.results import Result
from tasks.trainings import Training
from tasks.verdict import judge, judge_one

HEALTH = Health(0.1, 9.0, 0.3, -2.0)


def result(method: str, share: float, epochs: int, start: str | None = "a" * 64) -> Result:
    right = np.arange(1000) < 1000 * share
    protocol = {"resamples": 100} | ({"start_sha256": start} if start else {})
    scores = {"linear_top1": share, "knn_top1": share, "holdout_linear_top1": share}
    about = ("small", hashlib.sha256(method.encode()).hexdigest(), "block4", "healthy", HEALTH, HEALTH)
    return Result(Metrics(method, 0, *about, protocol, scores), Training(epochs=epochs), {"linear": right, "knn": right})


START = result("pretrained", 0.8, 0)


def test_a_start_that_was_trained_in_this_run_is_not_what_its_own_encoder_is_compared_with() -> None:
    """Weights of the registry's champion, which is an encoder of the same run."""
    own, on = result("rotation", 0.8, 4, None), result("simclr", 0.7, 4)
    again = result("start", 0.8, 0)
    same = replace(again, metrics=replace(again.metrics, encoder_sha256=own.metrics.encoder_sha256))
    for start, champion, free in ((again, "start", ["start"]), (same, "rotation", [])):
        verdict = judge([own, on, start])
        assert verdict.champion and verdict.champion.method == champion
        assert [row.method for row in verdict.free] == free
        assert ("start-0 is rotation-0 itself" in " ".join(sentences(verdict))) == (start is same)
        assert verdict.standings["simclr"].below_start == ("simclr-0",), "that started there is compared all the same"
        card = " ".join(remarks(judge_one(on, [own, on, start]), [own, on, start]))
        assert ("start-0 is rotation-0 itself" in card) == (start is same) == (not judge_one(on, [own, on, start]).free)


def test_a_row_of_the_registry_is_not_called_off_the_shelf() -> None:
    other = result("dinov2", 0.9, 0, "b" * 64)
    protocol = other.metrics.protocol | {"start_source": "models:/shop/12"}
    last = replace(other, metrics=replace(other.metrics, protocol=protocol))
    for row, where in ((other, "off the shelf"), (last, "from models:/shop/12")):
        verdict = judge([result("simclr", 0.7, 4), START, row])
        neither = "by the score that chooses neither training nor pretrained-0, which it started from, is better"
        assert f"Use dinov2-0, {where}: {neither}." in " ".join(sentences(verdict))
        assert leaderboard.instead_title(verdict) == f"{where}, and better"


def test_an_encoder_off_the_shelf_that_is_exactly_as_good_as_the_start_is_the_one_to_use() -> None:
    as_good = result("dinov2", 0.8, 0, "b" * 64)
    said = " ".join(sentences(judge([result("simclr", 0.7, 4), START, as_good])))
    assert "Use dinov2-0, off the shelf: by the score that chooses neither training nor pretrained-0" in said


def test_a_clear_loss_is_marked_everywhere() -> None:
    worse = result("simclr", 0.7, 4)
    assert start_of(worse, [worse, START]) is START and start_of(START, [worse, START]) is None
    assert starts.standing(worse, [worse, START]) == "worse than its start"
    said = "simclr-0 is worse than its start, the row pretrained: use that."
    assert said in sentences(judge([worse, START])) and said in remarks(judge_one(worse, [worse, START]))


def test_chance_is_no_loss_and_other_weights_are_no_start() -> None:
    for ours in (0.9, 0.8, 0.798):
        assert starts.standing(result("simclr", ours, 4), [START]) is None
    for weights in (None, "b" * 64):
        assert starts.standing(result("simclr", 0.7, 4, weights), [START]) is None
    assert starts.standing(replace(result("simclr", 0.7, 4), right={}), [START]) is None


def test_a_loss_is_marked_in_the_table_and_in_the_numbers() -> None:
    worse, other = result("simclr", 0.7, 4), result("byol", 0.9, 4, start=None)
    verdict = judge([worse, other, START])
    standing = verdict.standings["simclr"]
    assert standing.below_start == ("simclr-0",) and standing.gains == {"simclr-0": pytest.approx(-0.1)}
    assert verdict_text(verdict.rows[-1], standing) == "worse than its start"
    lines = pd.read_csv(io.StringIO(leaderboard.to_csv(verdict))).set_index("method")
    assert lines.loc["simclr", "standing"] == "worse than its start" and lines.loc["simclr", "over_start"] == pytest.approx(
        -0.1
    )
    assert lines.loc[["byol", "pretrained"], ["standing", "over_start"]].isna().all(axis=None)


def test_a_training_whose_start_is_no_row_is_named() -> None:
    lost = result("simclr", 0.7, 4, "b" * 64)
    assert any(said.startswith("What simclr-0 started from is no row here") for said in sentences(judge([lost, START])))
    assert not any("is no row here" in said for said in sentences(judge([result("simclr", 0.9, 4), START])))
