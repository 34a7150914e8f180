"""What DVC's own commands show: a few numbers of each encoder (``dvc metrics``) and tables for its plots (``dvc plots``).

Details stay in ``out/metrics``, which no command of DVC prints: with them a row would be two thousand letters wide.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tasks.cautions import verdict_text
from tasks.report.curves import share_of_training
from tasks.report.findings import read_predictions
from tasks.report.illustrations import read_history
from tasks.results import Result, Row
from tasks.transfer import Transfer
from tasks.tuned import Tuning
from tasks.verdict import Verdict

NUMBERS = {"held_out": "holdout_linear_top1", "linear": "linear_top1", "knn": "knn_top1", "seconds": "seconds"}
"""Name for DVC: column of the leaderboard."""
DIGITS = 4


def scores(verdict: Verdict, tuning: Tuning | None = None, several: Transfer | None = None) -> dict[str, dict[str, Any]]:
    """For each encoder by ``METHOD-SEED``: what people compare; without labels the effective rank is among it."""
    found = {}
    for row in verdict.rows:
        for result in row.results:
            numbers = {name: result.get(column) for name, column in NUMBERS.items()}
            if numbers["held_out"] is None:
                numbers["rank"] = result.get("effective_rank")
            numbers |= _tuned(result, tuning) | (several.columns(result) if several else {})
            shown = {name: round(value, DIGITS) for name, value in numbers.items() if value is not None}
            found[result.name] = shown | {"verdict": verdict_text(row, verdict.standings[row.method])}
            if data := result.metrics.protocol.get("data_sha256"):
                found[result.name]["data"] = data[:8]  # two commits with others do not compare
    return found


def _tuned(result: Result, tuning: Tuning | None) -> dict[str, float | None]:
    """Of an encoder that was fine-tuned: its accuracy by share of the labels."""
    row = tuning.rows.get(result.method, {}) if tuning else {}
    return {f"finetune_{100 * float(share):g}pct": own.each.get(result.name) for share, own in row.items()}


def plots(root: Path, verdict: Verdict) -> dict[str, str]:
    """Tables by name of the file: curves of all trainings, scores of all rows, mistakes of the champion."""
    pairs = read_predictions(root, verdict.champion or verdict.best)
    return {
        **{f"{c}.csv": _csv(("trained", c, "method"), _curves(root, verdict.rows, c)) for c in ("loss", "knn")},
        "scores.csv": _csv(("method", "accuracy", "of"), _accuracies(verdict.rows)),
        "confusion.csv": _csv(("actual", "predicted"), pairs),
    }


def _curves(root: Path, rows: Sequence[Row], column: str) -> list[tuple[Any, ...]]:
    """(share of the training in percent, value, ``METHOD-SEED``) of every training.

    A loss stands between its own lowest (0) and highest (1): losses of different methods have no common scale.
    """
    found = []
    for result in (result for row in rows for result in row.results if result.kept):
        history = read_history(root, result.name)
        if history is None or column not in history or not result.get("epochs"):
            continue
        known = history.dropna(subset=[column])
        low, high = (known["loss"].min(), known["loss"].max()) if column == "loss" else (0.0, 1.0)
        values = (known[column] - low) / ((high - low) or 1.0)
        shares = share_of_training(history)[known.index]
        found += [(round(float(s), 1), round(float(v), DIGITS), result.name) for s, v in zip(shares, values, strict=True)]
    return found


def _accuracies(rows: Sequence[Row]) -> list[tuple[str, float, str]]:
    return [
        (row.method, round(mean, DIGITS), name.replace("_", "-"))
        for row in rows
        for name, column in NUMBERS.items()
        if name != "seconds" and (mean := row.mean(column)) is not None
    ]


def _csv(columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([columns, *lines])
    return out.getvalue()
