"""Is training on these images worth it? The best method against what needs no training, for each budget of labels.

The answer is decided on held-out training labels and then checked once on the test images: the same two encoders, image by
image (``ssl_core/evaluation/comparison.py``). The held-out labels chose the method too, which flatters it there, the more so
the more methods there were. So "worth it" needs the test's word, against every row that needs no training.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from ssl_core.catalogue import BASELINES, NOUNS
from tasks.judged import by_encoder
from tasks.results import Row
from tasks.runtime.words import signed

if TYPE_CHECKING:
    from torch import Tensor

    from ssl_core.evaluation.comparison import Difference

ALL = "linear"
"""The budget of all labels: the probe that every table shows."""
RESAMPLES = 1000
"""Of rows whose protocol does not say."""
OF_THE_LABELS = " of the labels"
OTHER = 0.2
"""From which on a share of labels is called by what it is."""
HOPELESS = 100
"""Times as many labels as there are: a difference that needs more is called none."""


class Answer(StrEnum):
    """Whether training is worth it."""

    YES = "worth it"
    NO = "not worth it"
    UNKNOWN = "cannot be told"


@dataclass(frozen=True)
class Budget:
    """The best method minus the best row that needs no training, by linear probes on so many labels."""

    share: str
    """Of the training labels: ``0.01`` as params.yaml asks for, or ``linear`` for all."""
    over: str
    """The row that needs no training."""
    held_out: "Difference"
    images: int
    """Held-out images behind it."""
    test: "Difference | None"
    """The same two on the test images; None without test labels."""
    part: float | None = None
    """The share that it is, where few images of many classes make it another one, for a probe sees some of every class."""

    count: int | None = None
    """The labels that these are, then."""
    unbeaten: str | None = None
    """Of the rows that need no training, the strongest on the test that the method is not clearly above there."""

    @property
    def answer(self) -> Answer:
        """By the held-out labels; that it is worth it needs the test's word too, where there is one."""
        return Answer.UNKNOWN if self.is_unconfirmed else _answer(self.held_out)

    @property
    def is_unconfirmed(self) -> bool:
        """Whether the method gains by the held-out labels, and not clearly on the test."""
        return _answer(self.held_out) is Answer.YES and self.unbeaten is not None

    @property
    def labels(self) -> str:
        """The budget in words."""
        if self.share == ALL:
            return "all labels"
        share = f"{100 * (self.part or float(self.share)):.3g} %"
        return f"{self.count:,} labels ({share})" if self.count else f"{share}{OF_THE_LABELS}"

    @property
    def more(self) -> int | None:
        """How many more held-out images would most likely settle an open question; None where no reasonable number would."""
        from ssl_core.evaluation.comparison import images_to_settle

        wanted = images_to_settle(self.held_out, self.images)
        return None if wanted > HOPELESS * self.images else _rounded(wanted - self.images)

    @property
    def check(self) -> str:
        """What the test says to the held-out labels; empty without test labels."""
        if self.test is None:
            return ""
        found, chose = _answer(self.test), _answer(self.held_out)
        if chose in (found, Answer.UNKNOWN):
            return f"the same: {found}" if found is chose else f"by these: {found}"
        return "not clear there" if found is Answer.UNKNOWN else f"the opposite: {found}"


def budgets(first: Row, free: Sequence[Row]) -> list[Budget]:
    """``first`` against the rows that need no training, for each budget of labels, fewest first.

    Returns:
        Nothing where predictions of held-out images are not there.
    """
    shares = {share for r in first.results for share in r.judged.held_out if share not in (ALL, "knn")}
    few = {share: budget(first, free, share) for share in sorted(shares, key=float)}
    parts = {share: first.best.metrics.seen(share) for share in few}
    found, seen = [], {1.0}
    for share, each in few.items():
        if each and parts[share] not in seen:  # the classes may need the same images for several shares, or all
            seen |= {parts[share]} - {None}
            is_other = parts[share] is not None and abs(parts[share] / float(share) - 1) >= OTHER
            known = first.best.metrics.labels_of(share) if is_other else None
            found.append(replace(each, part=parts[share] if is_other else None, count=known))
    every = budget(first, free, ALL)
    return [*found, every] if every else found


def budget(first: Row, free: Sequence[Row], share: str) -> Budget | None:
    """``first`` against the best of ``free`` on the held-out labels; None where there is nothing to compare."""
    own = _right(first, share, held_out=True)
    rivals = {row.method: (row, right) for row in free if (right := _right(row, share, held_out=True)) is not None}
    rivals = {name: (row, it) for name, (row, it) in rivals.items() if own is not None and _fit(first, row, own, it, share)}
    if own is None or not rivals:
        return None
    over, (row, right) = max(rivals.items(), key=lambda item: np.nanmean(item[1][1]))
    resamples = first.best.metrics.protocol.get("resamples", RESAMPLES)
    held_out = _difference(own, right, share, resamples, first.best.groups("held_out", own.shape[1]))
    asked = [each for each, _ in rivals.values()] if _answer(held_out) is Answer.YES else [row]
    tests = _tested(first, asked, share, resamples)
    beside = {name: found.mean for name, found in tests.items() if _answer(found) is not Answer.YES}
    return Budget(
        share, over, held_out, own.shape[1], tests.get(over), unbeaten=min(beside, key=beside.__getitem__, default=None)
    )


