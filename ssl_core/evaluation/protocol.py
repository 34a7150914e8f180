"""How good is an encoder? The evaluation protocol, from frozen features and labels to numbers with intervals.

Every choice (layer, k, temperature, regularization) is made on a held-out part of the *training* labels, the layer by kNN
and probe each for itself; then both use all training labels, and the test split is read once. A grid is widened where its
last value is the best one. Probes on few labels choose everything, the layer too, by these few alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_core.clustering import kmeans
from ssl_core.evaluation.intervals import bootstrap_intervals
from ssl_core.evaluation.knn import knn
from ssl_core.evaluation.probe import linear_probe
from ssl_core.evaluation.scores import SCORES, EvaluateConfig, Tested, balanced, per_class, top1
from ssl_core.rng import permutation

# Purposes that keep the streams of random numbers apart.
FEW_LABELS, CLUSTERING, BOOTSTRAP, CLASSES = 1, 2, 3, 4
KMEANS_STARTS, KMEANS_ITERATIONS = 5, 20
CHOICE, FINAL = 1e-5, 1e-6
"""Tolerances of the probes: held-out accuracies move by less than their own noise between the two."""
WIDENINGS = 2
"""How often a grid is widened at most. A choice that is at its edge even then is named in the protocol."""


@dataclass(frozen=True)
class Labels:
    """The labels of a data set, -1 where unknown."""

    train: Tensor
    """(N,) int64."""
    holdout: Tensor
    """(N,) bool: the training labels on which every choice is made."""
    test: Tensor
    """(M,) int64; may be empty."""
    num_classes: int

    def of_at_most(self, count: int | None) -> "Labels":
        """These labels, or of more classes than ``count`` those of a random sample of so many; other images become unlabelled.

        The sample depends on the number of classes alone, so that all encoders are scored on the same images.
        """
        if count is None or count >= self.num_classes:
            return self
        chosen = torch.zeros(self.num_classes + 1, dtype=torch.bool, device=self.train.device)  # the last: unlabelled
        chosen[permutation(self.num_classes, CLASSES, device=chosen.device)[:count]] = True
        train, test = (labels.where(chosen[labels], -1) for labels in (self.train, self.test))
        return Labels(train, self.holdout, test, self.num_classes)


@dataclass(frozen=True)
class Scores:
    """What the frozen features of one encoder are worth."""

    layer: str
    """The linear probe's layer: its features are kept, its encoder is handed out."""
    numbers: dict[str, Any]
    """Plain numbers by name; without labels empty."""
    protocol: dict[str, Any]
    """The choices made, and what could not be measured."""
    predicted: Tensor | None
    """(M',) classes that the linear probe predicts for the labelled test images."""
    nearest: Tensor | None = None
    """(M',) classes that kNN predicts for them."""


Layers = Mapping[str, tuple[Tensor, Tensor]]
"""Features of the training images (N, D) and test images (M, D) by layer, the last layer last."""


def evaluate(layers: Layers, labels: Labels, config: EvaluateConfig, seed: int) -> Scores:
    """Score frozen features.

    Args:
        seed: of the few-label choices, the clustering and the bootstrap.
    """
    labels = labels.of_at_most(config.max_classes)
    named = torch.unique(torch.cat([labels.train, labels.test, labels.train.new_tensor([-1])]))[1:]
    if len(named) == labels.num_classes:
        return _evaluate(layers, labels, config, seed)
    numbers = torch.full((labels.num_classes + 1,), -1, device=named.device)
    numbers[named] = torch.arange(len(named), device=named.device)
    few = Labels(numbers[labels.train], labels.holdout, numbers[labels.test], len(named))
    return _renamed(_evaluate(layers, few, config, seed), named, labels.num_classes)


