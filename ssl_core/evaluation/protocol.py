"""How good is an encoder? The evaluation protocol, from frozen features and labels to numbers with intervals.

Every choice (layer, k, temperature, regularization) is made on a held-out part of the *training* labels, the layer by kNN
and probe each for itself; then both use all training labels, and the test split is read once. A grid is widened where its
last value is the best one. Probes on few labels choose everything, the layer too, by these few alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_core.clustering import kmeans
from ssl_core.evaluation.discriminant import linear_classifier
from ssl_core.evaluation.few_labels import CHOICE, FINAL, Task, few_labels, strengths
from ssl_core.evaluation.intervals import bootstrap_intervals, units
from ssl_core.evaluation.knn import knn
from ssl_core.evaluation.scores import SCORES, EvaluateConfig, Tested, balanced, per_class, top1
from ssl_core.rng import permutation

# Purposes that keep the streams of random numbers apart.
CLUSTERING, BOOTSTRAP, CLASSES = 2, 3, 4
KMEANS_STARTS, KMEANS_ITERATIONS = 5, 20
WIDENINGS = 4
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
    train_groups: Tensor | None = None
    """(N,), equal for images that belong together; None: none do."""
    test_groups: Tensor | None = None
    """(M,)."""

    def many(self, limit: int | None) -> bool:
        """Whether training images have more classes than ``limit``."""
        return limit is not None and len(self._classes()) > limit

    def _classes(self) -> Tensor:
        classes: Tensor = torch.unique(self.train)
        return classes[classes >= 0]

    def of_at_most(self, limit: int | None) -> "Labels":
        """These labels, or of more classes than ``limit`` a random sample of so many, whose images alone are judged.

        The others' held-out images are trained on, and their test images become unlabelled. The sample depends on the number
        of classes alone, so that all encoders are judged on the same images.
        """
        if not self.many(limit):
            return self
        classes = self._classes()
        chosen = classes[permutation(len(classes), CLASSES, device=classes.device)[:limit]]
        holdout = self.holdout & torch.isin(self.train, chosen)
        return replace(self, holdout=holdout, test=self.test.where(torch.isin(self.test, chosen), -1))


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
    held_out: Mapping[str, Tensor] = field(default_factory=dict)
    """Classes of the held-out training images, predicted by probes that did not see their labels: (H,) by ``linear`` and
    ``knn``, and (S, H) by each share of the labels (``0.01``), for S choices of them; -1 for an image among the few."""
    few: Mapping[str, Tensor] = field(default_factory=dict)
    """(S, M') classes of the labelled test images by each share of the labels."""


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
    few = replace(labels, train=numbers[labels.train], test=numbers[labels.test], num_classes=len(named))
    return _renamed(_evaluate(layers, few, config, seed), named, labels.num_classes)


def _renamed(scores: Scores, named: Tensor, num_classes: int) -> Scores:
    """Scores of the classes ``named`` (K,) with the numbers they have among all."""
    numbers = dict(scores.numbers)
    if "per_class" in numbers:
        found = dict(zip(named.tolist(), numbers["per_class"], strict=True))
        numbers["per_class"] = [found.get(c) for c in range(num_classes)]
    protocol = scores.protocol | ({"classes": f"{len(named)} of {num_classes}"} if numbers else {})
    names = torch.cat([named, named.new_tensor([-1])])  # the last: a label that the probe has seen

    def renamed(guesses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {share: names[guess] for share, guess in guesses.items()}

    predicted, nearest = (guess if guess is None else named[guess] for guess in (scores.predicted, scores.nearest))
    held_out, few = renamed(scores.held_out), renamed(scores.few)
    return replace(scores, numbers=numbers, protocol=protocol, predicted=predicted, nearest=nearest, held_out=held_out, few=few)


def _evaluate(layers: Layers, labels: Labels, config: EvaluateConfig, seed: int) -> Scores:
    known = labels.train >= 0
    fit, held = known & ~labels.holdout, known & labels.holdout
    last = list(layers)[-1]
    if not known.any():
        return Scores(last, {}, {"layer": last, "labels": "none: label-free numbers only"}, None)
    if not fit.any() or not held.any():
        return Scores(last, {}, {"layer": last, "labels": "too few to hold some out: label-free numbers only"}, None)
    many = labels.many(config.max_classes)
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
        **(_of_many(labels, config) if many else {}),
        "train_labels": int(known.sum()),
        "holdout_labels": int(held.sum()),
        **_counted("holdout", labels.train_groups, held),
    }
    scores: dict[str, Any] = {
        "holdout_knn_top1": vote.accuracy,
        "holdout_linear_top1": probe.accuracy,
        "holdout_knn_top1_by_layer": {name: choice.accuracy for name, choice in near.items()},
        "holdout_linear_top1_by_layer": {name: choice.accuracy for name, choice in linear.items()},
    }
    seen = labels.test >= 0
    protocol["test_labels"] = int(seen.sum())
    protocol |= _counted("test", labels.test_groups, seen)
    tasks = {
        name: Task(train[known], labels.train[known], test[seen], labels.test[seen], labels.num_classes, many)
        for name, (train, test) in layers.items()
    }
    groups = None if labels.train_groups is None else labels.train_groups[known]
    few = few_labels(list(tasks.values()), held[known], config, seed, groups)
    judged = {"linear": probe.predicted, "knn": vote.predicted, **few.held_out}
    if not seen.any():
        protocol |= {"test": "no labelled test images: held-out numbers only"}
        protocol["few_labels"] = {share: numbers["labels"] for share, numbers in few.numbers.items()}
        return Scores(layer, scores, protocol, None, held_out=judged)
    protocol["resamples"] = config.bootstrap
    tested, grid = _tested(tasks[layer], probe, tasks[knn_layer], vote, config, seed)
    scores |= {score.name: score.compute(tested) for score in SCORES if score.compute}
    groups = None if labels.test_groups is None else labels.test_groups[seen]
    scores |= grid | _spread(tested, groups) | {"few_label": few.numbers}
    return Scores(layer, scores, protocol, tested.predicted, tested.nearest, judged, few.test)


def _counted(of: str, groups: Tensor | None, chosen: Tensor) -> dict[str, int]:
    """How many groups the ``chosen`` images are, where some belong together."""
    found = None if groups is None or not chosen.any() else units(groups[chosen], int(chosen.sum()))
    return {} if found is None else {f"{of}_groups": int(found.max()) + 1}


def _of_many(labels: Labels, config: EvaluateConfig) -> dict[str, str]:
    judged = f"images of {config.max_classes} of {labels.num_classes} classes, told from all"
    return {"probe": "linear discriminant", "judged": judged}


class _Linear(NamedTuple):
    strength: float
    accuracy: float
    predicted: Tensor
    edges: tuple[str, ...]


class _Near(NamedTuple):
    k: int
    temperature: float
    accuracy: float
    predicted: Tensor
    edges: tuple[str, ...]


def _rising_edge(accuracy: Sequence[float], best: int) -> int:
    """-1 or 1 where the best of a grid is its first or last and better than the one beside it; else 0."""
    if len(accuracy) < 2 or 0 < best < len(accuracy) - 1:
        return 0
    side = -1 if best == 0 else 1
    return side if accuracy[best] > accuracy[best - side] else 0


def _choose_linear(train: Tensor, labels: Labels, fit: Tensor, held: Tensor, config: EvaluateConfig) -> _Linear:
    """The strength with the best held-out accuracy; the stronger one on a tie."""
    candidates, many = strengths(config).to(train.device), labels.many(config.max_classes)
    ratio = candidates[1:2] / candidates[:1]
    for widening in range(WIDENINGS + 1):
        known = train[fit][None], labels.train[fit][None]
        probe = linear_classifier(*known, candidates[None], labels.num_classes, CHOICE, many)
        predicted = probe.predict(train[held])[0]
        accuracy = top1(predicted, labels.train[held])
        best = len(accuracy) - 1 - int(accuracy.flip(0).argmax())
        edge = _rising_edge(accuracy.tolist(), best)
        if not edge or widening == WIDENINGS:
            break
        beyond = candidates[best] * ratio ** (edge * torch.arange(1, 3, device=train.device))
        candidates = torch.cat([candidates, beyond]).sort().values
    return _Linear(float(candidates[best]), float(accuracy[best]), predicted[best], ("lambda",) if edge else ())


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
    return _Near(k, t, accuracy[k, t], found[k, t], ("k",) * bool(edge) + ("temperature",) * bool(warm))


def _tested(
    task: Task, probe: _Linear, knn_task: Task, vote: _Near, config: EvaluateConfig, seed: int
) -> tuple[Tested, dict[str, Any]]:
    """What is read from the test split with all training labels, and kNN's accuracy for every k and temperature."""
    ks, temperatures = sorted({*config.knn_k, vote.k}), sorted({*config.knn_temperature, vote.temperature})
    votes = knn(*knn_task[:3], ks, temperatures, task.num_classes)
    one = task.train.new_full((1, 1), probe.strength, dtype=torch.float64)
    linear = linear_classifier(task.train[None], task.train_labels[None], one, task.num_classes, FINAL, task.many)
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


def _spread(tested: Tested, groups: Tensor | None) -> dict[str, Any]:
    """How sure the two accuracies are, and how they differ between the classes."""
    guesses = {"knn": tested.nearest, "linear": tested.predicted}
    correct = torch.stack(list(guesses.values())) == tested.test_labels
    intervals = bootstrap_intervals(correct, tested.config.bootstrap, tested.seed, BOOTSTRAP, groups=groups)
    recalls = {name: per_class(guess, tested.test_labels, tested.num_classes) for name, guess in guesses.items()}
    return {
        **{f"{name}_interval": list(interval) for name, interval in zip(guesses, intervals, strict=True)},
        **{f"{name}_balanced": balanced(shares) for name, shares in recalls.items()},
        "majority_top1": float((tested.test_labels == tested.train_labels.bincount().argmax()).double().mean()),
        "per_class": recalls["linear"],
    }


def _clusters(task: Task, seed: int) -> Tensor:
    """(M,) k-means cluster of the l2-normalized test features, as many as their classes; the best of some starts by inertia."""
    x = F.normalize(task.test.float())
    k = len(torch.unique(task.test_labels))
    runs = [kmeans(x, k, KMEANS_ITERATIONS, seed, CLUSTERING, start) for start in range(KMEANS_STARTS)]
    inertia = [float((x - centroids[own]).square().sum(dtype=torch.float64)) for centroids, own in runs]
    return runs[inertia.index(min(inertia))][1]
