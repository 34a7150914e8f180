"""Linear discriminants (Fisher, 1936) with a regularized common covariance: a linear probe in closed form, for many classes.

A step of a logistic regression costs images x classes x features, and it takes hundreds. Here class means and one covariance
are all there is to fit; classes cost something when they are told apart, and then only for the images that are asked about.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ssl_core.evaluation.probe import LOGITS, Probe, linear_probe, standardization


class Discriminant(NamedTuple):
    """Discriminants of P problems with L strengths each, in coordinates in which their covariance is diagonal."""

    mean: Tensor
    """(P, 1, D) float64 of the features."""
    axes: Tensor
    """(P, D, D) from centered features to the coordinates; the standardization is folded in."""
    variance: Tensor
    """(P, D) within the classes, along each coordinate."""
    centers: Tensor
    """(P, C, D) of the classes."""
    prior: Tensor
    """(P, C) logarithms of the classes' shares; minus infinity for a class without images, which is never predicted."""
    strengths: Tensor
    """(P, L)."""

    def predict(self, features: Tensor) -> Tensor:
        """Classes (P, L, Q) int64 of (P, Q, D) features, or of (Q, D) for every problem."""
        each = features.expand(len(self.mean), *features.shape[-2:])
        return torch.stack([self._predict(number, x) for number, x in enumerate(each)])

    def _predict(self, problem: int, features: Tensor) -> Tensor:
        x = ((features.double() - self.mean[problem]) @ self.axes[problem]).float()
        centers, strengths = self.centers[problem], self.strengths[problem]
        different = strengths if self.variance[problem].any() else strengths[-1:]  # without it, all give the nearest mean
        found = []
        for strength in different:
            weight = centers / (self.variance[problem] + strength).float()
            bias = self.prior[problem] - 0.5 * (weight * centers).sum(1)
            rows = torch.split(x, max(1, LOGITS // len(centers)))
            found.append(torch.cat([(part @ weight.T + bias).argmax(1) for part in rows]))
        return torch.stack(found).expand(len(strengths), -1)


@torch.no_grad()
def linear_discriminant(features: Tensor, labels: Tensor, strengths: Tensor, num_classes: int) -> Discriminant:
    """Tell classes apart by the distance to their means, in the metric of (covariance within the classes + strength).

    The covariance is that of standardized features, so a strength means about what it means to the logistic probe; a great one
    leaves the nearest class mean. Where no class has two images, nothing is known of the covariance, and zero stands for it.

    Args:
        features: (P, N, D), P problems side by side; ``labels`` (P, N) int64 in [0, num_classes).
        strengths: (P, L) > 0.

    Raises:
        ValueError: no image, or features that are not finite.
    """
    parts = [_fit(x, y, num_classes) for x, y in zip(features, labels, strict=True)]
    mean, axes, variance, centers, prior = map(torch.stack, zip(*parts, strict=True))
    return Discriminant(mean, axes, variance, centers, prior, strengths)


def _fit(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """``mean`` to ``prior`` of one problem, features (N, D)."""
    mean, std = standardization(features)
    count = labels.bincount(minlength=num_classes)
    freedom = len(features) - int((count > 0).sum())
    x = features[labels.argsort(stable=True)].double().sub_(mean).div_(std)  # class by class: sums need no scattered adding
    sums = torch.segment_reduce(x, "sum", lengths=count, initial=0.0)
    centers = sums / count.clamp(min=1)[:, None]
    variance, axes = torch.linalg.eigh((x.T @ x - sums.T @ centers) / max(1, freedom))
    variance = variance.clamp(min=0) if freedom else torch.zeros_like(variance)
    return mean, axes / std.T, variance, (centers @ axes).float(), (count / len(x)).log()


def linear_classifier(
    features: Tensor, labels: Tensor, strengths: Tensor, num_classes: int, tolerance: float, many: bool
) -> Probe | Discriminant:
    """The linear probe of the protocol: a discriminant where classes are many, else a logistic regression."""
    if many:
        return linear_discriminant(features, labels, strengths, num_classes)
    return linear_probe(features, labels, strengths, num_classes, tolerance)
