"""More classes than a probe can take in reasonable time: images of some are judged, among all; blocks bound the memory."""

import resource
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.preprocessing import StandardScaler

from ssl_core.evaluation import probe
from ssl_core.evaluation.discriminant import linear_discriminant
from ssl_core.evaluation.few_labels import class_balanced_halves
from ssl_core.evaluation.probe import linear_probe
from ssl_core.evaluation.protocol import Labels, evaluate
from tasks.runtime import params
from tests.conftest import ROOT
from tests.ssl_core.evaluation.test_evaluate import CONFIG, blobs

FEW = replace(CONFIG, max_classes=5, layers=1, linear_lambdas=4, label_seeds=2, bootstrap=50)


def task(classes: int = 12) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], Labels]:
    (x, y), (q, truth) = blobs(240, classes=classes, spread=2.0), blobs(72, classes=classes, spread=2.0, seed=1)
    return {"block1": (x, q)}, Labels(y, torch.arange(240) // classes % 5 == 0, truth, classes)


def test_the_images_of_a_sample_of_the_classes_are_judged_the_same_for_all_encoders() -> None:
    _, labels = task()
    sample = labels.of_at_most(5)
    assert torch.equal(sample.train, labels.train)
    judged = torch.unique(sample.test[sample.test >= 0])
    assert len(judged) == 5 and torch.equal(torch.unique(sample.train[sample.holdout]), judged)
    assert torch.equal(sample.holdout, labels.holdout & torch.isin(labels.train, judged))
    assert torch.equal(sample.test, labels.test.where(torch.isin(labels.test, judged), -1))
    assert torch.equal(sample.of_at_most(5).test, sample.test) and labels.of_at_most(12) is labels.of_at_most(None) is labels
    other = replace(labels, train=labels.train.flip(0)).of_at_most(5)
    assert torch.equal(torch.unique(other.test[other.test >= 0]), judged)
    unlabelled = replace(labels, train=torch.full_like(labels.train, -1))
    assert unlabelled.of_at_most(5) is unlabelled
    some = replace(labels, train=labels.train.where(labels.train < 6, -1))  # classes that only a list names are none
    assert some.of_at_most(6) is some and len(torch.unique(some.of_at_most(5).test)) == 6


@pytest.mark.fault("I64")
def test_judged_images_are_told_from_all_classes_as_they_would_be_among_all_images() -> None:
    layers, labels = task()
    one = replace(FEW, knn_k=(5,), knn_temperature=(0.07,), linear_lambdas=1, linear_lambda_range=(0.1, 0.1))
    found, every = (evaluate(layers, labels, replace(one, max_classes=most), 0) for most in (5, None))
    judged = labels.of_at_most(5).test >= 0
    assert found.nearest is not None and every.nearest is not None and found.predicted is not None
    assert torch.equal(found.nearest, every.nearest[judged])
    assert found.numbers["knn_top1"] == float((every.nearest == labels.test)[judged].double().mean())
    assert set(found.predicted.tolist()) - set(labels.test[judged].tolist())  # what is not judged is mistaken for, too
    assert (
        found.protocol["probe"] == "linear discriminant"
        and found.protocol["judged"] == "images of 5 of 12 classes, told from all"
    )
    assert found.protocol["train_labels"] == 240 and found.protocol["test_labels"] == int(judged.sum())
    assert not {"probe", "judged"} & set(every.protocol)
    shares = found.numbers["per_class"]
    assert [c for c, share in enumerate(shares) if share is not None] == torch.unique(labels.test[judged]).tolist()


def test_a_discriminant_is_that_of_scikit_learn_with_the_same_covariance() -> None:
    (x, y), (q, _) = blobs(300, 12, classes=6, spread=2.5), blobs(400, 12, classes=6, spread=2.5, seed=1)
    keep = (y != 5) | (torch.arange(300) % 2 == 0)  # of unequal size
    x, y = x[keep], y[keep]

    class Regularized:
        def __init__(self, strength: float):
            self.strength = strength

        def fit(self, part: np.ndarray) -> "Regularized":
            own = np.cov(part.T, bias=True) * len(x) / (len(x) - 6)
            self.covariance_ = own + self.strength * np.eye(12)
            return self

    scaler = StandardScaler().fit(x.double().numpy())
    strengths = torch.tensor([[1e-3, 0.1, 10.0]], dtype=torch.float64)
    ours = linear_discriminant(x[None], y[None], strengths, 7).predict(q)[0]
    for strength, guesses in zip(strengths[0].tolist(), ours, strict=True):
        theirs = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Regularized(strength))
        theirs.fit(scaler.transform(x.double().numpy()), y.numpy())
        assert guesses.tolist() == theirs.predict(scaler.transform(q.double().numpy())).tolist()


