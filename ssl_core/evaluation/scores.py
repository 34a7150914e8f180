"""The scores of an encoder: what each is called, how it reads, which way is better, and how it is computed.

``SCORES`` is the one list. Whatever shows numbers (tables, report, MLflow, model card) follows from it. Nothing here imports
torch when it is loaded, so that a table can be shown without it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from ssl_core.config import ASCENDING, Count, Fraction, Positive, Rule

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The evaluation protocol."""

    knn_k: tuple[Count, ...]
    """Candidate numbers of neighbors; a k above the number of training images is clamped to it."""
    knn_temperature: tuple[Positive, ...]
    """Candidate temperatures of the neighbors' weights exp(similarity / temperature)."""
    linear_lambdas: Count
    """How many regularization strengths the linear probe tries."""
    linear_lambda_range: Annotated[tuple[Positive, Positive], ASCENDING]
    """Smallest and largest of them; they are spaced evenly in the logarithm."""
    layers: Count
    """Candidate layers: the last this many blocks of the encoder."""
    max_classes: Annotated[int, Rule("a whole number of at least 2", lambda v: v >= 2)] | None
    """Of more classes, the images of a random sample of so many are judged, the same for all encoders, told from all by a
    linear discriminant in place of the logistic probe; null: never."""
    label_fractions: tuple[Fraction, ...]
    """Shares of the training labels the few-label probes see."""
    label_seeds: Count
    """Random class-balanced choices of those labels; mean and spread are over them."""
    bootstrap: Annotated[int, Rule("a whole number of at least 40: fewer have no 2.5 %", lambda v: v >= 40)]
    """Resamples of the test images behind each interval."""
    batch_size: Count
    """Images per forward pass when features are extracted; changes speed, not results."""
    untrained: Count
    """Encoders behind the row of an untrained one: as many seeds, from its own on."""


@dataclass(frozen=True, kw_only=True)
class Tested:
    """An encoder on the test images, after everything was chosen: what a score is computed from."""

    train: "Tensor"
    """(N, D) float32: features of the labelled training images, of the linear probe's layer."""
    train_labels: "Tensor"
    """(N,) int64 in [0, num_classes)."""
    test: "Tensor"
    """(M, D), of the labelled test images."""
    test_labels: "Tensor"
    """(M,)."""
    nearest: "Tensor"
    """(M,) the classes that kNN predicts, on the layer it chose."""
    predicted: "Tensor"
    """(M,) the classes that the linear probe predicts."""
    clusters: "Tensor"
    """(M,) the k-means cluster of each image, of as many as the test images have classes."""
    num_classes: int
    config: EvaluateConfig
    seed: int


@dataclass(frozen=True)
class Score:
    """A number (or word) that tells something about an encoder."""

    name: str
    """Its key in the metrics, its column in leaderboard.csv, its name in MLflow."""
    title: str
    """Its heading in a table."""
    about: str
    """The same for a reader who sees no other number."""
    form: Literal["share", "number", "text"]
    """A share of 1 is shown in percent."""
    better: Literal["higher", "lower", ""]
    """Empty where neither is."""
    compute: Callable[[Tested], float] | None = None
    """None where a choice on held-out labels or the training gives it."""
    short: str = ""
    """Its heading where there is little room; else the title."""
    digits: int = 1
    """After the point."""
    headline: bool = False
    """Whether encoders are compared by it at first sight: it then stands in every table and on the model card."""
    interval: str = ""
    """``NAME`` of the interval ``NAME_interval`` in the metrics, which gives the columns ``NAME_low`` and ``NAME_high``."""


def top1(predicted: "Tensor", labels: "Tensor") -> "Tensor":
    """Share of (..., Q) predictions that equal (Q,) labels, float64."""
    return (predicted == labels).double().mean(-1)


def per_class(predicted: "Tensor", labels: "Tensor", num_classes: int) -> list[float | None]:
    """Share of each class's images that are predicted right (recall); None for a class without images."""
    count = labels.bincount(minlength=num_classes)
    right = labels[predicted == labels].bincount(minlength=num_classes)
    return [r / n if n else None for r, n in zip(right.tolist(), count.tolist(), strict=True)]


