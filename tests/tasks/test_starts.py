"""A training that lost what it started with is told from one that did not."""

from dataclasses import replace

import numpy as np

from tasks import starts
from tasks.metrics import Health, Metrics
from tasks.results import Result, Training
from tasks.verdict import judge, remarks, sentences

HEALTH = Health(0.1, 9.0, 0.3, -2.0)


def result(method: str, share: float, epochs: int, start: str | None = "a" * 64) -> Result:
    right = np.arange(1000) < 1000 * share
    protocol = {"resamples": 100} | ({"start_sha256": start} if start else {})
    scores = {"linear_top1": share, "knn_top1": share, "holdout_linear_top1": share}
    about = ("small", "f" * 64, "block4", "healthy", HEALTH, HEALTH)
    return Result(Metrics(method, 0, *about, protocol, scores), Training(epochs=epochs), {"linear": right, "knn": right})


START = result("pretrained", 0.8, 0)


def test_a_clear_loss_is_marked_everywhere() -> None:
    worse = result("simclr", 0.7, 4)
    assert starts.start_of(worse, [worse, START]) is START and starts.start_of(START, [worse, START]) is None
    assert starts.standing(worse, [worse, START]) == "worse than its start"
    said = "simclr-0 is worse than its start, the row pretrained: use that."
    assert said in sentences(judge([worse, START])) and said in remarks(worse, [worse, START])


def test_chance_is_no_loss_and_other_weights_are_no_start() -> None:
    for ours in (0.9, 0.8, 0.798):
        assert starts.standing(result("simclr", ours, 4), [START]) is None
    for weights in (None, "b" * 64):
        assert starts.standing(result("simclr", 0.7, 4, weights), [START]) is None
    assert starts.standing(replace(result("simclr", 0.7, 4), right={}), [START]) is None