def _renamed(scores: Scores, named: Tensor, num_classes: int) -> Scores:
    """Scores of the classes ``named`` (K,) with the numbers they have among all."""
    numbers = dict(scores.numbers)
    if "per_class" in numbers:
        found = dict(zip(named.tolist(), numbers["per_class"], strict=True))
        numbers["per_class"] = [found.get(c) for c in range(num_classes)]
    protocol = scores.protocol | ({"classes": f"{len(named)} of {num_classes}"} if numbers else {})
    predicted, nearest = (guess if guess is None else named[guess] for guess in (scores.predicted, scores.nearest))
    return replace(scores, numbers=numbers, protocol=protocol, predicted=predicted, nearest=nearest)


def _evaluate(layers: Layers, labels: Labels, config: EvaluateConfig, seed: int) -> Scores:
    known = labels.train >= 0
    fit, held = known & ~labels.holdout, known & labels.holdout
    last = list(layers)[-1]
    if not known.any():
        return Scores(last, {}, {"layer": last, "labels": "none: label-free numbers only"}, None)
    if not fit.any() or not held.any():
        return Scores(last, {}, {"layer": last, "labels": "too few to hold some out: label-free numbers only"}, None)
    linear = {name: _choose_linear(train, labels, fit, held, config) for name, (train, _) in layers.items()}
    near = {name: _choose_knn(train, labels, fit, held, config) for name, (train, _) in layers.items()}
    layer = max(reversed(linear), key=lambda name: linear[name].accuracy)
    knn_layer = max(reversed(near), key=lambda name: near[name].accuracy)
    probe, vote = linear[layer], near[knn_layer]
    protocol: dict[str, Any] = {
        "layer": layer,
        "lambda": probe.strength,
        "knn_layer": knn_layer,
        "k": min(vote.k, int(known.sum())),
        "temperature": vote.temperature,
        **({"edge_of_grid": list(edges)} if (edges := probe.edges + vote.edges) else {}),
        "labels": "all training labels; choices on the held-out part of them",
        "train_labels": int(known.sum()),
        "holdout_labels": int(held.sum()),
    }
    scores: dict[str, Any] = {
        "holdout_knn_top1": vote.accuracy,
        "holdout_linear_top1": probe.accuracy,
        "holdout_knn_top1_by_layer": {name: choice.accuracy for name, choice in near.items()},
        "holdout_linear_top1_by_layer": {name: choice.accuracy for name, choice in linear.items()},
    }
    seen = labels.test >= 0
    protocol["test_labels"] = int(seen.sum())
    if not seen.any():
        return Scores(layer, scores, protocol | {"test": "no labelled test images: held-out numbers only"}, None)
    tasks = {
        name: _Task(train[known], labels.train[known], test[seen], labels.test[seen], labels.num_classes)
        for name, (train, test) in layers.items()
    }
    protocol["resamples"] = config.bootstrap
    tested, grid = _tested(tasks[layer], probe, tasks[knn_layer], vote, config, seed)
    scores |= {score.name: score.compute(tested) for score in SCORES if score.compute}
    scores |= grid | _spread(tested) | _few_labels(list(tasks.values()), config, seed)
    return Scores(layer, scores, protocol, tested.predicted, tested.nearest)


class _Task(NamedTuple):
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    num_classes: int


class _Linear(NamedTuple):
    strength: float
    accuracy: float
    edges: tuple[str, ...]


class _Near(NamedTuple):
    k: int
    temperature: float
    accuracy: float
    edges: tuple[str, ...]


def strengths(config: EvaluateConfig) -> Tensor:
    """The regularization strengths (L,) float64, ascending."""
    low, high = config.linear_lambda_range
    return torch.logspace(math.log10(low), math.log10(high), config.linear_lambdas, dtype=torch.float64)


def _rising_edge(accuracy: Sequence[float], best: int) -> int:
    """-1 or 1 where the best of a grid is its first or last and better than the one beside it; else 0."""
    if len(accuracy) < 2 or 0 < best < len(accuracy) - 1:
        return 0
    side = -1 if best == 0 else 1
    return side if accuracy[best] > accuracy[best - side] else 0