def _tested(first: Row, rows: Sequence[Row], share: str, resamples: int) -> dict[str, "Difference"]:
    """``first`` against each of these rows on the test images, as far as both have such predictions."""
    own, found = _right(first, share, held_out=False), {}
    for row in rows:
        other = _right(row, share, held_out=False)
        if own is not None and other is not None and _fit(first, row, own, other, share):
            found[row.method] = _difference(own, other, share, resamples, first.best.groups("test", own.shape[1]))
    return found


def _right(row: Row, share: str, held_out: bool) -> np.ndarray | None:
    """(S, n) which images are predicted right: a line for each encoder; of a single one, for each choice of few labels."""
    few = share != ALL
    results = [r for r in row.results if r.kept] if few else row.results  # others have the same choices as the kept one
    guesses = [(r.judged.held_out if held_out else r.judged.few if few else r.right).get(share) for r in results]
    known = [np.atleast_2d(guess) for guess in guesses if guess is not None]
    if len(known) < len(guesses) or len({guess.shape[1] for guess in known}) != 1 or not known[0].shape[1]:
        return None
    found = by_encoder(known) if few else np.concatenate(known)
    return None if few and np.isnan(found).all(1).any() else found  # of few images, a choice of labels may leave none to ask


def _fit(first: Row, row: Row, own: np.ndarray, other: np.ndarray, share: str) -> bool:
    """Whether both are of the same images and, of few labels, of as many choices by as many encoders."""
    count, beside = (sum(result.kept for result in each.results) for each in (first, row))
    return own.shape[1] == other.shape[1] and (share == ALL or (own.shape == other.shape and count == beside))


def _difference(first: np.ndarray, second: np.ndarray, share: str, resamples: int, groups: "Tensor | None") -> "Difference":
    import torch

    from ssl_core.evaluation import comparison

    one, other = (torch.from_numpy(np.asarray(right)) for right in (first, second))
    if share == ALL:
        return comparison.difference(one == 1, other == 1, resamples, 0, groups)
    return comparison.paired(one, other, resamples, 0, groups)


def _answer(found: "Difference") -> Answer:
    return Answer.UNKNOWN if not found.is_clear else Answer.YES if found.mean > 0 else Answer.NO


def _rounded(count: float) -> int:
    """With two digits: more would pretend to be known."""
    digits = max(0, int(math.log10(max(1.0, count))) - 1)
    return max(1, math.ceil(count / 10**digits) * 10**digits)


# ---------------------------------------------------------------------- words

LEAST_CLEAR = 6
"""Images on which two encoders must differ, all for the same one, before McNemar's exact test calls it clear: 2 / 2^6 < .05."""
FEW_IMAGES = LEAST_CLEAR / 0.05
"""Images below which no difference of 5 points is ever clear. So few give no estimate of how many more would be needed: its
size depends on how often two encoders differ, and with that few images they differ on a handful."""
LABELS_FOR_5_POINTS = _rounded(0.2 * ((1.96 + 0.84) / 0.05) ** 2)
"""Images on which a difference of 5 points is clear four times in five, where two encoders disagree on every fifth image."""


UNTESTED = (
    "No labelled test images checked this: the held-out labels that decided it chose the method too, which flatters it, the"
    " more so the more methods there are."
)
IF = "if the difference is what it looks like"
EQUAL = "as far as any reasonable number of labels could tell, they are equally good"


def counted(ahead: "Difference", first: str, second: str, images: str = "test") -> str:
    """A paired difference of two rows: ``by linear probe 37 test images are right with simclr alone and 65 with raw pixels
    alone, p = .007``; ``images``: of which they are."""
    sign = "≤" if ahead.p <= ahead.least_p else "="
    p = "p < .001" if ahead.p < 0.001 else f"p {sign} {ahead.p:.3f}".replace("0.", ".", 1)
    if ahead.alone == (0, 0):
        return f"by linear probe they are right on the same {images} images"
    if ahead.alone:
        own, theirs = ahead.alone
        of = f"{own:,} {images} image{' is' if own == 1 else 's are'}"
        return f"by linear probe {of} right with {first} alone and {theirs:,} with {second} alone, {p}"
    return f"by linear probe {points(ahead)}, {p}"


def noun(row: str) -> str:
    """What a row that needs no training is called."""
    return NOUNS.get(row, BASELINES.get(row, row))


