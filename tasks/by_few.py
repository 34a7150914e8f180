"""What a few labels tell where the data have none: which encoders differ, and whether training was worth it.

Each label has a share of the R2 (``tasks.few_labels``), so two encoders are compared label by label, by a bootstrap of the
labelled images. docs/label-free.md says how often a test with all labels contradicts.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tasks.cautions import share_in_words
from tasks.columns import FEW_LABELS
from tasks.few_labels import Few
from tasks.results import Row
from tasks.worth import EQUAL, RESAMPLES, Answer, Budget, noun, points

if TYPE_CHECKING:
    from ssl_core.evaluation.comparison import Difference

FEW = "few"
"""The budget of a few labels."""
TELLING = 50
"""Labels from which on the interval of a difference holds; docs/label-free.md says how often."""
RARE = 10
"""Labels that must not be of the most frequent class: a bootstrap of fewer says nothing about them."""
REACHABLE = 4
"""Times as many labels as there are: where more would be needed, nobody is sent to label them."""


def enough(few: Few) -> bool:
    """Whether encoders can be compared by so many labels."""
    return few.labels >= TELLING and few.others >= RARE


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

    return comparison.of_means(torch.from_numpy(own), torch.from_numpy(other), RESAMPLES, 0)


def budget(first: Row, free: Sequence[Row]) -> Budget | None:
    """``first`` against the row of ``free`` that explains most; None where these labels tell nothing of it."""
    over = max((row for row in free if explained(row) is not None), key=lambda row: row.place, default=None)
    found = ahead(first, over) if over else None
    return Budget(FEW, over.method, found, first.best.few.labels, None) if over and found and first.best.few else None


def silent(row: Row) -> str:
    """Why these labels do not say that a row is any good, in a clause; empty where they do."""
    few, found = row.best.few, share(row)
    if few is None or found is None:
        return ""
    if few.labels < TELLING:
        return f"{few.labels} labels are too few to tell {row.method} from what needs no training, {TELLING} or more tell"
    if few.others < RARE:
        return f"only {few.others} of {few.labels:,} labels are not of the most frequent class, too few to compare by"
    return f"the features of {row.method} predict nothing of the labels (R2 {share_in_words(found)})" if found <= 0 else ""


def answer(found: Budget, method: str) -> str:
    """Whether training was worth it by these labels, in one sentence."""
    over, gain = noun(found.over), f"what {method} explains of them is {points(found.held_out)}"
    if found.answer is Answer.UNKNOWN:
        begins = f"{found.images:,} labels do not tell whether training on your images is worth it"
        return f"{begins}: {gain} against {over}; {_more(found)}."
    begins = f"Training on your images is {found.answer} by {found.images:,} labels"
    return f"{begins}, use {over}: {gain} against {over}." if found.answer is Answer.NO else f"{begins}: {gain} over {over}."


def _more(found: Budget) -> str:
    """How many labels would tell, as far as a reasonable number would."""
    if found.more is None:
        return EQUAL
    wanted = found.images + max(found.more, math.ceil(0.1 * found.images))
    how = " (python -m tasks.label --count adds images to those with labels)" if wanted <= REACHABLE * found.images else ""
    return f"about {wanted:,} would{how}"
