"""Which encoder to take: a method's or, where a training started from weights, those weights if none is better.

So the encoder that people take home is never below what its training started from, by the held-out score.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from ssl_core.networks import network
from tasks import few_labels
from tasks.results import Result, merit, place, precedence, ranked, trained


def is_start(start: Result, trained: Result) -> bool:
    """Whether ``start`` is the frozen encoder that ``trained`` was before its training."""
    weights = trained.metrics.protocol.get("start_sha256")
    same = weights is not None and start.metrics.protocol.get("start_sha256") == weights
    return (
        same
        and not start.training.epochs
        and bool(trained.training.epochs)
        and network(start.training.network) == network(trained.training.network)
    )


def start_of(result: Result, results: Iterable[Result]) -> Result | None:
    """The frozen encoder among ``results`` that ``result`` was before its training; None if it started at random or is that."""
    return next((r for r in results if is_start(r, result)), None)


def candidates(results: Sequence[Result]) -> list[Result]:
    """Whom people may take home: the methods, and the rows that a method among ``results`` started from.

    The seeds of a row mostly have the same weights; the first seed stands for those.
    """
    methods = [r for r in results if not r.is_baseline]
    made = trained(methods)  # a start that is one of these was trained here
    rows = [r for r in results if r.is_baseline and any(is_start(r, method) for method in methods)]
    rows = [r for r in rows if r.metrics.encoder_sha256 not in made]
    once = {(r.method, r.metrics.encoder_sha256): r for r in sorted(rows, key=lambda r: -r.seed)}
    return methods + list(once.values())


def champion(results: Sequence[Result]) -> Result | None:
    """The encoder to take: the best seed of the candidate with the most ``merit`` on average; None without labels, or where
    there are a few and it predicts none of them."""
    best = _most_merit(candidates(results))
    return best if best and not _is_silent(best, results) else None


def _is_silent(best: Result, results: Sequence[Result]) -> bool:
    found = [r.few.explained for r in results if r.method == best.method and r.few and not r.is_collapsed]
    return bool(found) and sum(found) <= 0


def why_none(results: Sequence[Result]) -> str:
    """Why ``champion`` names none."""
    taken = candidates(results)
    best = _most_merit(taken)
    if best and best.few:
        return f"Of the methods {best.name} comes first, and {few_labels.in_words(best.few)}: label more, or train longer."
    if any(not r.is_collapsed for r in taken):
        return few_labels.sentence(None)
    if taken:
        return "Every encoder has collapsed."
    return "No method has been evaluated: list one in run.methods, or see why it failed."


def best_method(results: Iterable[Result]) -> Result | None:
    """The best seed of the method with the most ``merit`` on average; None without labels, or if all have collapsed."""
    return _most_merit(r for r in results if not r.is_baseline)


def _most_merit(results: Iterable[Result]) -> Result | None:
    return best_of(r for r in results if merit(r) is not None)


def best_of(results: Iterable[Result]) -> Result | None:
    """The best seed of the row that comes first, so that no method is chosen for one lucky seed; None if all have collapsed.

    Of equal rows a start comes first, then the one with the better held-out kNN, then the first by name.
    """
    results = list(results)
    rows = {row.method: row for row in ranked(results)}
    sound = [r for r in results if not r.is_collapsed]

    def order(result: Result) -> tuple[Any, ...]:
        return *precedence(rows[result.method]), -place(result), result.seed

    return min(sound, key=order, default=None)