def answer(found: Sequence[Budget], brief: bool = False) -> str:
    """The answer in one sentence of plain words.

    Args:
        brief: without intervals, which a table has.
    """
    groups = {answer: [b for b in found if b.answer is answer] for answer in Answer}
    show = briefly if brief else points
    parts = [_part(answer, group, len(group) < len(found), show) for answer, group in groups.items() if group]
    begins = "Training on your images" if parts[0].startswith("is") else "Whether training on your images is worth it"
    return f"{begins} {'; it '.join(parts)}."


def _part(answer: Answer, group: Sequence[Budget], is_one_of_several: bool, show: Callable[["Difference"], str]) -> str:
    where = f" with {_budgets(group)}" if is_one_of_several else ""
    rivals, over = list(dict.fromkeys(noun(b.over) for b in group)), "over" if answer is Answer.YES else "against"
    if where and len(rivals) == 1:  # the budgets are named already, in this order
        numbers = f"{_listed(show(b.held_out) for b in group)} {over} {rivals[0]}"
    elif len(group) > len(rivals) == 1:
        numbers = f"{_listed(f'{show(b.held_out)} with {b.labels}' for b in group)}, all {over} {rivals[0]}"
    else:
        numbers = _listed(f"{show(b.held_out)} {over} {noun(b.over)} with {b.labels}" for b in group)
    if answer is Answer.UNKNOWN:
        by, contradicted = f"by {group[0].images:,} held-out labels", any(b.is_unconfirmed for b in group)
        return f"cannot be told{where}{f': {by}' if contradicted else f' {by}:'} {numbers}; {_why_open(group)}"
    instead = "" if answer is Answer.YES else f", use {_listed(rivals)}"
    return f"is {answer}{where}{instead}: {numbers}"


def _budgets(group: Sequence[Budget]) -> str:
    """``1 % and 10 % of the labels and all labels``."""
    shares = [b.labels.removesuffix(OF_THE_LABELS) for b in group if b.labels.endswith(OF_THE_LABELS)]
    fewer, every = [b.labels for b in group if b.count], [b.labels for b in group if b.share == ALL]
    return _listed([*fewer, *([_listed(shares) + OF_THE_LABELS] if shares else []), *every])


def _why_open(group: Sequence[Budget]) -> str:
    """What the test does not confirm, and how many labels would settle the rest."""
    unconfirmed, others = [b for b in group if b.is_unconfirmed], [b for b in group if not b.is_unconfirmed]
    where = f" with {_budgets(unconfirmed)}" if unconfirmed and others else ""
    rivals = _listed(dict.fromkeys(noun(b.unbeaten) for b in unconfirmed if b.unbeaten)) if unconfirmed else ""
    said = [f"on the test it is not clearly above {rivals}{where}"] if unconfirmed else []
    return "; ".join([*said, *([_more(others)] if others else [])])


def _more(group: Sequence[Budget]) -> str:
    if (group[0].held_out.groups or group[0].images) < FEW_IMAGES:
        return f"so few do not say how many would; about {LABELS_FOR_5_POINTS} unrelated ones tell a difference of 5 points"
    known, never = [b.more for b in group if b.more is not None], [b for b in group if b.more is None]
    if not known:
        return EQUAL
    settled = f"about {max(known):,} more labelled images, held out, would most likely settle it, {IF}"
    return f"{settled}; with {_budgets(never)} {EQUAL}" if never else settled


def check(found: Sequence[Budget], brief: bool = False) -> str:
    """What the test images say to the answer, or that there was no test of a gain; empty where neither is to be said."""
    show = briefly if brief else points
    if not any(b.test for b in found):
        return UNTESTED if any(b.answer is Answer.YES for b in found) else ""
    tested = [(b, b.test) for b in found if b.test]
    numbers = [f"{show(test)} with {b.labels} ({b.check})" for b, test in tested]
    return f"Decided on held-out training labels, then checked on the test images, once: {_listed(numbers)}."


def without_labels() -> str:
    """What can be said where there is no label."""
    return (
        "Without labels nothing tells whether training on your images is worth it. A hundred do where the difference is large"
        f" (python -m tasks.label), class folders where it is small: about {LABELS_FOR_5_POINTS} held-out labels tell one of 5"
        " points, and data.holdout_fraction of the training images are held out (a tenth as shipped)."
    )


def points(found: "Difference") -> str:
    """``+3.1 points (2.0 to 4.2)``."""
    return f"{briefly(found)} ({100 * found.low:z.1f} to {100 * found.high:z.1f})".replace("-", "−")


def briefly(found: "Difference") -> str:
    """``+3.1 points``."""
    return f"{signed(found.mean)} points".replace("-", "−")


def reverse(found: "Difference") -> "Difference":
    """The same, the other way round."""
    return replace(found, mean=-found.mean, low=-found.high, high=-found.low, alone=None)


def _listed(texts: Iterable[str]) -> str:
    *most, last = list(texts)
    return f"{', '.join(most)} and {last}" if most else last
