"""What to know of numbers of few images, of one seed, or of classes of unequal size; and a row's verdict in a word."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks import starts
from tasks.results import Result, Row, known
from tasks.runtime.words import counted
from tasks.worth import FEW_IMAGES, LEAST_CLEAR

if TYPE_CHECKING:
    from tasks.verdict import Standing

SEED_SPREAD = 0.007
"""Standard deviation of a method's linear accuracy over training seeds: root mean square over the methods of
docs/evidence.md (three seeds each, CIFAR-10). It says what one seed cannot: how far another one might lie."""
SEED_NOISE = 1.96 * 2**0.5 * SEED_SPREAD
"""A difference of two trainings that seeds alone exceed in 1 of 20 cases."""
SEED_IMAGES = 1000
"""Test images below which their number says more than the spread of seeds, which was measured on 5,000."""
CAUTION = "Do not use this yet"
"""How a sentence begins that says why the best encoder is not to be used."""
GUESSING = 1.1
"""Times the accuracy of guessing below which a training has learned nothing in its own task."""
UNEQUAL = 1.5
"""Times its even share of the images from which on the most frequent class is worth a word."""


def share_in_words(share: float | None) -> str:
    """``72.2 %``, ``−3.4 %``; a dash for None."""
    return "–" if share is None else f"{100 * share:z.1f} %".replace("-", "−")


def how_few(best: Result) -> list[str]:
    """What so few labelled images cannot tell; nothing where there are enough."""
    known, counts = best.metrics.protocol, []
    for key, what in (("holdout", "held-out"), ("test", "test")):
        groups = known.get(f"{key}_groups")
        counts.append((groups or known.get(f"{key}_labels"), f"groups of {what} images" if groups else f"{what} images"))
    few = [(n, what) for n, what in counts if n and n < FEW_IMAGES]
    if not few:
        return []
    weights = " and ".join(f"one of the {n} {what} is {100 / n:.1f} points" for n, what in few)
    count, what = few[-1]
    if any(what.startswith("groups") for _, what in few):
        return [
            f"Few groups tell little: {weights} on average; fewer than a dozen tell only large differences, one tells none."
        ]
    least = f" below {100 * LEAST_CLEAR / count:.0f} points" if count >= LEAST_CLEAR else ""
    return [f"Few images tell little: {weights}; no difference{least} is clear on {count} {what}."]


def in_groups(best: Result) -> list[str]:
    """That images belong together, where some do, and what follows from it."""
    known = best.metrics.protocol
    if not (groups := known.get("test_groups")):
        return []
    return [
        f"The {known['test_labels']:,} test images are {counted(groups, 'group', 'groups')} (tiles of one picture, or what the"
        " column group says): intervals and comparisons draw whole groups."
    ]


def seed_note(rows: Sequence[Row]) -> str:
    """What one training of each method cannot tell; empty with several."""
    trained = [row for row in rows if not row.is_baseline]
    if not trained or any(len(row.results) > 1 for row in trained) or not known([r.best for r in trained], "linear_top1"):
        return ""
    if any((row.best.metrics.protocol.get("test_labels") or SEED_IMAGES) < SEED_IMAGES for row in trained):
        return ""  # of so few, other things are said
    return (
        f"One seed: trainings of one method differ by {100 * SEED_SPREAD:.1f} points (standard deviation, docs/evidence.md),"
        f" so below about {100 * SEED_NOISE:.0f} points the order of two methods may be the seed's, clear or not:"
        " intervals and tests are of these trainings."
    )


def guesses(result: Result) -> bool:
    """Whether a training hardly did better in its own task than guessing, which needs no label to see."""
    found, chance = result.training.pretext_accuracy, result.training.pretext_chance
    return found is not None and chance is not None and found < GUESSING * chance


def learned_nothing(results: Sequence[Result]) -> list[str]:
    """The trainings of which that is so, a sentence each."""
    return [
        f"{r.name} has learned nothing yet: {share_in_words(r.training.pretext_accuracy)} right in its own task, where guessing"
        f" gets {share_in_words(r.training.pretext_chance)}; train it longer."
        for r in results
        if not r.is_baseline and guesses(r)
    ]


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
        f" class counted alike the linear probe gets: {', '.join(each)}. Shares of the labels are drawn evenly over the"
        " classes, so scores with few of them may lie below that."
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
