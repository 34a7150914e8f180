"""What a few labels tell where the data have none: which encoders differ, and whether training was worth it.

Each label has a share of the R2 (``tasks.few_labels``), so two encoders are compared label by label, by a bootstrap of the
labelled images, whose interval is widened. The labels that compare have chosen the method too, and no test checks them: so
"worth it" is said only of a difference that the best of so many equal methods would not show. docs/label-free.md says how
often a test with all labels contradicts.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tasks.cautions import share_in_words
from tasks.columns import FEW_LABELS
from tasks.few_labels import Few
from tasks.results import Row
from tasks.worth import EQUAL, IF, RESAMPLES, Answer, Budget, noun, points

if TYPE_CHECKING:
    from ssl_core.evaluation.comparison import Difference

FEW = "few"
"""The budget of a few labels."""
TELLING = 50
"""Labels from which on the interval of a difference holds; docs/label-free.md says how often."""
RARE = 10
"""Labels that must not be of the most frequent class: a bootstrap of fewer says nothing about them."""
WIDER = 1.3
"""By which the interval of a difference is wider than the bootstrap's. Each share of the R2 is of a regression on all the other
labels, so the shares hang together, and one bootstrap of them called 13 to 16 of 100 pairs of equal encoders different
(tests/tasks/test_by_few.py simulates it)."""
LEVEL = 0.05
"""Of the test of a gain, all methods together."""
REACHABLE = 4
"""Times as many labels as there are: where more would be needed, nobody is sent to label them."""


def enough(few: Few) -> bool:
    """Whether encoders can be compared by so many labels."""
    return few.units >= TELLING and few.others >= RARE


def explained(row: Row) -> np.ndarray | None:
    """(S, n) how much of each of the few labels is explained; None where there are none, or they are too few to compare by."""
    found = [r.few for r in row.results if r.few]
    return np.stack([few.each for few in found]) if found and enough(found[0]) else None


def share(row: Row) -> float | None:
    """How much of them all is explained, on average over the seeds; None where there are none."""
    return row.mean(FEW_LABELS.name)


def ahead(first: Row, second: Row) -> "Difference | None":
    """How much more the first row explains; None where these labels tell nothing, as where neither explains any."""
    own, other = explained(first), explained(second)
    if own is None or other is None or first is second or own.shape[1] != other.shape[1] or max(own.mean(), other.mean()) <= 0:
        return None
    import torch

    from ssl_core.evaluation import comparison

    groups = first.best.few.groups if first.best.few else None
    together = None if groups is None else torch.from_numpy(groups)
    return widened(comparison.of_means(torch.from_numpy(own), torch.from_numpy(other), RESAMPLES, 0, together))


def widened(found: "Difference") -> "Difference":
    """The difference with the interval that holds, and its p."""
    from ssl_core.evaluation import intervals

    low, high = (found.mean + WIDER * (edge - found.mean) for edge in (found.low, found.high))
    away = abs(found.mean) * 2 / (high - low) if high > low else math.inf if found.mean else 0.0  # in halves of the interval
    if found.groups == 1:
        p = 1.0
    elif found.groups:
        p = intervals.student_p(away * intervals.student_t(found.groups), found.groups)
    else:
        p = math.erfc(away * 1.96 / math.sqrt(2))
    return replace(found, low=low, high=high, p=p, least_p=0.0)


def budget(first: Row, free: Sequence[Row], methods: int) -> Budget | None:
    """``first`` against the row of ``free`` that explains most; None where these labels tell nothing of it.

    Args:
        methods: of how many it is the best. A gain is one where none of so many equals would show it (Bonferroni).
    """
    rivals = [row for row in free if explained(row) is not None]
    over = max(rivals, key=lambda row: row.place, default=None)
    gains = {row.method: gain for row in rivals if (gain := ahead(first, row))}
    found = gains.get(over.method) if over else None
    if not over or not found or not first.best.few:
        return None
    beside = {name: gain.mean for name, gain in gains.items() if gain.mean <= 0 or gain.p > LEVEL / methods}
    unbeaten = min(beside, key=beside.__getitem__, default=None)
    return Budget(FEW, over.method, found, first.best.few.labels, None, unbeaten=unbeaten)


def silent(row: Row) -> str:
    """Why these labels do not say that a row is any good, in a clause; empty where they do."""
    few, found = row.best.few, share(row)
    if few is None or found is None:
        return ""
    if few.units < TELLING:
        of = f"{few.labels} labels" + (f" of {few.units} groups" if few.groups is not None else "")
        enough = f"{TELLING} or more" + (" groups" if few.groups is not None else "")
        return f"{of} are too few to tell {row.method} from what needs no training, {enough} tell"
    if few.others < RARE:
        return f"only {few.others} of {few.labels:,} labels are not of the most frequent class, too few to compare by"
    return f"the features of {row.method} predict nothing of the labels (R2 {share_in_words(found)})" if found <= 0 else ""


def answer(found: Budget, method: str) -> str:
    """Whether training was worth it by these labels, in one sentence."""
    over, gain = noun(found.over), f"what {method} explains of them is {points(found.held_out)}"
    begins = f"{found.images:,} labels do not tell whether training on your images is worth it"
    if found.is_unconfirmed:
        return (
            f"{begins}: {gain} over {over}, which the best of so many methods may be by chance; twice as many labels tell more."
        )
    if found.answer is Answer.UNKNOWN:
        return f"{begins}: {gain} against {over}; {_more(found)}."
    begins = f"Training on your images is {found.answer} by {found.images:,} labels"
    return f"{begins}, use {over}: {gain} against {over}." if found.answer is Answer.NO else f"{begins}: {gain} over {over}."


def _more(found: Budget) -> str:
    """How many labels would tell, as far as a reasonable number would."""
    if found.more is None:
        return EQUAL
    wanted = found.images + max(found.more, math.ceil(0.1 * found.images))
    how = " (python -m tasks.label --count adds images to those with labels)" if wanted <= REACHABLE * found.images else ""
    return f"about {wanted:,} would, {IF}{how}"
