"""Trainings beside the weights that they started from: has one lost more than chance explains?

The row to compare with is a frozen encoder with the same weights: ``pretrained``, or whatever trains for 0 epochs.
"""

from collections.abc import Sequence

from tasks.results import Result

WORSE = "worse than its start"
RESAMPLES = 1000


def start_of(result: Result, results: Sequence[Result]) -> Result | None:
    """The frozen encoder among ``results`` that ``result`` was before its training; None if it started at random or is that."""
    weights = result.metrics.protocol.get("start_sha256")
    same = [r for r in results if weights and r.metrics.protocol.get("start_sha256") == weights]
    return next((r for r in same if not r.training.epochs and result.training.epochs), None)


def standing(result: Result, results: Sequence[Result]) -> str | None:
    """``worse than its start`` where the start's linear probe is clearly right on more of the same test images, else None."""
    start = start_of(result, results)
    ours, theirs = result.right.get("linear"), start.right.get("linear") if start else None
    if ours is None or theirs is None or len(ours) != len(theirs):
        return None
    import torch  # it takes seconds, and few results have a start

    from ssl_core.evaluation.comparison import difference

    lost = difference(torch.from_numpy(theirs)[None], torch.from_numpy(ours)[None], RESAMPLES, 0)
    return WORSE if lost.is_clear and lost.mean > 0 else None


def remarks(results: Sequence[Result], beside: Sequence[Result]) -> list[str]:
    """A sentence for each of ``results`` that is worse than its start among ``beside``."""
    worse = [r for r in results if standing(r, beside)]
    return [f"{r.name} is {WORSE}, the row {start.method}: use that." for r in worse if (start := start_of(r, beside))]
