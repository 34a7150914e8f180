"""How good is an encoder? The evaluation protocol, from frozen features and labels to numbers with intervals.

Every choice (k, temperature, lambda, layer) is made on a held-out part of the *training* labels; then everything is refitted
on all training labels and the test split is read once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_core import probe
from ssl_core.clustering import kmeans
from ssl_core.knn import knn
from ssl_core.rng import Rng, permutation

BOOTSTRAP, FEW_LABELS, CLUSTERS = 11, 12, 13
KMEANS_ITERATIONS = 25


@dataclass(frozen=True)
class EvaluateConfig:
    """The evaluation protocol."""

    knn_k: tuple[int, ...]
    """Candidate numbers of neighbors; a k above the number of training images is clamped to it."""
    knn_temperature: tuple[float, ...]
    """Candidate temperatures of the neighbors' weights exp(similarity / temperature)."""
    linear_lambdas: int
    """How many regularization strengths the linear probe tries."""
    linear_lambda_range: tuple[float, float]
    """Smallest and largest of them; they are spaced evenly in the logarithm."""
    layers: int
    """Candidate layers: the last this many blocks of the encoder."""
    label_fractions: tuple[float, ...]
    """Shares of the training labels the few-label probes see."""
    label_seeds: int
    """Random class-balanced choices of those labels; mean and spread are over them."""
    bootstrap: int
    """Resamples of the test images behind each interval."""
    batch_size: int
    """Images per forward pass when features are extracted; changes speed, not results."""
    finetune_epochs: int
    """Epochs of fine-tuning encoder and linear head on the training labels; 0 = none."""

    @property
    def lambdas(self) -> list[float]:
        """The regularization strengths."""
        low, high = self.linear_lambda_range
        return [float(v) for v in torch.logspace(torch.tensor(low).log10(), torch.tensor(high).log10(), self.linear_lambdas)]


@dataclass
class Scores:
    """What the labels say."""

    layer: int
    """Index of the chosen layer among those given."""
    values: dict[str, Any] = field(default_factory=dict)
    """``knn_top1``, ``linear_top1``, intervals, held-out values, ... as they go into the metrics file."""
    protocol: dict[str, Any] = field(default_factory=dict)
    predictions: Tensor | None = None
    """(M,) the linear probe's classes for the test images."""


@dataclass(frozen=True)
class _Choice:
    layer: int
    linear: float
    strength: float
    knn: float
    k: int
    temperature: float


def evaluate(
    train: Sequence[Tensor],
    labels: Tensor,
    holdout: Tensor,
    test: Sequence[Tensor],
    test_labels: Tensor,
    num_classes: int,
    config: EvaluateConfig,
) -> Scores:
    """Score an encoder by its frozen features.

    Args:
        train: per candidate layer (N, D_l) features of all training images.
        labels: (N,) int64, -1 = unlabelled.
        holdout: (N,) bool, the labels kept for choices.
        test: per layer (M, D_l); M may be 0.
        test_labels: (M,), -1 = unlabelled.
    """
    known = labels >= 0
    fit, held = known & ~holdout, known & holdout
    choices = [_choose(i, x[fit], labels[fit], x[held], labels[held], num_classes, config) for i, x in enumerate(train)]
    best = max(choices, key=lambda c: (c.linear, c.layer))
    x, y = train[best.layer][known], labels[known]
    scores = Scores(best.layer)
    scores.values |= {"holdout_knn_top1": best.knn, "holdout_linear_top1": best.linear}
    scores.protocol |= {"k": best.k, "temperature": best.temperature, "lambda": best.strength, "num_train_labels": len(y)}
    tested = test_labels >= 0
    if tested.any():
        _test(scores, best, x, y, test[best.layer][tested], test_labels[tested], num_classes, config)
    return scores


def _choose(layer: int, x: Tensor, y: Tensor, hx: Tensor, hy: Tensor, num_classes: int, config: EvaluateConfig) -> _Choice:
    """The best k, temperature and lambda of one layer on the held-out labels; ties go to the first."""
    strengths = config.lambdas
    logits = probe.fit(x, y, num_classes, strengths, probe.SWEEP_ITERATIONS).logits(hx)
    linear = (logits.argmax(2) == hy).float().mean(1)
    found = knn(x, y, hx, config.knn_k, config.knn_temperature, num_classes)
    accuracy = {key: accuracy_of(p, hy) for key, p in found.items()}
    k, temperature = max(accuracy, key=lambda key: accuracy[key])
    top = int(linear.argmax())
    return _Choice(layer, float(linear[top]), strengths[top], accuracy[k, temperature], k, temperature)


