"""The columns of the table of results: what was run, the scores of ``ssl_core/evaluation/scores.py``, and what it cost.

A score that is declared there has its column here. Science says what a score is called and whether encoders are compared by
it at first sight (``headline``). Where such scores stand is decided here and in whatever reads ``HEADLINES``:

- every score: leaderboard.csv, the encoder's run in MLflow, the tags of its registered version;
- a headline also: the short table (terminal, leaderboard.md), the report, the model card, the report's run in MLflow and
  the table in Prefect.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ssl_core.evaluation.scores import SCORES, Score

if TYPE_CHECKING:
    from tasks.results import Result

Value = Callable[["Result"], Any]

PRETEXT = Score("pretext_accuracy", "pretext", "share right in the method's own task", "share", "higher", headline=True)
"""Of the last epoch, on augmented training images. Tasks differ, so it compares runs of one method only."""
FEW_LABELS = Score("few_labels_r2", "few labels", "few labels predicted", "share", "higher", headline=True)
"""Of ``tasks.few_labels``, where the data have no labels."""
VERDICT, HEALTH = "verdict", "health"
"""For people the verdict is ``tasks.cautions.verdict_text``. That of the evaluation, on the health of the features, is called
health where both stand."""
BESIDE_ITS_START = ("over_start", "standing")
"""Of a training that started from weights: what its linear probe gained on the test images, and ``worse than its start``."""
HEADLINES = tuple(score for score in SCORES if score.headline)


def _score_columns(score: Score) -> dict[str, Value]:
    """A score's column, and two for its interval if it has one."""

    def edge(end: int) -> Value:
        return lambda result: (result.metrics.interval(score.interval) or (None, None))[end]

    own: dict[str, Value] = {score.name: lambda result: result.metrics.score(score.name)}
    return own | ({f"{score.interval}_low": edge(0), f"{score.interval}_high": edge(1)} if score.interval else {})


COLUMNS: dict[str, Value] = {
    "method": lambda result: result.method,
    "seed": lambda result: result.seed,
    "baseline": lambda result: "yes" if result.is_baseline else "",
    "encoder": lambda result: result.metrics.encoder,
    "epochs": lambda result: result.training.epochs,
    "steps": lambda result: result.training.steps,
    **{name: value for score in SCORES for name, value in _score_columns(score).items()},
    PRETEXT.name: lambda result: None if result.is_baseline else result.training.pretext_accuracy,
    "pretext_chance": lambda result: None if result.is_baseline else result.training.pretext_chance,
    FEW_LABELS.name: lambda result: result.few.explained if result.few else None,
    "dim": lambda result: result.metrics.protocol.get("dim", result.training.dim),  # of the layer that was chosen
    "parameters": lambda result: result.training.parameters,
    "seconds": lambda result: result.training.seconds,
    "images_per_second": lambda result: result.training.images_per_second,
    "peak_memory_bytes": lambda result: result.training.peak_memory_bytes,
    "full_schedule_seconds": lambda result: result.training.full_schedule_seconds,
}
"""In the order of leaderboard.csv; a value is None where there is none (no labels, no training)."""


def table_scores() -> list[Score]:
    """What a table for people shows, in its order: shares side by side, then other numbers, then words."""
    return sorted((*HEADLINES, FEW_LABELS, PRETEXT), key=lambda score: ("share", "number", "text").index(score.form))


def safe_cell(value: Any) -> Any:
    """A CSV cell that is one line and that no spreadsheet runs as a formula: text that starts with = + - @ gets a quote."""
    if not isinstance(value, str):
        return value
    text = re.sub(r"\s+", " ", value).strip()
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
