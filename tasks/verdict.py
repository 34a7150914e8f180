"""What the results say: which differences are more than chance, and whether the best encoder is worth using.

Everything is read off the stored predictions: which test images each row gets right (``ssl_core/evaluation/comparison.py``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tasks import by_few, starts, worth
from tasks.choice import best_method, champion
from tasks.results import Result, Row, free_rows, ranked, trained
from tasks.worth import RESAMPLES, Answer, Budget

if TYPE_CHECKING:
    from torch import Tensor

    from ssl_core.evaluation.comparison import Difference


HELD_OUT = "held_out"


@dataclass(frozen=True)
class Standing:
    """A row beside the best method, on the same test images. Empty where there are no predictions."""

    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Of ``linear`` and ``knn``: 95 %, over seeds and test images."""
    ahead: Mapping[str, "Difference"] = field(default_factory=dict)
    """Of both, and of the ``few`` labels where the data have none: the best method minus this row. Without labelled test
    images, of what is ``held_out``."""
    answer: Answer | None = None
    """Of a method: whether its training is worth it, by a probe on all labels or by the few."""
    below_start: tuple[str, ...] = ()
    """Names of its trainings that are clearly worse than the weights they started from."""
    gains: Mapping[str, float] = field(default_factory=dict)
    """What the linear probe gained on the test images over those weights, by the name of the training."""

    @property
    def behind(self) -> "Difference | None":
        """The best method minus this row by linear probe or, where the data have no labels, by the few."""
        return self.ahead.get("linear") or self.ahead.get(by_few.FEW)

    @property
    def compared(self) -> "Difference | None":
        """``behind``; without labelled test images, by the held-out ones, which chose."""
        return self.behind or self.ahead.get(HELD_OUT)

    @property
    def ties(self) -> bool:
        """Whether it cannot be told from the best method."""
        return self.behind is not None and not self.behind.is_clear


@dataclass(frozen=True)
class Verdict:
    """What the table says."""

    rows: tuple[Row, ...]
    """Best first."""
    best: Result | None
    """The best encoder of the methods."""
    champion: Result | None
    """The encoder to take: that one, or what a training started from where none is better."""
    standings: Mapping[str, Standing]
    """By method."""
    methods: int = 1
    """Of how many methods the best was chosen."""
    trained: Mapping[str, str] = field(default_factory=dict)
    """The encoders that methods trained, by the hash of their weights; those of other methods than are in the rows, too."""

    @property
    def row(self) -> Row | None:
        """That of the best encoder's method."""
        return next((row for row in self.rows if self.best and row.method == self.best.method), None)

    @property
    def free(self) -> list[Row]:
        """The baselines that need neither training nor labels."""
        return free_rows(self.rows, self.trained)

    @property
    def shelf(self) -> list[Row]:
        """Those that are encoders off the shelf."""
        return [row for row in self.free if "start_sha256" in row.best.metrics.protocol]

    @cached_property
    def budgets(self) -> list[Budget]:
        """Whether training was worth it, for each budget of labels."""
        return worth.budgets(self.row, self.free) if self.row else []

    @cached_property
    def budget_of_few(self) -> Budget | None:
        """The same by a few labels."""
        return by_few.budget(self.row, self.free, self.methods) if self.row else None

    @cached_property
    def unproven(self) -> str:
        """Why the few labels that chose the best method do not say that it is any good; empty where they do."""
        return by_few.silent(self.row) if self.row and self.best and self.best.few else ""

    @property
    def in_doubt(self) -> bool:
        """Whether there is something to say against using the best method."""
        return bool(self.not_beaten or self.unproven)

    @property
    def not_beaten(self) -> list[str]:
        """The baselines that cost nothing and that the best method is not clearly above, the best one first."""
        known = {row.method: self.standings[row.method].compared for row in self.free}
        found = {m: ahead.mean for m, ahead in known.items() if ahead and not (ahead.is_clear and ahead.mean > 0)}
        return sorted(found, key=lambda method: found[method])

    @property
    def instead(self) -> Result | None:
        """An encoder off the shelf that the champion is not above by the score that chooses, and that costs no training."""
        own = next((row for row in self.rows if self.champion and row.method == self.champion.method), None)
        first = max((row for row in self.shelf if row is not own), key=lambda row: row.place, default=None)
        return first.best if first and own and first.place >= own.place else None

    @property
    def ties(self) -> list[str]:
        """Methods that cannot be told from the best."""
        return [r.method for r in self.rows if not r.is_baseline and r is not self.row and self.standings[r.method].ties]

    def below_pixels(self, column: str) -> int | None:
        """How many methods have a lower mean than the raw pixels; None without them."""
        values = {row.method: row.mean(column) for row in self.rows if not row.is_baseline or row.method == "raw_pixels"}
        pixels = values.pop("raw_pixels", None)
        return None if pixels is None else sum(value is not None and value < pixels for value in values.values())


def judge(results: Sequence[Result], best: Result | None = None, among: Sequence[Result] = ()) -> Verdict:
    """Compare every row with the method of ``best``, by default the best one.

    Args:
        among: the results of which that was chosen; default ``results``.
    """
    among = among or results
    made, methods = trained(among), max(1, len({r.method for r in among if not r.is_baseline}))
    rows, best = tuple(ranked(results)), best or best_method(results)
    first, free = next((row for row in rows if best and row.method == best.method), None), free_rows(rows, made)
    standings = {row.method: _standing(row, first, free, results, methods) for row in rows}
    return Verdict(rows, best, champion(results), standings, methods, made)


def judge_one(result: Result, results: Sequence[Result]) -> Verdict:
    """Compare one encoder with the baselines among ``results``."""
    others = [r for r in results if r is not result and (r.method == result.method or r.is_baseline)]
    return judge([result, *others], result, results)


def _standing(row: Row, first: Row | None, free: Sequence[Row], results: Sequence[Result], methods: int) -> Standing:
    intervals, ahead = {}, {}
    for kind in ("linear", "knn"):
        own, other = _right(row, kind), None if first is None or first is row else _right(first, kind)
        if own is None:
            continue
        from ssl_core.evaluation import comparison  # torch takes seconds: only where there is something to compare

        groups = row.best.groups("test", own.shape[1])
        resamples = row.best.metrics.protocol.get("resamples", RESAMPLES)
        known = row.best.metrics.interval(kind) if len(row.results) == 1 else None  # the one that stands beside its number
        intervals[kind] = known or comparison.interval(own, resamples, 0, groups)
        if other is not None and other.shape[1] == own.shape[1]:
            ahead[kind] = comparison.difference(other, own, resamples, 0, groups)
    if first and (beside := by_few.ahead(first, row)):
        ahead[by_few.FEW] = beside
    if first and first is not row and not intervals and (on_held_out := worth.budget(first, [row], worth.ALL)):
        ahead[HELD_OUT] = on_held_out.held_out
    own_budget = None if row.is_baseline else worth.budget(row, free, worth.ALL) or by_few.budget(row, free, methods)
    worse = tuple(r.name for r in row.results if starts.standing(r, results))
    gains = {r.name: gain for r in row.results if (gain := starts.gain(r, results)) is not None}
    return Standing(intervals, ahead, own_budget.answer if own_budget else None, worse, gains)


def _right(row: Row, kind: str) -> "Tensor | None":
    """(S, M) bool: which test images the predictions of each seed get right; None where some seed has none."""
    found = [result.right.get(kind) for result in row.results]
    seeds = [right for right in found if right is not None]
    if len(seeds) < len(found) or not seeds or len({len(right) for right in seeds}) > 1:
        return None
    import torch

    return torch.from_numpy(np.stack(seeds))