def _test(
    scores: Scores, best: _Choice, x: Tensor, y: Tensor, tx: Tensor, ty: Tensor, num_classes: int, config: EvaluateConfig
) -> None:
    """Refit on all training labels, read the test split."""
    found = knn(x, y, tx, config.knn_k, config.knn_temperature, num_classes)
    by_knn = found[best.k, best.temperature]
    by_probe = probe.fit(x, y, num_classes, [best.strength]).logits(tx)[0].argmax(1)
    for name, predicted in (("knn", by_knn), ("linear", by_probe)):
        scores.values[f"{name}_top1"] = accuracy_of(predicted, ty)
        scores.values[f"{name}_interval"] = bootstrap_interval(predicted == ty, config.bootstrap)
    recall = [accuracy_of(by_probe[ty == c], ty[ty == c]) if (ty == c).any() else None for c in range(num_classes)]
    present = [r for r in recall if r is not None]
    nmi, ari = clustering_scores(tx, ty, num_classes)
    scores.values |= {
        "knn": {f"k={k},T={t}": accuracy_of(p, ty) for (k, t), p in found.items()},
        "balanced_linear_top1": sum(present) / len(present),
        "per_class": recall,
        "few_label": few_label_scores(x, y, tx, ty, num_classes, config),
        "nmi": nmi,
        "ari": ari,
    }
    scores.predictions = by_probe


def accuracy_of(predicted: Tensor, truth: Tensor) -> float:
    """Share of equal entries."""
    return float((predicted == truth).double().mean())


def bootstrap_interval(correct: Tensor, resamples: int) -> list[float]:
    """The central 95 % of the accuracy over resampled test sets (percentile bootstrap), for (M,) bool."""
    rng = Rng(torch.arange(resamples), BOOTSTRAP)
    drawn = correct.float()[rng.integers(len(correct), len(correct))].mean(1)
    return [float(v) for v in torch.quantile(drawn, torch.tensor([0.025, 0.975]))]


def few_label_scores(
    x: Tensor, y: Tensor, tx: Tensor, ty: Tensor, num_classes: int, config: EvaluateConfig
) -> dict[str, dict[str, float]]:
    """Linear probes on a few class-balanced labels: mean and spread of the test accuracy over fixed draws.

    The strength is 1 / n, scikit-learn's C = 1: choosing it would need labels that are not there.
    """
    scores = {}
    for fraction in config.label_fractions:
        runs = []
        for seed in range(config.label_seeds):
            ids = balanced_subset(y, num_classes, fraction, seed)
            small = probe.fit(x[ids], y[ids], num_classes, [1 / len(ids)], probe.SWEEP_ITERATIONS)
            runs.append(accuracy_of(small.logits(tx)[0].argmax(1), ty))
        spread = torch.tensor(runs, dtype=torch.float64)
        scores[f"{fraction:g}"] = {"mean": float(spread.mean()), "std": float(spread.std(correction=0))}
    return scores


def balanced_subset(y: Tensor, num_classes: int, fraction: float, seed: int) -> Tensor:
    """Ids of ``fraction`` of each class, at least one of each that has any, a pure function of the seed."""
    order = permutation(len(y), FEW_LABELS, seed)
    parts = []
    for c in range(num_classes):
        members = order[y[order] == c]
        parts.append(members[: max(1, round(fraction * len(members)))])
    return torch.cat(parts)


def clustering_scores(x: Tensor, y: Tensor, num_classes: int) -> tuple[float, float]:
    """NMI (arithmetic mean) and adjusted Rand index of k-means with as many clusters as classes, on unit features."""
    if len(x) < num_classes:
        return float("nan"), float("nan")
    _, cluster = kmeans(F.normalize(x.float()), num_classes, KMEANS_ITERATIONS, CLUSTERS)
    table = torch.zeros(num_classes, num_classes, dtype=torch.float64)
    table.index_put_((y, cluster), torch.ones(len(y), dtype=torch.float64), accumulate=True)
    return normalized_mutual_information(table), adjusted_rand_index(table)


def normalized_mutual_information(table: Tensor) -> float:
    """From a contingency table (classes, clusters) of counts."""
    p = table / table.sum()
    rows, columns = p.sum(1), p.sum(0)
    outer = rows[:, None] * columns
    mutual = float((p[p > 0] * (p[p > 0] / outer[p > 0]).log()).sum())
    entropies = [-float((m[m > 0] * m[m > 0].log()).sum()) for m in (rows, columns)]
    return mutual / (sum(entropies) / 2) if sum(entropies) > 0 else 1.0


def adjusted_rand_index(table: Tensor) -> float:
    """Hubert and Arabie, J. Classification 1985, from a contingency table of counts."""

    def pairs(counts: Tensor) -> float:
        return float((counts * (counts - 1) / 2).sum())

    n = table.sum()
    index, a, b = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    expected = a * b / max(pairs(n[None]), 1.0)
    top = (a + b) / 2
    return (index - expected) / (top - expected) if top != expected else 1.0