def test_with_one_image_a_class_the_nearest_is_taken_and_constant_features_count_for_nothing() -> None:
    x = torch.tensor([[0.0, 1, 7], [1, 0, 7], [4, 4, 7]])
    q = torch.tensor([[0.1, 0.8, 9], [0.9, 0.1, -9], [3, 3, 0]])
    found = linear_discriminant(x[None], torch.tensor([[2, 0, 1]]), torch.tensor([[1e-5, 1.0]]), 4).predict(q)
    assert found.tolist() == [[[2, 0, 1]] * 2]
    often = torch.tensor([[0] * 10 + [1] * 30])
    blind = linear_discriminant(torch.zeros(1, 40, 3), often, torch.ones(1, 2), 3)
    assert (blind.predict(torch.zeros(5, 3)) == 1).all(), "where nothing tells them apart, the most frequent class"
    with pytest.raises(ValueError, match="finite"):
        linear_discriminant(torch.full((1, 3, 2), torch.nan), torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 1), 2)


def test_drawing_few_labels_of_unequal_classes_takes_what_the_small_ones_have() -> None:
    labels = torch.tensor([0] * 40 + [3] * 5 + [7] + [9] * 14)[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    first, second = class_balanced_halves(labels, 0.4, 0, 1)
    assert torch.equal(labels[first], labels[second]) and not set(first.tolist()) & set(second.tolist())
    assert labels[first].bincount().tolist() == [3, 0, 0, 2, 0, 0, 0, 0, 0, 3]


@pytest.mark.fault("I64")
@pytest.mark.stress
def test_ten_thousand_classes_take_half_a_minute_of_one_core() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(10_000, 192, generator=generator)
    y, t = torch.arange(100_000) % 10_000, torch.arange(20_000) % 10_000
    x, q = (centers[own] + 2 * torch.randn(len(own), 192, generator=generator) for own in (y, t))
    labels = Labels(y, torch.rand(len(y), generator=generator) < 0.1, t, 10_000)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    started = time.process_time()
    found = evaluate(
        {"block1": (x.roll(1, 1).abs(), q.roll(1, 1).abs()), "block2": (x, q)},
        labels,
        params.evaluate_config(params.load(ROOT / params.PARAMS)),
        0,
    )
    seconds = time.process_time() - started
    torch.set_num_threads(threads)
    print(f"{seconds:.1f} s, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB in all")
    assert seconds < 30 and found.numbers["linear_top1"] > found.numbers["knn_top1"] > 0.1


def test_as_many_classes_as_are_asked_for_are_all_scored() -> None:
    layers, labels = task(4)
    some, every = (evaluate(layers, labels, replace(FEW, max_classes=most), 0) for most in (4, None))
    assert some.numbers == every.numbers and some.protocol == every.protocol and "classes" not in some.protocol


def test_fractions_that_mean_the_same_images_are_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, labels = task()
    found = evaluate(layers, labels, replace(FEW, label_fractions=(0.001, 0.01, 0.5)), 0).numbers["few_label"]
    assert found["0.001"] == found["0.01"] and found["0.01"]["labels"] == 24 < found["0.5"]["labels"]


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