def balanced(recalls: Sequence[float | None]) -> float:
    """Balanced accuracy: the mean recall of the classes that have images."""
    known = [r for r in recalls if r is not None]
    return sum(known) / len(known)


def nmi(clusters: "Tensor", labels: "Tensor") -> float:
    """Normalized mutual information of a clustering (N,) with classes (N,), both int64 >= 0, in [0, 1].

    It is divided by the arithmetic mean of the entropies. What the clusters are called does not matter.
    """
    joint = _contingency(clusters, labels)
    joint /= joint.sum()
    a, b = joint.sum(1), joint.sum(0)
    both, first, second = (float(-p.xlogy(p).sum()) for p in (joint, a, b))
    information = first + second - both
    return min(1.0, max(0.0, 2 * information / (first + second))) if first + second > 0 else 1.0  # rounding leaves [0, 1]


def ari(clusters: "Tensor", labels: "Tensor") -> float:
    """Adjusted Rand index (Hubert and Arabie, 1985): 0 on average for a random clustering and 1 for the same one.

    Args:
        clusters: (N,) int64 >= 0; ``labels`` likewise.
    """

    def pairs(counts: "Tensor") -> float:
        return float((counts * (counts - 1) / 2).sum())

    table = _contingency(clusters, labels)
    together, first, second, total = pairs(table), pairs(table.sum(1)), pairs(table.sum(0)), pairs(table.sum())
    expected = first * second / total if total else 0.0
    most = (first + second) / 2
    return (together - expected) / (most - expected) if most != expected else 1.0


def _contingency(clusters: "Tensor", labels: "Tensor") -> "Tensor":
    """(clusters, classes) float64: how many images of each class are in each cluster."""
    width = int(labels.max()) + 1
    return (clusters * width + labels).bincount(minlength=(int(clusters.max()) + 1) * width).view(-1, width).double()


def _knn_top1(tested: Tested) -> float:
    return float(top1(tested.nearest, tested.test_labels))


def _linear_top1(tested: Tested) -> float:
    return float(top1(tested.predicted, tested.test_labels))


def _nmi(tested: Tested) -> float:
    return nmi(tested.clusters, tested.test_labels)


def _ari(tested: Tested) -> float:
    return ari(tested.clusters, tested.test_labels)


SCORES = (
    Score("knn_top1", "kNN", "test k nearest neighbors", "share", "higher", _knn_top1, headline=True, interval="knn"),
    Score("linear_top1", "linear", "test linear probe", "share", "higher", _linear_top1, headline=True, interval="linear"),
    Score("holdout_knn_top1", "held-out kNN", "held-out k nearest neighbors", "share", "higher"),
    Score("holdout_linear_top1", "held-out linear", "held-out linear probe", "share", "higher", headline=True,
          short="held-out"),
    Score("layer", "layer", "layer the linear probe chose", "text", ""),
    Score("lambda", "lambda", "regularization the linear probe chose", "number", ""),
    Score("knn_layer", "kNN layer", "layer kNN chose", "text", ""),
    Score("k", "k", "neighbors kNN chose", "number", "", digits=0),
    Score("temperature", "temperature", "temperature kNN chose", "number", "", digits=2),
    Score("verdict", "verdict", "health of the features", "text", "", headline=True),
    Score("feature_std", "feature std", "spread of the features", "number", "higher", digits=3),
    Score("effective_rank", "effective rank", "effective rank of the features", "number", "higher", headline=True,
          short="rank"),
    Score("alignment", "alignment", "distance of two views of an image", "number", "lower", digits=3),
    Score("uniformity", "uniformity", "closeness of different images", "number", "lower", digits=3),
    Score("linear_balanced", "balanced", "test linear probe, each class counted alike", "share", "higher"),
    Score("majority_top1", "majority", "test, always naming the class that is most frequent in training", "share", ""),
    Score("nmi", "NMI", "mutual information of clusters and classes", "share", "higher", _nmi),
    Score("ari", "ARI", "adjusted Rand index of clusters and classes", "number", "higher", _ari),
)  # fmt: skip
"""In the order of the columns of leaderboard.csv."""
