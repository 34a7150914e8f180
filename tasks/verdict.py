"""What may be said of the results: which differences are more than chance, and whether the best encoder is worth using.

Everything is read off the stored predictions: which test images each row gets right (``ssl_core/evaluation/comparison.py``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ssl_core.networks import network
from tasks import few_labels, starts, worth
from tasks.cautions import how_few, share_in_words, unequal_classes
from tasks.choice import best_method, champion
from tasks.results import Result, Row, ranked
from tasks.trainings import advice
from tasks.worth import RESAMPLES, Answer, Budget

if TYPE_CHECKING:
    from torch import Tensor

    from ssl_core.evaluation.comparison import Difference


@dataclass(frozen=True)
class Standing:
    """A row beside the best method, on the same test images. Empty where there are no predictions."""

    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Of ``linear`` and ``knn``: 95 %, over seeds and test images."""
    ahead: Mapping[str, "Difference"] = field(default_factory=dict)
    """Of both, and of the ``few`` labels where the data have none: the best method minus this row."""
    answer: Answer | None = None
    """Of a method: whether its training is worth it, by a probe on all labels or by the few."""
    below_start: tuple[str, ...] = ()
    """Names of its trainings that are clearly worse than the weights they started from."""
    gains: Mapping[str, float] = field(default_factory=dict)
    """What the linear probe gained on the test images over those weights, by the name of the training."""

    @property
    def behind(self) -> "Difference | None":
        """The best method minus this row by linear probe or, where the data have no labels, by the few."""
        return self.ahead.get("linear") or self.ahead.get(worth.FEW)

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

    @property
    def row(self) -> Row | None:
        """That of the best encoder's method."""
        return next((row for row in self.rows if self.best and row.method == self.best.method), None)

    @property
    def free(self) -> list[Row]:
        """The baselines that need neither training nor labels."""
        return [row for row in self.rows if row.is_free]

    @property
    def shelf(self) -> list[Row]:
        """Those that are encoders off the shelf."""
        return [row for row in self.free if "start_sha256" in row.best.metrics.protocol]

    @cached_property
    def budgets(self) -> list[Budget]:
        """Whether training was worth it, for each budget of labels."""
        return worth.budgets(self.row, self.free) if self.row else []

    @cached_property
    def by_few(self) -> Budget | None:
        """The same by a few labels."""
        return worth.budget_of_few(self.row, self.free) if self.row else None

    @property
    def not_beaten(self) -> list[str]:
        """The baselines that cost nothing and that the best method is not clearly above, the best one first."""
        if self.best and self.best.few and self.by_few is None:
            few = {row.method: row.best.few.explained for row in self.free if row.best.few}
            return sorted((m for m, share in few.items() if share >= self.best.few.explained), key=lambda m: -few[m])
        known = {row.method: self.standings[row.method].behind for row in self.free}
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


def judge(results: Sequence[Result], best: Result | None = None) -> Verdict:
    """Compare every row with the method of ``best``, by default the best one."""
    rows, best = tuple(ranked(results)), best or best_method(results)
    first, free = next((row for row in rows if best and row.method == best.method), None), [row for row in rows if row.is_free]
    return Verdict(rows, best, champion(results), {row.method: _standing(row, first, free, results) for row in rows})


def _standing(row: Row, first: Row | None, free: Sequence[Row], results: Sequence[Result]) -> Standing:
    intervals, ahead = {}, {}
    for kind in ("linear", "knn"):
        own, other = _right(row, kind), None if first is None or first is row else _right(first, kind)
        if own is None:
            continue
        from ssl_core.evaluation import comparison  # torch takes seconds: only where there is something to compare

        resamples = row.best.metrics.protocol.get("resamples", RESAMPLES)
        known = row.best.metrics.interval(kind) if len(row.results) == 1 else None  # the one that stands beside its number
        intervals[kind] = known or comparison.interval(own, resamples, 0)
        if other is not None and other.shape[1] == own.shape[1]:
            ahead[kind] = comparison.difference(other, own, resamples, 0)
    if first and (by_few := worth.ahead_by_few(first, row)):
        ahead[worth.FEW] = by_few
    own_budget = None if row.is_baseline else worth.budget(row, free, worth.ALL) or worth.budget_of_few(row, free)
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


