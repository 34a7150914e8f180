"""t-SNE for a few hundred points: similar rows near one another in the plane."""

import numpy as np

PERPLEXITY = 20.0
ITERATIONS = 300
EXAGGERATED = 100
"""First steps, with the attraction eight times stronger, so that groups form before they settle."""


def tsne(x: np.ndarray) -> np.ndarray:
    """Exact t-SNE (van der Maaten & Hinton, JMLR 9, 2008) from the first two principal components: no random number.

    Args:
        x: (n, D) features, n of a few hundred (memory and time grow with n squared).

    Returns:
        (n, 2) float32. Columns of zeros where ``x`` does not vary.
    """
    x = x.astype(np.float32) - x.mean(0, dtype=np.float32)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    x = u[:, :50] * s[:50]
    if len(x) < 5 or not np.isfinite(x).all() or s[0] < 1e-6:
        return np.pad(x[:, :2], ((0, 0), (0, 2 - min(2, x.shape[1]))))
    p = _similarities(x)
    y = np.zeros((len(x), 2), np.float32)
    y[:, : min(2, x.shape[1])] = x[:, :2] / x[:, 0].std() * 1e-2
    velocity, gain = np.zeros_like(y), np.ones_like(y)
    for step in range(ITERATIONS):
        early = step < EXAGGERATED
        gradient = _gradient(p * 8 if early else p, y)
        gain = np.where(np.sign(gradient) != np.sign(velocity), gain + 0.2, gain * 0.8).clip(0.01)
        velocity = (0.5 if early else 0.8) * velocity - len(x) / 8 * gain * gradient
        y = y + velocity
        y -= y.mean(0)
    return y


def _squared_distances(x: np.ndarray) -> np.ndarray:
    squares = (x * x).sum(1)
    found = (-2 * x) @ x.T
    found += squares
    found += squares[:, None]
    return np.maximum(found, 0, out=found)


def _similarities(x: np.ndarray) -> np.ndarray:
    """Symmetric joint probabilities (n, n); each row's bandwidth is found by bisection to give the perplexity."""
    n = len(x)
    d = _squared_distances(x)
    d /= d.mean() + 1e-12
    others = ~np.eye(n, dtype=bool)
    d = np.maximum(d - np.where(others, d, np.inf).min(1, keepdims=True), 0)
    target = np.log(min(PERPLEXITY, (n - 1) / 3))
    low, high = np.full((n, 1), 1e-4, np.float32), np.full((n, 1), 1e6, np.float32)
    for _ in range(30):
        beta = np.sqrt(low * high)
        p = np.exp(-d * beta) * others
        total = p.sum(1, keepdims=True)
        entropy = np.log(total) + beta * (p * d).sum(1, keepdims=True) / total
        low, high = np.where(entropy > target, beta, low), np.where(entropy > target, high, beta)
    p /= total
    return np.maximum((p + p.T) / (2 * n), 1e-12).astype(np.float32)


def _gradient(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    near = _squared_distances(y)  # in place from here on: this is most of the time of a report
    near += 1
    np.reciprocal(near, out=near)
    np.fill_diagonal(near, 0)
    force = near / near.sum()
    np.subtract(p, force, out=force)
    force *= near
    return 4 * (force.sum(1)[:, None] * y - force @ y)
