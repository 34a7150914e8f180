"""Linear probes: multinomial logistic regression on frozen features, for a path of regularization strengths.

The problem is convex, so it has no learning rate, no schedule and no seed. Features are standardized and rotated to
their principal axes, where the curvature at weights of zero is diagonal for every strength (as is the bound of Böhning,
"Multinomial logistic regression algorithm", AISM 1992); in coordinates scaled by it, L-BFGS (Nocedal, Math. Comp. 1980)
needs a few steps for the strongest, each two matrix products for all problems together. The weaker ones start from there, where
ten steps do what forty do from weights of zero.
"""

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

MEMORY = 10
"""Steps L-BFGS remembers."""
MAX_STEPS = 400
HALVINGS = 10
MIN_STEPS = 1
"""Steps that are made in any case: before the first, the curvature is unknown, and with it what is left to gain."""
UNKNOWNS = 2**21
"""Weights that are solved for side by side, if there is a choice: L-BFGS keeps some 25 arrays of this size, 200 MiB in all."""
MANY = 300
"""From so many classes on, rows of features are multiplied by the hundred; fewer, which a CPU's cache holds, take longer."""
LOGITS = 2**24
"""Logits of a prediction that are in memory at once."""


class Probe(NamedTuple):
    """Linear classifiers of the same features, for P problems with L strengths each."""

    weight: Tensor
    """(P, L, C, D) float32, for features as they are (the standardization is folded in)."""
    bias: Tensor
    """(P, L, C)."""
    objective: Tensor
    """(P, L) float64: mean cross-entropy + strength / 2 * squared norm of the weights of standardized features."""

    def predict(self, features: Tensor) -> Tensor:
        """Classes (P, L, Q) int64 of (P, Q, D) features, or of (Q, D) for every problem; ties go to the lower class."""
        weight, bias = self.weight.flatten(1, 2).transpose(1, 2), self.bias.flatten(1)[:, None]
        rows = torch.split(features, max(1, LOGITS // self.bias.numel()), -2)
        logits = ((part.float() @ weight + bias).view(len(bias), -1, *self.bias.shape[1:]) for part in rows)
        return torch.cat([part.argmax(-1) for part in logits], 1).transpose(1, 2)


def linear_probe(features: Tensor, labels: Tensor, strengths: Tensor, num_classes: int, tolerance: float = 1e-7) -> Probe:
    """Minimize mean cross-entropy + strength / 2 * |W|^2 of standardized features; the bias is free.

    A constant feature gets weight zero. A class without images is never predicted.

    Args:
        features: (P, N, D), P problems side by side; ``labels`` (P, N) int64 in [0, num_classes).
        strengths: (P, L) > 0, ascending: a solution is where the next weaker one starts.
        tolerance: a problem ends when its next step can gain less (half of gradient * H * gradient).

    Raises:
        ValueError: no image, or features that are not finite.
    """
    together = max(1, UNKNOWNS // (num_classes * (min(features.shape[1:]) + 1)))
    if len(features) > together:
        parts = zip(*(torch.split(t, together) for t in (features, labels, strengths)), strict=True)
        found = [linear_probe(x, y, strong, num_classes, tolerance) for x, y, strong in parts]
        return Probe(*map(torch.cat, zip(*found, strict=True)))
    mean, std = standardization(features)
    with torch.no_grad():
        x = (features.double() - mean) / std
        axes, curvature = _principal_axes(x)
        solver = _Solver((x @ axes).float(), labels, strengths.double(), curvature, num_classes)
        rotated, objective = solver.minimize(tolerance)
        weight = rotated[..., :-1].double() @ axes[:, None].transpose(-1, -2) / std[:, None]
        bias = rotated[..., -1].double() - (weight @ mean[:, None].transpose(-1, -2))[..., 0]
    return Probe(weight.float(), bias.float(), objective)


def standardization(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (..., 1, D) float64 of (..., N, D) features; a constant one has an infinite deviation.

    Raises:
        ValueError: no image, or features that are not finite.
    """
    if not features.shape[-2] or not torch.isfinite(features).all():
        raise ValueError("a linear probe needs at least one image and finite features")
    x = features.detach().double()
    mean, std = x.mean(-2, keepdim=True), x.std(-2, keepdim=True, correction=0)
    return mean, torch.where(std > 1e-7 * mean.abs(), std, torch.inf)


def _principal_axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal axes (P, D, R) of centered (P, N, D), and the mean square along each (P, R); R = min(N, D)."""
    n, d = x.shape[1:]
    if n >= d:
        squares, axes = torch.linalg.eigh(x.transpose(1, 2) @ x / n)
        return axes, squares.clamp(min=0)
    squares, left = torch.linalg.eigh(x @ x.transpose(1, 2) / n)
    empty = squares <= 1e-12 * squares[:, -1:]
    axes = x.transpose(1, 2) @ left / (n * squares.clamp(min=torch.finfo(x.dtype).tiny)).sqrt()[:, None]
    return axes.masked_fill(empty[:, None], 0.0), squares.masked_fill(empty, 0.0)


class _Solver:
    """Preconditioned L-BFGS for P problems side by side, one strength after another; each has its own step length and history.

    Unknowns are (P, C, R + 1): the weights along the axes, then the bias, all divided by ``scale`` (P, 1, R + 1).
    """

    def __init__(self, x: Tensor, labels: Tensor, strengths: Tensor, curvature: Tensor, num_classes: int):
        self.x = torch.cat([x, torch.ones_like(x[..., :1])], 2)
        self.labels, self.num_classes = labels, num_classes
        penalty = torch.cat([strengths[..., None].expand(-1, -1, x.shape[2]), torch.zeros_like(strengths[..., None])], 2)
        start = torch.cat([curvature, torch.ones_like(curvature[:, :1])], 1) / num_classes
        self.penalties = penalty[:, :, None].float()
        self.scales = (1 / (start[:, None] + penalty)).sqrt()[:, :, None].float()

    def minimize(self, tolerance: float) -> tuple[Tensor, Tensor]:
        """Weights and biases along the axes (P, L, C, R + 1), values (P, L); the strongest first, which takes few steps.

        The others start where the line through the two solutions before theirs leads.
        """
        problems, count = self.scales.shape[:2]
        result = self.x.new_zeros(problems, count + 2, self.num_classes, self.x.shape[2])
        objective = result.new_zeros(problems, count, dtype=torch.float64)
        for i in reversed(range(count)):
            before, last = result[:, i + 2], result[:, i + 1]
            start = last if i + 2 >= count else 2 * last - before
            result[:, i], objective[:, i] = self._descend(start, self.scales[:, i], self.penalties[:, i], tolerance)
        return result[:, :count], objective

    def _descend(self, start: Tensor, scale: Tensor, penalty: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        """Solve all problems for one strength; ends when each can gain less than the tolerance."""
        pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=MEMORY)  # of each step: its change of the point, of the gradient
        point = start / scale
        value, gradient = self._evaluate(point, scale, penalty)
        for step in range(MAX_STEPS):
            direction = _direction(gradient, pairs)
            slope = _dot(gradient, direction)
            little = slope >= -2 * tolerance  # what a full step along the direction gains is about half of the slope
            if step >= MIN_STEPS and bool(little.all()):
                break
            new_point, value, new_gradient = self._search(point, value, direction, slope, scale, penalty)
            pairs.append((new_point - point, new_gradient - gradient))
            point, gradient = new_point, new_gradient
        return point * scale, value

    def _search(
        self, point: Tensor, value: Tensor, direction: Tensor, slope: Tensor, scale: Tensor, penalty: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next point, its values and gradients: a full step, halved where it does not lower the objective enough."""
        length = torch.ones_like(slope)
        for _ in range(HALVINGS):
            trial = point + length * direction
            new, gradient = self._evaluate(trial, scale, penalty)
            enough = new <= value + 1e-4 * (length * slope)[..., 0, 0] + 1e-7 * value  # the last term: float32 noise
            if enough.all():
                break
            length = torch.where(enough[..., None, None], length, length / 2)
        return trial, new, gradient

    def _evaluate(self, point: Tensor, scale: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
        """Objectives (P,) float64 and scaled gradients (P, C, R + 1) at ``point``."""
        weight = point * scale
        problems, classes = weight.shape[:2]
        total, gradient = weight.new_zeros(problems, dtype=torch.float64), torch.zeros_like(weight)
        at_once = 2**26 if weight.is_cuda else 2**17  # logits that fit a CPU's cache
        rows = max(64 if classes < MANY else 512, at_once // (problems * classes))
        for x, labels in zip(torch.split(self.x, rows, 1), torch.split(self.labels, rows, 1), strict=True):
            logs = torch.log_softmax(weight @ x.transpose(1, 2), 1)
            own = labels[:, None]
            total -= logs.gather(1, own).sum((1, 2), dtype=torch.float64)
            excess = logs.exp_().scatter_add_(1, own, logs.new_full((), -1.0).expand(own.shape))
            gradient.baddbmm_(excess, x)
        n = self.x.shape[1]
        value = total / n + 0.5 * (penalty * weight * weight).sum((1, 2), dtype=torch.float64)
        return value, (gradient / n + penalty * weight) * scale


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the unknowns of each problem (P, 1, 1)."""
    return (a * b).sum((1, 2), keepdim=True)


def _direction(gradient: Tensor, pairs: deque[tuple[Tensor, Tensor]]) -> Tensor:
    """Minus the inverse-Hessian estimate of L-BFGS times the gradient (two-loop recursion).

    The estimate starts at the identity, which is right at weights of zero, then at the curvature of the last step. A pair
    without curvature (rounding) counts for nothing.
    """
    q, stack, start = gradient, [], None
    for s, y in reversed(pairs):
        curvature = _dot(s, y)
        rho = torch.where(curvature > 0, 1 / curvature, 0.0)
        alpha = rho * _dot(s, q)
        q = q - alpha * y
        stack.append((s, y, rho, alpha))
        start = torch.where(curvature > 0, curvature / _dot(y, y), 1.0) if start is None else start
    if start is not None:
        q = q * start.clamp(1e-3, 1e4)
    for s, y, rho, alpha in reversed(stack):
        q = q + s * (alpha - rho * _dot(y, q))
    return -q
