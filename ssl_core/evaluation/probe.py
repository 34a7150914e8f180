"""Linear probes: multinomial logistic regression on frozen features, for all regularization strengths side by side.

The problem is convex, so it has no learning rate, no schedule and no seed. Features are standardized and rotated to
their principal axes, where the curvature at weights of zero is diagonal for every strength (as is the bound of Böhning,
"Multinomial logistic regression algorithm", AISM 1992); in coordinates scaled by it, L-BFGS (Nocedal, Math. Comp. 1980)
needs some tens of steps, each two matrix products for all problems together. Strengths between those that are solved start
from a cubic through their solutions and need two or three.
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
COARSE = 5
"""At least so many strengths are solved from weights of zero."""


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
        logits = features.float() @ self.weight.flatten(1, 2).transpose(1, 2) + self.bias.flatten(1)[:, None]
        return logits.view(*logits.shape[:2], *self.bias.shape[1:]).argmax(-1).transpose(1, 2)


def linear_probe(features: Tensor, labels: Tensor, strengths: Tensor, num_classes: int, tolerance: float = 1e-7) -> Probe:
    """Minimize mean cross-entropy + strength / 2 * |W|^2 of standardized features; the bias is free.

    A constant feature gets weight zero. A class without images is never predicted.

    Args:
        features: (P, N, D), P problems side by side; ``labels`` (P, N) int64 in [0, num_classes).
        strengths: (P, L) > 0, in order: the solutions for some are where their neighbors start.
        tolerance: a problem ends when its next step can gain less (half of gradient * H * gradient).

    Raises:
        ValueError: no image, or features that are not finite.
    """
    if not features.shape[1] or not torch.isfinite(features).all():
        raise ValueError("a linear probe needs at least one image and finite features")
    with torch.no_grad():
        x = features.double()
        mean = x.mean(1, keepdim=True)
        std = x.std(1, keepdim=True, correction=0)
        std = torch.where(std > 1e-7 * mean.abs(), std, torch.inf)
        x = (x - mean) / std
        axes, curvature = _principal_axes(x)
        solver = _Solver((x @ axes).float(), labels, strengths.double(), curvature, num_classes)
        rotated, objective = solver.minimize(tolerance)
        weight = rotated[..., :-1].double() @ axes[:, None].transpose(-1, -2) / std[:, None]
        bias = rotated[..., -1].double() - (weight @ mean[:, None].transpose(-1, -2))[..., 0]
    return Probe(weight.float(), bias.float(), objective)


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
    """Preconditioned L-BFGS for P problems with L strengths each; every one has its own step length and history.

    Unknowns are (P, L, C, R + 1): the weights along the axes, then the bias, all divided by ``scale``.
    """

    def __init__(self, x: Tensor, labels: Tensor, strengths: Tensor, curvature: Tensor, num_classes: int):
        self.x = torch.cat([x, torch.ones_like(x[..., :1])], 2)
        self.labels = labels
        penalty = torch.cat([strengths[..., None].expand(-1, -1, x.shape[2]), torch.zeros_like(strengths[..., None])], 2)
        start = torch.cat([curvature, torch.ones_like(curvature[:, :1])], 1) / num_classes
        self.penalty = penalty[:, :, None].float()
        self.scale = (1 / (start[:, None] + penalty)).sqrt()[:, :, None].float()
        self.shape = (*strengths.shape, num_classes, self.x.shape[2])

    def minimize(self, tolerance: float) -> tuple[Tensor, Tensor]:
        """Weights and biases along the axes (P, L, C, R + 1), values (P, L); a coarse grid of strengths, then finer ones."""
        result, count = self.x.new_zeros(self.shape), self.shape[1]
        objective = result.new_zeros(self.shape[:2], dtype=torch.float64)
        step = 1 << max(0, (count // COARSE).bit_length() - 1)
        self._descend(result, objective, torch.arange(0, count, step, device=result.device), tolerance)
        while step > 1:
            step //= 2
            new = torch.arange(step, count, 2 * step, device=result.device)
            result[:, new] = _between(result[:, :: 2 * step], len(new))
            self._descend(result, objective, new, tolerance)
        return result, objective

    def _descend(self, result: Tensor, objective: Tensor, active: Tensor, tolerance: float) -> None:
        """Solve the ``active`` strengths (l,) of all problems in place, from where ``result`` stands.

        They walk side by side. A strength whose problems can all gain less than the tolerance is stored and drops out.
        """
        pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=MEMORY)  # of each step: its change of the point, of the gradient
        point = result[:, active] / self.scale[:, active]
        value, gradient = self._evaluate(point, active)
        for step in range(MAX_STEPS + 1):
            direction = _direction(gradient, pairs)
            slope = _dot(gradient, direction)
            little = slope >= -2 * tolerance  # what a full step along the direction gains is about half of the slope
            solved = little.flatten(1).all(0) & (step >= MIN_STEPS) | (step == MAX_STEPS)
            if solved.any():
                ended, going = active[solved], ~solved
                result[:, ended], objective[:, ended] = (point * self.scale[:, active])[:, solved], value[:, solved]
                if not going.any():
                    return
                active = active[going]
                point, value, gradient, direction, slope = (t[:, going] for t in (point, value, gradient, direction, slope))
                pairs = deque(((s[:, going], y[:, going]) for s, y in pairs), maxlen=MEMORY)
            new_point, value, new_gradient = self._search(point, value, direction, slope, active)
            pairs.append((new_point - point, new_gradient - gradient))
            point, gradient = new_point, new_gradient

    def _search(
        self, point: Tensor, value: Tensor, direction: Tensor, slope: Tensor, active: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next point, its values and gradients: a full step, halved where it does not lower the objective enough."""
        length = torch.ones_like(slope)
        for _ in range(HALVINGS):
            trial = point + length * direction
            new, gradient = self._evaluate(trial, active)
            enough = new <= value + 1e-4 * (length * slope)[..., 0, 0] + 1e-7 * value  # the last term: float32 noise
            if enough.all():
                break
            length = torch.where(enough[..., None, None], length, length / 2)
        return trial, new, gradient

    def _evaluate(self, point: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """Objectives (P, l) float64 and scaled gradients (P, l, C, R + 1) at ``point`` for the ``active`` strengths."""
        scale, penalty = self.scale[:, active], self.penalty[:, active]
        weight = point * scale
        problems, count, classes = weight.shape[:3]
        flat, total = weight.flatten(1, 2), weight.new_zeros(problems, count, dtype=torch.float64)
        gradient = torch.zeros_like(flat)
        rows = max(64, (2**26 if flat.is_cuda else 2**17) // (problems * count * classes))  # logits that fit a CPU's cache
        for x, labels in zip(torch.split(self.x, rows, 1), torch.split(self.labels, rows, 1), strict=True):
            logits = (flat @ x.transpose(1, 2)).view(problems, count, classes, -1)
            own = labels[:, None, None].expand(-1, count, -1, -1)
            logs = torch.log_softmax(logits, 2)
            total -= logs.gather(2, own).sum((2, 3), dtype=torch.float64)
            excess = logs.exp_().scatter_add_(2, own, logs.new_full((), -1.0).expand(own.shape))
            gradient.baddbmm_(excess.flatten(1, 2), x)
        n = self.x.shape[1]
        value = total / n + 0.5 * (penalty * weight * weight).sum((2, 3), dtype=torch.float64)
        return value, (gradient.view_as(weight) / n + penalty * weight) * scale


def _between(known: Tensor, count: int) -> Tensor:
    """``count`` values between those of ``known`` along dim 1, by cubic interpolation; beyond both ends lies a line."""
    first, last = known[:, :1], known[:, -1:]
    before, after = first - known[:, 1:2], last - known[:, -2:-1]
    row = torch.cat([first + before, known, last + after, last + 2 * after], 1)
    return (9 * (row[:, 1 : 1 + count] + row[:, 2 : 2 + count]) - row[:, :count] - row[:, 3 : 3 + count]) / 16


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the unknowns of each problem and strength (P, L, 1, 1)."""
    return (a * b).sum((2, 3), keepdim=True)


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
