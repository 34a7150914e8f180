"""What to know of numbers that stand on few images, or on classes of unequal size; and a row's verdict in a word."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks import starts
from tasks.results import Result, Row
from tasks.worth import FEW_IMAGES, LEAST_CLEAR

if TYPE_CHECKING:
    from tasks.verdict import Standing

UNEQUAL = 1.5
"""Times its even share of the images from which on the most frequent class is worth a word."""


def share_in_words(share: float | None) -> str:
    """``72.2 %``; a dash for None."""
    return "–" if share is None else f"{100 * share:.1f} %"


def how_few(best: Result) -> list[str]:
    """What so few labelled images cannot tell; nothing where there are enough."""
    counts = [(best.metrics.protocol.get(f"{key}_labels"), what) for key, what in (("holdout", "held-out"), ("test", "test"))]
    few = [(n, what) for n, what in counts if n and n < FEW_IMAGES]
    if not few:
        return []
    weights = " and ".join(f"one of the {n} {what} images is {100 / n:.1f} points" for n, what in few)
    count, what = few[-1]
    least = f" below {100 * LEAST_CLEAR / count:.0f} points" if count >= LEAST_CLEAR else ""
    return [f"Few images tell little: {weights}; no difference{least} is clear on {count} {what} images."]


def unequal_classes(row: Row, rows: Sequence[Row]) -> list[str]:
    """What naming the most frequent class would get, and the scores with each class counted alike; nothing where classes are
    of about one size."""
    majority, recalls = row.best.metrics.score("majority_top1"), row.best.metrics.score("per_class") or []
    if majority is None or majority * sum(recall is not None for recall in recalls) < UNEQUAL:
        return []
    shown = [row, *(other for other in rows if other.is_baseline)]
    each = [f"{r.method} {share_in_words(balanced)}" for r in shown if (balanced := r.mean("linear_balanced")) is not None]
    return [
        f"Always naming the most frequent class would be right on {share_in_words(majority)} of the test images. With each"
        f" class counted alike the linear probe gets: {', '.join(each)}."
    ]


def verdict_text(row: Row, standing: "Standing") -> str:
    """Whether a method was worth its training; before that, whether its features are healthy and no worse than its start.

    A dash for a healthy baseline.
    """
    if row.verdict == "healthy" and standing.below_start:
        return starts.WORSE
    if row.verdict != "healthy" or (standing.answer is None and not row.is_baseline):
        return row.verdict
    return str(standing.answer or "–")
