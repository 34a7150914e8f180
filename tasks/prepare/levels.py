"""How many levels of grey are left of deep images in 8 bits: few, where their values lie close together or are small.

The levels count that ``MOST`` of the pixels are spread over. A pixel that is broken, or one in twenty that means "nothing
here", has levels of its own and shows nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
SAMPLED = 2**13
"""Values of a picture that stand for all of them."""
MOST = 0.9
FEW = 32
"""Levels left, of the 256 of 8 bits. A flat photograph has twice as many."""
LOST = 4
"""Times as many must have been there before, else the picture was flat."""
BEGINNING = "few levels of grey are left"
"""Of what is told of such images."""


def sample(values: Array, count: int) -> Array:
    """(N, B) of (H, W) or (H, W, B): pixels at equal distances, of about ``count`` values in all at most."""
    flat = values.reshape(-1, values.shape[2] if values.ndim == 3 else 1)
    return flat[:: max(1, values.size // count)]


def left(values: Array, top: int) -> list[int]:
    """How many levels 8 bits leave, and how many there were, in the band that keeps the fewest; empty where it is enough.

    Args:
        values: (H, W) or (H, W, B) whole numbers from 0.
        top: the value that becomes 255; what lies above is cut.
    """
    found = []
    for band in sample(values, SAMPLED).astype(np.int64).clip(0, top).T:
        kept = _spread(np.bincount((band * 255 + top // 2) // top))
        if kept <= FEW and (had := _spread(np.bincount(band))) >= LOST * kept:
            found.append([kept, had])
    return min(found, default=[])


def _spread(counts: Array) -> int:
    """The fewest levels that hold ``MOST`` of the pixels, by the pixels at each level."""
    most_first = np.sort(counts[counts > 0])[::-1].cumsum()
    return int(np.searchsorted(most_first, MOST * most_first[-1])) + 1


def told(found: Sequence[Sequence[int]], first: str, enough: int, depth: int) -> str:
    """What to say of images with few levels left, and what to set.

    Args:
        found: ``left`` of each image.
        first: the name of one.
        enough: bits that ``MOST`` of the pixels of each image need.
        depth: bits that they were scaled from.
    """
    kept, had = (_range(numbers) for numbers in zip(*found, strict=True))
    cut = f", or data.bit_depth: {enough} if what lies above {2**enough - 1} may be cut" if enough < depth else ""
    share = f"{kept} for most of an image where its file has {had} ({first!r} first)"
    return f"{BEGINNING}, {share}; set data.bits: 16 to keep all{cut}"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"