# ---------------------------------------------------------------------- words

GIVES = {
    "raw_pixels": "The raw pixels give",
    "random_init": "An untrained encoder gives",
    "pretrained": "An ImageNet encoder off the shelf gives",
    "dinov2": "DINOv2 off the shelf gives",
    "start": "What training started from gives",
    "supervised": "Training it with all the labels gives",
}


def worth_it(verdict: Verdict) -> list[str]:
    """Whether training on these images was worth it: the answer, and what the test says to it; without labels, what chose.

    Returns:
        Nothing without a method, or where all have collapsed.
    """
    if verdict.best is None and any(not r.is_baseline and not r.is_collapsed for row in verdict.rows for r in row.results):
        return [few_labels.sentence(None), worth.without_labels()]
    if verdict.best is None or verdict.row is None:
        return []
    if verdict.budgets:
        said = worth.answer(verdict.budgets), worth.check(verdict.budgets), "" if verdict.shelf else worth.NOTHING_OFF_THE_SHELF
        return [text for text in said if text]
    if verdict.row.mean("holdout_linear_top1") is not None:
        return []
    few = verdict.best.few
    if verdict.by_few:
        return [worth.answer_by_few(verdict.by_few, verdict.best.method), few_labels.sentence(few)]
    return [few_labels.sentence(few), worth.without_labels(few.labels if few else 0)]


def sentences(verdict: Verdict) -> list[str]:
    """What else is said in words, what matters most first; empty without test labels."""
    best, row = verdict.best, verdict.row
    if best and best.few:
        return [*([_warning(verdict, best)] if verdict.not_beaten else []), *_not_told(verdict, "by these labels")]
    if best is None or row is None or row.mean("linear_top1") is None:
        return []
    count, interval = sum(not r.is_baseline for r in verdict.rows), verdict.standings[row.method].intervals.get("linear")
    what = "comes first" if verdict.not_beaten else "gives the best encoder"
    what = f"{what} of {count} methods" if count > 1 else "is the only method"
    sure = f" (95 % interval {share_in_words(interval[0])} to {share_in_words(interval[1])})" if interval else ""
    held_out = share_in_words(row.mean("holdout_linear_top1")) + (" on average" if len(row.results) > 1 else "")
    found = [_warning(verdict, best)] if verdict.not_beaten else []
    found += [
        f"{best.method} {what}: on its frozen features a linear probe gets"
        f" {share_in_words(row.mean('linear_top1'))}{sure} of the test images right, kNN"
        f" {share_in_words(row.mean('knn_top1'))}.",
        f"It was chosen by its score on held-out training labels, {held_out}, not by the test.{_tied(verdict, row)}",
        *how_few(best),
        *unequal_classes(row, verdict.rows),
        *(_against(verdict, row) for row in verdict.rows if row.is_baseline),
    ]
    found += _about_starts(verdict)
    linear, knn = verdict.below_pixels("linear_top1"), verdict.below_pixels("knn_top1")
    if linear is not None:
        found.append(f"Below the raw pixels: {linear} of {count} methods by linear probe, {knn} by kNN.")
    return found + _not_told(verdict, "by linear probe")


def _not_told(verdict: Verdict, how: str) -> list[str]:
    """The methods that might be as good as the best one; nothing where there are none."""
    best, names = verdict.best, ", ".join(verdict.ties)
    return [f"Not clearly different from {best.method} {how}: {names}."] if best and names else []


def caution(verdict: Verdict) -> str:
    """That the champion is not to be used yet, and why; empty where there is nothing to say against it."""
    return _warning(verdict, verdict.best) if verdict.best and verdict.not_beaten else ""


def judge_one(result: Result, results: Sequence[Result]) -> Verdict:
    """Compare one encoder with the baselines among ``results``."""
    others = [r for r in results if r is not result and (r.method == result.method or r.is_baseline)]
    return judge([result, *others], result)


