"""Randomness that is a pure function of its key (seed, purpose, epoch, step) and the sample id.

No generator state exists, so nothing has to be saved for an exact resume, and the numbers drawn for an image do not
depend on the batch it sits in, on the number of processes or on the device: integers are hashed (``ssl_core.hashing``).
"""

import math

import torch
from torch import Tensor

from ssl_core.hashing import GOLDEN, key, mix, shift


def permutation(n: int, *parts: int, device: torch.device | str = "cpu") -> Tensor:
    """A random order of ``0..n-1`` (n,), a pure function of the key parts."""
    hashed = mix(torch.arange(n, device=device) * GOLDEN + key(*parts))
    return torch.argsort(hashed)  # 64-bit hashes of distinct numbers are distinct: no ties


class Rng:
    """Draws for one batch: each call returns one independent row per sample.

    Args:
        ids: (B,) int64 positions of the images in the training set.
        parts: integers naming the stream, for example ``(seed, epoch)``.
    """

    def __init__(self, ids: Tensor, *parts: int):
        self.ids = ids
        self.parts = parts
        self._draws = 0

    def _next(self) -> int:
        self._draws += 1
        return key(*self.parts, self._draws)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(B, *shape) float32 in [low, high), independent per sample."""
        count = math.prod(shape)
        row = mix(self.ids * GOLDEN + self._next())
        bits = mix(row[:, None] + torch.arange(1, count + 1, device=self.ids.device) * GOLDEN)
        unit = shift(bits, 40).to(torch.float32) * 2.0**-24
        return (low + (high - low) * unit).reshape(len(self.ids), *shape)

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) standard normal float32 (Box-Muller)."""
        radius = torch.sqrt(-2.0 * torch.log1p(-self.uniform(*shape)))
        return radius * torch.cos(2.0 * math.pi * self.uniform(*shape))

    def bernoulli(self, p: float, *shape: int) -> Tensor:
        """(B, *shape) bool, True with probability ``p``."""
        return self.uniform(*shape) < p

    def integers(self, high: int, *shape: int) -> Tensor:
        """(B, *shape) int64 in [0, high)."""
        return (self.uniform(*shape) * high).to(torch.int64).clamp_(max=high - 1)

    def permutation(self, n: int) -> Tensor:
        """(B, n) int64: an independent random order of ``0..n-1`` per sample."""
        return torch.argsort(self.uniform(n), dim=1, stable=True)

    def each(self, parts: int) -> "Rng":
        """A stream for (B * parts) pieces, ``parts`` of every sample one after another, each with draws of its own."""
        ids = self.ids[:, None] * parts + torch.arange(parts, device=self.ids.device)
        return Rng(ids.flatten(), *self.parts, self._next())

    def shared_normal(self, *shape: int) -> Tensor:
        """``shape`` standard normal float32, one draw for the whole batch (the same on every process).

        It still changes every step: the stream parts carry the step.
        """
        lone = Rng(self.ids.new_zeros(1), *self.parts, self._next())
        return lone.normal(*shape)[0]
