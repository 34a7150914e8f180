"""The conclusions in words: whether training was worth it, which encoder is best, and what the numbers cannot tell."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssl_core.networks import network
from tasks import by_few, few_labels, starts, worth
from tasks.cautions import CAUTION, how_few, in_groups, share_in_words, unequal_classes
from tasks.choice import candidates
from tasks.results import Result, Row
from tasks.trainings import advice
from tasks.verdict import Verdict, judge

if TYPE_CHECKING:
    from ssl_core.evaluation.comparison import Difference

GIVES = {
    "raw_pixels": "The raw pixels give",
    "random_init": "An untrained encoder gives",
    "pretrained": "An ImageNet encoder off the shelf gives",
    "dinov2": "DINOv2 off the shelf gives",
    "start": "What training started from gives",
    "supervised": "Training it with all the labels gives",
}


NOTHING_OFF_THE_SHELF = "Features off the shelf were not compared; the row pretrained has those of an ImageNet encoder."
FROM_WEIGHTS = (
    "Or let training start from such weights (docs/weights.md): on all three sets of docs/worth.md that went further in the"
    " same time than a random start."
)


def worth_it(verdict: Verdict, brief: bool = False) -> list[str]:
    """Whether training on these images was worth it: the answer, and what the test says to it; without labels, what chose.

    Args:
        brief: without the intervals that the report's table of budgets has.

    Returns:
        Nothing without a method, or where all have collapsed.
    """
    if verdict.best is None and any(not r.is_baseline and not r.is_collapsed for row in verdict.rows for r in row.results):
        return [few_labels.sentence(None), worth.without_labels()]
    if verdict.best is None or verdict.row is None:
        return []
    if verdict.budgets:
        said = worth.answer(verdict.budgets, brief), worth.check(verdict.budgets, brief)
        return [text for text in (*said, "" if verdict.shelf else NOTHING_OFF_THE_SHELF) if text]
    if verdict.row.mean("holdout_linear_top1") is not None:
        return []
    if verdict.budget_of_few:
        told = by_few.answer(verdict.budget_of_few, verdict.best.method)
    else:
        why = verdict.unproven or "no row that needs no training is among run.methods"
        told = f"Nothing tells yet whether training on your images is worth it: {why}."
    return [told, few_labels.sentence(verdict.best.few)]


def sentences(verdict: Verdict) -> list[str]:
    """What else is said in words, what matters most first; without test labels, what speaks against the best."""
    best, row = verdict.best, verdict.row
    if best and best.few:
        warned = [_warning(verdict, best)] if verdict.in_doubt else []
        return [*warned, *_about_starts(verdict), *_not_told(verdict, "by these labels")]
    if best is None or row is None:
        return []
    if row.mean("linear_top1") is None:
        return [_warning(verdict, best)] if verdict.in_doubt else []
    count, interval = sum(not r.is_baseline for r in verdict.rows), verdict.standings[row.method].intervals.get("linear")
    what = "comes first" if verdict.in_doubt else "gives the best encoder"
    what = f"{what} of {count} methods" if count > 1 else "is the only method"
    sure = f" (95 % interval {share_in_words(interval[0])} to {share_in_words(interval[1])})" if interval else ""
    held_out = share_in_words(row.mean("holdout_linear_top1")) + (" on average" if len(row.results) > 1 else "")
    found = [_warning(verdict, best)] if verdict.in_doubt else []
    found += [
        f"{best.method} {what}: on its frozen features a linear probe gets"
        f" {share_in_words(row.mean('linear_top1'))}{sure} of the test images right, kNN"
        f" {share_in_words(row.mean('knn_top1'))}.",
        f"It was chosen by its score on held-out training labels, {held_out}, not by the test.{_tied(verdict, row)}",
        *in_groups(best),
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
    """The methods that might be as good as the best one."""
    names = ", ".join(verdict.ties)
    return [f"Not clearly different from {verdict.best.method} {how}: {names}."] if verdict.best and names else []


def caution(verdict: Verdict) -> str:
    """That the champion is not to be used yet, and why; empty where there is nothing to say against it."""
    return _warning(verdict, verdict.best) if verdict.best and verdict.in_doubt else ""


def remarks(verdict: Verdict, results: Sequence[Result] = ()) -> list[str]:
    """What a card says of the encoder that ``judge_one`` compared: first whether it was worth its training.

    Args:
        results: all there are; what trainings started from says by them whether these were worth it.
    """
    best = verdict.best
    if best is None:
        return []
    if best.is_baseline:
        whole = judge(results) if best.name in {r.name for r in candidates(results)} else None
        said = worth_it(whole) + _start_wins(whole) if whole else []
    else:
        said = worth_it(verdict) + ([_warning(verdict, best)] if verdict.in_doubt else [])
    said += _about_starts(verdict, [best])
    return said + [_against(verdict, row) for row in verdict.rows if row.is_baseline and row.mean("linear_top1")]


def _about_starts(verdict: Verdict, results: Sequence[Result] | None = None) -> list[str]:
    """Of these results, by default of all: those that lost what they had started with, and whether a start is the champion."""
    every = [r for row in verdict.rows for r in row.results]
    found = _start_wins(verdict) if results is None else []
    chosen = every if results is None else results
    worse = [r for r in chosen if r.name in verdict.standings[r.method].below_start]
    found += [starts.remark(result, every) for result in worse]
    return [*found, *filter(None, [starts.trained_here(every, verdict.trained), starts.unguarded(chosen, every)])]


def _start_wins(verdict: Verdict) -> list[str]:
    """That the champion is what a training started from; nothing where it is not."""
    taken = verdict.champion
    if taken is None or not taken.is_baseline:
        return []
    if instead := verdict.instead:
        neither = f"by the score that chooses neither training nor {taken.name}, which it started from, is better"
        return [f"Use {instead.name}, {starts.where_from(instead)}: {neither}."]
    return [f"Take {taken.name}, which training started from: by the score that chooses no training is better."]


def _tied(verdict: Verdict, row: Row) -> str:
    """Which methods have the same score as the one that was chosen, and what chose among them; empty without such."""
    names = [r.method for r in verdict.rows if not r.is_baseline and r is not row and r.place == row.place]
    return f" So have {', '.join(names)}; among equals the held-out kNN chose, then the alphabet." if names else ""


def _warning(verdict: Verdict, best: Result) -> str:
    """That the best method is no better than what needs no training, or not shown to be any good, and what to do."""
    longer = "" if best.is_baseline else advice(best.method, best.training)
    if not verdict.not_beaten:
        more = "Label more: python -m tasks.label with a higher --count adds images."
        return f"{CAUTION}: {verdict.unproven}. {longer if best.few and by_few.enough(best.few) else more}"
    name = verdict.not_beaten[0]
    to_do = longer or f"Take {worth.noun(name)}."
    standing, what = verdict.standings[name], worth.noun(name)
    ahead = standing.compared
    assert ahead is not None
    verb = "are" if what.endswith("s") else "is"
    if ahead.is_clear and not best.is_baseline:
        to_do = f"Use {what} for now. {to_do}"
    if any(row.method == name for row in verdict.shelf) and not best.is_baseline and not _weights(best):
        to_do += f" {FROM_WEIGHTS}"
    how = f"better than {best.method}" if ahead.mean < 0 else f"not clearly worse than {best.method}"
    how += "" if ahead.is_clear or ahead.mean >= 0 else ", though not clearly"
    if best.few:
        share = {row.method: share_in_words(by_few.share(row)) for row in verdict.rows}
        shares = f"R2 {share[name]} against {share[best.method]}"
        return f"{CAUTION}: by {best.few.labels:,} labels {what} {verb} {how}, {shares}. {to_do}"
    images = "held-out" if standing.behind is None else "test"
    return f"{CAUTION}: {what} {verb} {how}; {worth.counted(ahead, best.method, what, images)}. {to_do}"


def _against(verdict: Verdict, row: Row) -> str:
    """A baseline's scores, and whether they differ from the best method's."""
    ahead, gives = verdict.standings[row.method].ahead, GIVES.get(row.method, f"The row {row.method} gives")
    best = verdict.best
    same = best is not None and network(row.best.training.network) == network(best.training.network)
    if row.method == "random_init" and same:
        gives = "The same network untrained gives"
    if row.method == "supervised" and any(r.training.epochs == 0 for r in row.results):
        gives = "The supervised encoder, untrained here without labels of the images that it would be trained on, gives"
    elif row.method == "supervised" and best and not (same and _weights(row.best) == _weights(best)):
        which = "The same network" if same else f"Another network ({row.best.training.network.get('name')})"
        gives = f"{which}, trained with all the labels from {_weights(row.best) or 'a random start'}, gives"
    parts = [
        f"{share_in_words(row.mean(f'{key}_top1'))} by {kind}{f' ({_relation(ahead[key])})' if key in ahead else ''}"
        for key, kind in (("linear", "linear probe"), ("knn", "kNN"))
    ]
    return f"{gives} {' and '.join(parts)}."


def _weights(result: Result) -> str | None:
    """What its training started from; None: at random."""
    return result.training.network.get("weights")


def _relation(ahead: "Difference") -> str:
    if not ahead.is_clear:
        return "no clear difference"
    return "clearly less" if ahead.mean > 0 else "clearly more"
