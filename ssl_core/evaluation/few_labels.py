"""Linear probes on a few labels per class: what an encoder is worth to somebody who labels little.

Everything, the layer too, is chosen by these few labels alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssl_core.evaluation.discriminant import linear_classifier
from ssl_core.evaluation.intervals import summed, units
from ssl_core.evaluation.scores import EvaluateConfig, top1
from ssl_core.rng import permutation

FEW_LABELS = 1
"""Keeps the stream of random numbers apart from those of other purposes."""
CHOICE, FINAL = 1e-5, 1e-6
"""Tolerances of the probes: held-out accuracies move by less than their own noise between the two."""
SEEN = -1
"""In place of the class of an image whose label the probe has seen."""


class Task(NamedTuple):
    """Labelled images, as one layer sees them."""

    train: Tensor
    """(N, D)."""
    train_labels: Tensor
    test: Tensor
    """(M, D)."""
    test_labels: Tensor
    num_classes: int
    many: bool
    """Whether the classes are too many for a logistic probe."""


@dataclass(frozen=True)
class FewLabels:
    """What probes on a few labels say, by the share of the labels they see (``0.01``)."""

    numbers: dict[str, dict[str, Any]]
    """``mean`` and ``std`` of the test accuracy over the choices of labels, and ``labels``, how many they are."""
    test: dict[str, Tensor]
    """(S, M) classes of the test images, for S choices of labels."""
    held_out: dict[str, Tensor]
    """(S, H) classes of the held-out images; ``SEEN`` where the image is one of the few."""


def strengths(config: EvaluateConfig) -> Tensor:
    """The regularization strengths (L,) float64, ascending."""
    low, high = config.linear_lambda_range
    return torch.logspace(math.log10(low), math.log10(high), config.linear_lambdas, dtype=torch.float64)


def few_labels(
    tasks: Sequence[Task], held_out: Tensor, config: EvaluateConfig, seed: int, groups: Tensor | None = None
) -> FewLabels:
    """Linear probes on a few labels per class, of the layer and strength that these labels alone choose.

    Args:
        tasks: the same images by layer, the last layer last.
        held_out: (N,) bool, the training images that are judged too.
        seed: of the choices of labels.
        groups: (N,), equal for training images that belong together: a probe that has seen one is not asked for the others.
    """
    labels, found = tasks[0].train_labels, FewLabels({}, {}, {})
    for fraction in config.label_fractions:
        halves = [class_balanced_halves(labels, fraction, seed, FEW_LABELS, s) for s in range(config.label_seeds)]
        first, second = (torch.stack(half) for half in zip(*halves, strict=True))
        share, size = f"{fraction:g}", first.shape[1] + second.shape[1]
        same = next((other for other, numbers in found.numbers.items() if numbers["labels"] == size), None)
        if same is not None:  # with few images a class, several fractions mean the same ones
            found.test[share], found.held_out[share] = found.test[same], found.held_out[same]
            found.numbers[share] = found.numbers[same]
            continue
        chosen, guesses = zip(*(_probes(task, held_out, first, second, config) for task in reversed(tasks)), strict=True)
        layer = torch.stack(chosen).argmax(0)  # the first on a tie: the last layer
        predicted = torch.stack(guesses)[layer, torch.arange(len(layer), device=layer.device)]
        test, judged = predicted[:, : len(tasks[0].test)], predicted[:, len(tasks[0].test) :]
        seen = torch.zeros(len(first), len(labels), dtype=torch.bool, device=labels.device)
        seen.scatter_(1, torch.cat([first, second], 1), True)
        if (number := units(groups, len(labels))) is not None:
            seen = (summed(seen.T.int(), number) > 0)[number].T
        accuracy = top1(test, tasks[0].test_labels)
        found.test[share], found.held_out[share] = test, judged.masked_fill(seen[:, held_out], SEEN)
        found.numbers[share] = {
            "mean": float(accuracy.mean()),
            "std": float(accuracy.std()) if len(accuracy) > 1 else 0.0,
            "labels": size,
        }
    return found


def _probes(task: Task, held_out: Tensor, first: Tensor, second: Tensor, config: EvaluateConfig) -> tuple[Tensor, Tensor]:
    """One layer's probes on S choices of labels, each given as two halves (S, n) of row numbers.

    Returns:
        Accuracies (S,) by two-fold cross-validation among these labels, with the strength that is best there; classes
        (S, M + H) of the test images and of the held-out ones.
    """
    grid, given = strengths(config).to(task.train.device), (task.num_classes, CHOICE, task.many)
    fit, check = torch.cat([first, second]), torch.cat([second, first])
    if task.many:  # the classes of a row are those of every other
        judged = torch.cat([task.test_labels, task.train_labels[held_out]])
        check = check[:, torch.isin(task.train_labels[first[0]], judged)]
    probe = linear_classifier(task.train[fit], task.train_labels[fit], grid.expand(len(fit), -1), *given)
    right = top1(probe.predict(task.train[check]), task.train_labels[check][:, None])
    accuracy = right.view(2, len(first), -1).mean(0)
    best = len(grid) - 1 - accuracy.flip(1).argmax(1)
    both = torch.cat([first, second], 1)
    probe = linear_classifier(task.train[both], task.train_labels[both], grid[best][:, None], *given)
    return accuracy.amax(1), torch.cat([probe.predict(x)[:, 0] for x in (task.test, task.train[held_out])], 1)


def class_balanced_halves(labels: Tensor, fraction: float, *parts: int) -> tuple[Tensor, Tensor]:
    """Two disjoint class-balanced sets of row numbers, together about ``fraction`` of the rows, at least 2 per class.

    Every class gives the same number of rows; one that is too small gives what it has. How many that makes depends on the
    labels and the fraction alone, so that sets drawn with different parts can be stacked.
    """
    order = permutation(len(labels), *parts, device=labels.device)
    order = order[labels[order].argsort(stable=True)]  # class by class, each in its random order
    counts = labels.bincount()[torch.unique(labels)]
    half = max(1, round(fraction * len(labels) / len(counts) / 2))
    size = counts.div(2, rounding_mode="floor").clamp(max=half).repeat_interleave(counts)
    place = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return order[place < size], order[(place >= size) & (place < 2 * size)]
