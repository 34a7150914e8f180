"""A hash of integers, which all random numbers are made of: the finalizer of SplitMix64.

Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. It is apart from ``ssl_core.rng`` for
whoever shuffles without torch, whose import takes two seconds and 400 MB.
"""

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Integers = TypeVar("Integers", "np.ndarray[Any, np.dtype[np.int64]]", "Tensor")
_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    """The two's-complement int64 with the same 64 bits as ``value``."""
    value &= _MASK
    return value - (1 << 64) if value >= 1 << 63 else value


GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)


def shift(x: Integers, bits: int) -> Integers:
    """Logical right shift of int64 (``>>`` would copy the sign bit)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Integers) -> Integers:
    """Hash each int64 of an array or a tensor; a bijection."""
    x = (x ^ shift(x, 30)) * _MIX1
    x = (x ^ shift(x, 27)) * _MIX2
    return x ^ shift(x, 31)


def key(*parts: int) -> int:
    """Fold integers into one 64-bit key; every part, and its position, matters."""
    state = 0
    for part in parts:
        state = (state * 3 + GOLDEN + part) & _MASK
        state = ((state ^ state >> 30) * _MIX1) & _MASK
        state = ((state ^ state >> 27) * _MIX2) & _MASK
        state ^= state >> 31
    return _signed(state)


def order(n: int, *parts: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """A random order of ``0..n-1`` (n,), a pure function of the key parts; ``ssl_core.rng.permutation`` gives the same."""
    return np.argsort(mix(np.arange(n) * GOLDEN + key(*parts)))  # hashes of distinct numbers are distinct: no ties