def remarks(verdict: Verdict, results: Sequence[Result] = ()) -> list[str]:
    """What a card says of the encoder that ``judge_one`` compared: first whether it was worth its training.

    Args:
        results: all there are; what trainings started from says by them whether these were worth it.
    """
    best = verdict.best
    if best is None:
        return []
    if best.is_baseline:
        whole = judge(results)
        said = worth_it(whole) + _start_wins(whole)
    else:
        said = worth_it(verdict) + ([_warning(verdict, best)] if verdict.not_beaten else [])
    said += _about_starts(verdict, [best])
    return said + [_against(verdict, row) for row in verdict.rows if row.is_baseline and row.mean("linear_top1")]


def _about_starts(verdict: Verdict, results: Sequence[Result] | None = None) -> list[str]:
    """Of these results, by default of all: those that lost what they had started with, and whether a start is the champion."""
    every = [r for row in verdict.rows for r in row.results]
    found = _start_wins(verdict) if results is None else []
    chosen = every if results is None else results
    worse = [r for r in chosen if r.name in verdict.standings[r.method].below_start]
    found += [starts.remark(result, every) for result in worse]
    return [*found, *filter(None, [starts.unguarded(chosen, every)])]


def _start_wins(verdict: Verdict) -> list[str]:
    """That the champion is what a training started from; nothing where it is not."""
    taken = verdict.champion
    if taken is None or not taken.is_baseline:
        return []
    found = [f"Take {taken.name}, which training started from: by the score that chooses no training is better."]
    return [*found, *([f"{verdict.instead.name}, off the shelf, is no worse than that: use it."] if verdict.instead else [])]


def _tied(verdict: Verdict, row: Row) -> str:
    """Which methods have the same score as the one that was chosen, and what chose among them; empty without such."""
    names = [other.method for other in verdict.rows if not other.is_baseline and other is not row and other.place == row.place]
    return f" So have {', '.join(names)}; among equals the held-out kNN chose, then the alphabet." if names else ""


def _warning(verdict: Verdict, best: Result) -> str:
    """That the best method is no better than what needs no training, and what to do."""
    name = verdict.not_beaten[0]
    to_do = f"Take {worth.noun(name)}." if best.is_baseline else advice(best.method, best.training)
    ahead, what = verdict.standings[name].behind, worth.noun(name)
    verb = "are" if what.endswith("s") else "is"
    if ahead and ahead.is_clear and not best.is_baseline:
        to_do = f"Use {what} for now. {to_do}"
    if best.few:
        theirs = next(row.best.few for row in verdict.free if row.method == name)
        shares = f"{share_in_words(theirs.explained if theirs else None)} against {share_in_words(best.few.explained)}"
        if ahead and not ahead.is_clear:
            said = f"by the few labels {what} {verb} not clearly worse than {best.method}, {shares} of them explained"
        else:
            said = f"{what} explain{'' if verb == 'are' else 's'} more of the few labels than {best.method}, {shares}"
        return f"Do not use this yet: {said}. {to_do}"
    assert ahead is not None
    how = "better" if ahead.is_clear else "not clearly worse"
    return f"Do not use this yet: {what} {verb} {how} than {best.method}; {worth.counted(ahead, best.method, what)}. {to_do}"


def _against(verdict: Verdict, row: Row) -> str:
    """A baseline's scores, and whether they differ from the best method's."""
    ahead, gives = verdict.standings[row.method].ahead, GIVES.get(row.method, f"The baseline {row.method} gives")
    if row.method == "random_init" and verdict.best and _are_one_network(row.best, verdict.best):
        gives = "The same network untrained gives"
    parts = [
        f"{share_in_words(row.mean(f'{key}_top1'))} by {kind}{f' ({_relation(ahead[key])})' if key in ahead else ''}"
        for key, kind in (("linear", "linear probe"), ("knn", "kNN"))
    ]
    return f"{gives} {' and '.join(parts)}."


def _are_one_network(one: Result, other: Result) -> bool:
    return network(one.training.network) == network(other.training.network)


def _relation(ahead: "Difference") -> str:
    if not ahead.is_clear:
        return "no clear difference"
    return "clearly less" if ahead.mean > 0 else "clearly more"