def _choose_linear(train: Tensor, labels: Labels, fit: Tensor, held: Tensor, config: EvaluateConfig) -> _Linear:
    """The strength with the best held-out accuracy; the stronger one on a tie."""
    candidates = strengths(config).to(train.device)
    ratio = candidates[1:2] / candidates[:1]
    for widening in range(WIDENINGS + 1):
        probe = linear_probe(train[fit][None], labels.train[fit][None], candidates[None], labels.num_classes, CHOICE)
        accuracy = top1(probe.predict(train[held])[0], labels.train[held])
        best = len(accuracy) - 1 - int(accuracy.flip(0).argmax())
        edge = _rising_edge(accuracy.tolist(), best)
        if not edge or widening == WIDENINGS:
            break
        beyond = candidates[best] * ratio ** (edge * torch.arange(1, 3, device=train.device))
        candidates = torch.cat([candidates, beyond]).sort().values
    return _Linear(float(candidates[best]), float(accuracy[best]), ("lambda",) if edge else ())


def _choose_knn(train: Tensor, labels: Labels, fit: Tensor, held: Tensor, config: EvaluateConfig) -> _Near:
    """The k and temperature with the best held-out accuracy; the smallest on a tie."""
    ks, temperatures, count = sorted(config.knn_k), sorted(config.knn_temperature), int(fit.sum())
    for widening in range(WIDENINGS + 1):
        found = knn(train[fit], labels.train[fit], train[held], ks, temperatures, labels.num_classes)
        accuracy = {choice: float(top1(predicted, labels.train[held])) for choice, predicted in found.items()}
        k, t = max(accuracy, key=lambda choice: accuracy[choice])
        edge = _rising_edge([accuracy[n, t] for n in ks], ks.index(k)) if 1 < k < count else 0
        warm = _rising_edge([accuracy[k, w] for w in temperatures], temperatures.index(t))
        if not (edge or warm) or widening == WIDENINGS:
            break
        ks = sorted({*ks, 2 * k if edge > 0 else k // 2}) if edge else ks
        temperatures = sorted({*temperatures, t * 2.0**warm}) if warm else temperatures
    return _Near(k, t, accuracy[k, t], ("k",) * bool(edge) + ("temperature",) * bool(warm))


def _tested(
    task: _Task, probe: _Linear, knn_task: _Task, vote: _Near, config: EvaluateConfig, seed: int
) -> tuple[Tested, dict[str, Any]]:
    """What is read from the test split with all training labels, and kNN's accuracy for every k and temperature."""
    ks, temperatures = sorted({*config.knn_k, vote.k}), sorted({*config.knn_temperature, vote.temperature})
    votes = knn(*knn_task[:3], ks, temperatures, task.num_classes)
    one = task.train.new_full((1, 1), probe.strength, dtype=torch.float64)
    linear = linear_probe(task.train[None], task.train_labels[None], one, task.num_classes, FINAL)
    grid = {f"k={k},T={t:g}": float(top1(p, task.test_labels)) for (k, t), p in votes.items()}
    tested = Tested(
        train=task.train,
        train_labels=task.train_labels,
        test=task.test,
        test_labels=task.test_labels,
        nearest=votes[vote.k, vote.temperature],
        predicted=linear.predict(task.test)[0, 0],
        clusters=_clusters(task, seed),
        num_classes=task.num_classes,
        config=config,
        seed=seed,
    )
    return tested, {"knn": grid}


def _spread(tested: Tested) -> dict[str, Any]:
    """How sure the two accuracies are, and how they differ between the classes."""
    guesses = {"knn": tested.nearest, "linear": tested.predicted}
    correct = torch.stack(list(guesses.values())) == tested.test_labels
    intervals = bootstrap_intervals(correct, tested.config.bootstrap, tested.seed, BOOTSTRAP)
    recalls = {name: per_class(guess, tested.test_labels, tested.num_classes) for name, guess in guesses.items()}
    return {
        **{f"{name}_interval": list(interval) for name, interval in zip(guesses, intervals, strict=True)},
        **{f"{name}_balanced": balanced(shares) for name, shares in recalls.items()},
        "per_class": recalls["linear"],
    }


def _few_labels(tasks: Sequence[_Task], config: EvaluateConfig, seed: int) -> dict[str, Any]:
    """Linear probes on a few labels per class, of the layer and strength that these labels alone choose.

    Args:
        tasks: the same images by layer, the last layer last.
    """
    labels, accuracies = tasks[0].train_labels, {}
    by_size: dict[int, Any] = {}  # with few images a class, several fractions mean the same ones
    for fraction in config.label_fractions:
        halves = [class_balanced_halves(labels, fraction, seed, FEW_LABELS, s) for s in range(config.label_seeds)]
        first, second = (torch.stack(half) for half in zip(*halves, strict=True))
        size = first.shape[1] + second.shape[1]
        if size not in by_size:
            by_size[size] = _few_label_scores(tasks, first, second, config) | {"labels": size}
        accuracies[f"{fraction:g}"] = by_size[size]
    return {"few_label": accuracies}


def _few_label_scores(tasks: Sequence[_Task], first: Tensor, second: Tensor, config: EvaluateConfig) -> dict[str, Any]:
    chosen, tested = zip(*(_few_label_accuracy(task, first, second, config) for task in reversed(tasks)), strict=True)
    layer = torch.stack(chosen).argmax(0, keepdim=True)  # the first on a tie: the last layer
    accuracy = torch.stack(tested).gather(0, layer)[0]
    return {"mean": float(accuracy.mean()), "std": float(accuracy.std()) if len(accuracy) > 1 else 0.0}


def _few_label_accuracy(task: _Task, first: Tensor, second: Tensor, config: EvaluateConfig) -> tuple[Tensor, Tensor]:
    """Accuracies (S,) of one layer's probes on S choices of labels, each given as two halves (S, n) of row numbers.

    Returns:
        By two-fold cross-validation among these labels, with the strength that is best there; and on the test images.
    """
    grid = strengths(config).to(task.train.device)
    fit, check = torch.cat([first, second]), torch.cat([second, first])
    probe = linear_probe(task.train[fit], task.train_labels[fit], grid.expand(len(fit), -1), task.num_classes, CHOICE)
    right = top1(probe.predict(task.train[check]), task.train_labels[check][:, None])
    accuracy = right.view(2, len(first), -1).mean(0)
    best = len(grid) - 1 - accuracy.flip(1).argmax(1)
    both = torch.cat([first, second], 1)
    probe = linear_probe(task.train[both], task.train_labels[both], grid[best][:, None], task.num_classes, CHOICE)
    return accuracy.amax(1), top1(probe.predict(task.test)[:, 0], task.test_labels)


def class_balanced_halves(labels: Tensor, fraction: float, *parts: int) -> tuple[Tensor, Tensor]:
    """Two disjoint class-balanced sets of row numbers, together about ``fraction`` of the rows, at least 2 per class.

    Every class gives the same number of rows; one that is too small gives what it has. How many that makes depends on the
    labels and the fraction alone, so that sets drawn with different parts can be stacked.
    """
    order = permutation(len(labels), *parts, device=labels.device)
    present = torch.unique(labels)
    half = max(1, round(fraction * len(labels) / len(present) / 2))
    first, second = [], []
    for c in present:
        rows = order[labels[order] == c]
        size = min(half, len(rows) // 2)
        first.append(rows[:size])
        second.append(rows[size : 2 * size])
    return torch.cat(first), torch.cat(second)


def _clusters(task: _Task, seed: int) -> Tensor:
    """(M,) k-means cluster of the l2-normalized test features, as many as classes; the best of some starts by inertia."""
    x = F.normalize(task.test.float())
    k = min(task.num_classes, len(x))
    runs = [kmeans(x, k, KMEANS_ITERATIONS, seed, CLUSTERING, start) for start in range(KMEANS_STARTS)]
    inertia = [float((x - centroids[own]).square().sum(dtype=torch.float64)) for centroids, own in runs]
    return runs[inertia.index(min(inertia))][1]
