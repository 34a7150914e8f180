"""More classes than a probe can take in reasonable time: a sample of them is scored, and blocks bound the memory."""

from dataclasses import replace

import pytest
import torch

from ssl_core.evaluation import probe
from ssl_core.evaluation.probe import linear_probe
from ssl_core.evaluation.protocol import Labels, evaluate
from tests.ssl_core.evaluation.test_evaluate import CONFIG, blobs

FEW = replace(CONFIG, max_classes=5, layers=1, linear_lambdas=4, label_seeds=2, bootstrap=50)


def task(classes: int = 12) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], Labels]:
    (x, y), (q, truth) = blobs(240, classes=classes, spread=2.0), blobs(72, classes=classes, spread=2.0, seed=1)
    return {"block1": (x, q)}, Labels(y, torch.arange(240) // classes % 5 == 0, truth, classes)


def test_a_sample_of_the_classes_is_the_same_for_all_encoders_and_as_large_as_asked() -> None:
    _, labels = task()
    sample = labels.of_at_most(5)
    kept = torch.unique(sample.train[sample.train >= 0])
    assert len(kept) == 5 and torch.equal(torch.unique(sample.test[sample.test >= 0]), kept)
    assert ((sample.train == labels.train) | (sample.train == -1)).all()
    assert torch.equal(sample.of_at_most(5).train, sample.train) and labels.of_at_most(12) is labels.of_at_most(None) is labels
    other = replace(labels, train=labels.train.flip(0)).of_at_most(5)
    assert torch.equal(torch.unique(other.train[other.train >= 0]), kept)
    unlabelled = replace(labels, train=torch.full_like(labels.train, -1)).of_at_most(5)
    assert (unlabelled.train == -1).all()


@pytest.mark.fault("I64")
def test_scores_of_a_sample_are_those_of_a_data_set_without_the_other_classes() -> None:
    layers, labels = task()
    found = evaluate(layers, labels, FEW, 0)
    sample = labels.of_at_most(5)
    train, test = sample.train >= 0, sample.test >= 0
    kept = torch.unique(sample.train[train])
    (x, q) = layers["block1"]
    numbers = (torch.searchsorted(kept, part) for part in (sample.train[train], sample.test[test]))
    alone = Labels(next(numbers), labels.holdout[train], next(numbers), 5)
    expected = evaluate({"block1": (x[train], q[test])}, alone, FEW, 0)
    same = [name for name in expected.numbers if name != "per_class"]
    assert {name: found.numbers[name] for name in same} == {name: expected.numbers[name] for name in same}
    assert found.protocol == expected.protocol | {"classes": "5 of 12"} and "classes" not in expected.protocol
    assert found.predicted is not None and expected.predicted is not None and found.nearest is not None
    assert torch.equal(found.predicted, kept[expected.predicted]) and set(found.nearest.tolist()) <= set(kept.tolist())
    assert [c for c, share in enumerate(found.numbers["per_class"]) if share is not None] == kept.tolist()


def test_as_many_classes_as_are_asked_for_are_all_scored() -> None:
    layers, labels = task(4)
    some, every = (evaluate(layers, labels, replace(FEW, max_classes=most), 0) for most in (4, None))
    assert some.numbers == every.numbers and some.protocol == every.protocol and "classes" not in some.protocol


def test_fractions_that_mean_the_same_images_are_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, labels = task()
    found = evaluate(layers, labels, replace(FEW, label_fractions=(0.001, 0.01, 0.5)), 0).numbers["few_label"]
    assert found["0.001"] == found["0.01"] and found["0.01"]["labels"] == 10 < found["0.5"]["labels"]


@pytest.mark.fault("R7")
def test_blocks_of_problems_and_of_predictions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [blobs(90, 6, spread=2.0, seed=seed) for seed in range(3)]
    x, y = (torch.stack(parts) for parts in zip(*sets, strict=True))
    strengths = torch.logspace(-3, 0, 5, dtype=torch.float64).expand(3, -1)
    whole = linear_probe(x, y, strengths, 4, 1e-9)
    guesses = whole.predict(x), whole.predict(x[0])
    monkeypatch.setattr(probe, "LOGITS", 7 * whole.bias.numel())
    assert all(torch.equal(a, b) for a, b in zip(guesses, (whole.predict(x), whole.predict(x[0])), strict=True))
    monkeypatch.setattr(probe, "UNKNOWNS", 1)
    monkeypatch.setattr(probe, "MANY", 2)
    alone = linear_probe(x, y, strengths, 4, 1e-9)
    assert alone.objective.numpy() == pytest.approx(whole.objective.numpy(), abs=1e-6)
    assert (alone.predict(x) == whole.predict(x)).double().mean() > 0.99
