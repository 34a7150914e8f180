"""Trainings beside the weights that they started from: has one lost more than chance explains?

The row to compare with is a frozen encoder with the same weights: ``pretrained``, or whatever trains for 0 epochs.
"""

from collections.abc import Mapping, Sequence

from tasks.choice import start_of
from tasks.results import Result
from tasks.runtime.start_rows import ROW
from tasks.worth import RESAMPLES

WORSE = "worse than its start"


def where_from(result: Result | None) -> str:
    """Where the weights of a row come from that needed no training here: others, or an earlier run."""
    source = str(result.metrics.protocol.get("start_source", "")) if result else ""
    return f"from {source}" if source.startswith("models:/") else "off the shelf"


def standing(result: Result, results: Sequence[Result]) -> str | None:
    """``worse than its start`` where the start's linear probe is clearly right on more of the same test images, else None."""
    start = start_of(result, results)
    ours, theirs = result.right.get("linear"), start.right.get("linear") if start else None
    if ours is None or theirs is None or len(ours) != len(theirs):
        return None
    import torch  # it takes seconds, and few results have a start

    from ssl_core.evaluation.comparison import difference

    groups = result.groups("test", len(ours))
    lost = difference(torch.from_numpy(theirs)[None], torch.from_numpy(ours)[None], RESAMPLES, 0, groups)
    return WORSE if lost.is_clear and lost.mean > 0 else None


def gain(result: Result, results: Sequence[Result]) -> float | None:
    """The linear probe's share of the test images minus the start's; None without a start or test labels."""
    start = start_of(result, results)
    ours, theirs = result.get("linear_top1"), start.get("linear_top1") if start else None
    return None if ours is None or theirs is None else ours - theirs


def remark(result: Result, results: Sequence[Result]) -> str:
    """The sentence on a result that is worse than its start among ``results``."""
    start = start_of(result, results)
    return f"{result.name} is {WORSE}, the row {start.method}: use that." if start else ""


def trained_here(results: Sequence[Result], made: Mapping[str, str]) -> str:
    """The sentence on a start among ``results`` that is one of these encoders, by the hash of their weights; else empty."""
    same = [(r.name, made[key]) for r in results if r.is_baseline and r.kept and (key := r.metrics.encoder_sha256) in made]
    return " ".join(
        f"{start} is {name} itself, which was trained here: it is not what that has to be above." for start, name in same
    )


def unguarded(results: Sequence[Result], beside: Sequence[Result]) -> str:
    """The sentence on those of ``results`` that started from weights which no row ``beside`` is; empty if there are none."""
    names = [
        r.name
        for r in results
        if not r.is_baseline and "start_sha256" in r.metrics.protocol and r.training.epochs and not start_of(r, beside)
    ]
    if not names:
        return ""
    row = next((r.name for r in beside if r.method == ROW), "")
    why = f"{row} is of other weights (an alias has moved?): dvc repro -f pretrain@{row}, then make run" if row else ""
    return f"What {', '.join(names)} started from is no row here: {why or 'make run evaluates it, or train again'}."
