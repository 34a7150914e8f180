"""The table of results as text: for a terminal, CSV and Markdown.

``python -m tasks.leaderboard`` prints it.
"""

import csv
import html
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.results import Result, Row, champion, known, load_results, model_name, ranked
from tasks.runtime import errors
from tasks.runtime.files import read_json
from tasks.runtime.settings import redact

COLUMNS = (
    "method", "seed", "encoder", "epochs", "knn_top1", "knn_low", "knn_high", "linear_top1", "linear_low",
    "linear_high", "holdout_knn_top1", "holdout_linear_top1", "layer", "lambda", "knn_layer", "k", "temperature", "verdict",
    "feature_std", "effective_rank", "alignment", "uniformity", "nmi", "ari", "pretext_accuracy", "dim", "parameters",
    "seconds", "images_per_second", "peak_memory_bytes", "full_schedule_seconds",
)  # fmt: skip


def safe_cell(value: Any) -> Any:
    """A CSV cell that is one line and that no spreadsheet runs as a formula: text that starts with = + - @ gets a quote."""
    if not isinstance(value, str):
        return value
    text = re.sub(r"\s+", " ", value).strip()
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def to_csv(results: Sequence[Result]) -> str:
    """One line per method and seed, in rank order, every number in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in ranked(results):
        for result in row.results:
            writer.writerow([safe_cell(result.get(column)) for column in COLUMNS])
    return out.getvalue()


def percent(value: float | None, spread: float | None = None) -> str:
    """0.7213 -> ``72.1``, with ``± 0.4`` if there is a spread; absent -> a dash."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def duration(seconds: float | None) -> str:
    """Seconds in the unit a person would use."""
    if seconds is None:
        return "–"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.{0 if seconds / size >= 10 else 1}f} {unit}"
    return f"{seconds / 86400:.1f} d"


def cells(row: Row) -> dict[str, str]:
    """The texts of one line of the short table; a dash where there is no number."""
    interval = row.best.metrics.get("linear_interval")
    scores = {
        "kNN %": "knn_top1",
        "linear %": "linear_top1",
        "held-out %": "holdout_linear_top1",
        "pretext %": "pretext_accuracy",
    }
    texts = {title: percent(row.mean(column), row.std(column)) for title, column in scores.items()}
    rank, speed = row.mean("effective_rank"), row.mean("images_per_second")
    return {
        "method": row.method + (" *" if row.is_baseline else ""),
        "kNN %": texts.pop("kNN %"),
        "linear %": texts.pop("linear %"),
        "95 % interval": f"{percent(interval[0])} to {percent(interval[1])}" if interval else "–",
        **texts,
        "rank": "–" if rank is None else f"{rank:.1f}",
        "verdict": row.verdict,
        "time": duration(row.mean("seconds")),
        "images/s": "–" if not speed else f"{speed:,.0f}",
    }


def _table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Column titles and lines, without the columns that hold no number at all."""
    lines = [cells(row) for row in rows]
    names = [name for name in lines[0] if any(line[name] != "–" for line in lines)]
    return names, [[line[name] for name in names] for line in lines]


def to_markdown(results: Sequence[Result]) -> str:
    """The short table for GitHub and for people."""
    names, lines = _table(ranked(results))
    escaped = [
        [html.escape(text).replace("|", "\\|").replace("`", "\\`").replace("*", "\\*") for text in line] for line in lines
    ]
    table = ["| " + " | ".join(line) + " |" for line in [names, ["---"] * len(names), *escaped]]
    return "# Leaderboard\n\n" + "\n".join(table) + f"\n\n{footnote(results)}\n"


def to_text(results: Sequence[Result]) -> str:
    """The short table for a terminal."""
    names, lines = _table(ranked(results))
    widths = [max(len(line[i]) for line in [names, *lines]) for i in range(len(names))]
    return "\n".join("  ".join(t.ljust(w) if i == 0 else t.rjust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True)))
                     for line in [names, *lines]) + f"\n\n{footnote(results)}"  # fmt: skip


def footnote(results: Sequence[Result]) -> str:
    """How to read the table."""
    seeds = len({r.seed for r in results})
    first, notes = "Without labels: sorted by effective rank, the higher the more directions the features use", ["* baseline"]
    if known(results, "holdout_linear_top1"):
        tested = "; kNN and linear are test scores" if known(results, "linear_top1") else ""
        first = f"Sorted by the held-out linear score, which chooses{tested}"
    if seeds > 1:
        notes.append(f"mean ± standard deviation of {seeds} seeds, interval of the best of them")
    if known(results, "pretext_accuracy"):
        notes.append("pretext: share right in the method's own task in the last epoch")
    return "\n".join(line for line in (f"{first}.", "; ".join(notes), supervised_note(results), *warnings(results)) if line)


def warnings(results: Sequence[Result]) -> list[str]:
    """The alarms that methods raised in their last epoch, a sentence each."""
    return [f"{r.name}: {text}." for r in results for text in r.encoder.get("warnings", ())]


def supervised_note(results: Sequence[Result]) -> str:
    """What to know about the supervised row; empty if there is none."""
    if all(r.method != "supervised" for r in results):
        return ""
    if not known(results, "holdout_linear_top1"):
        return "The supervised encoder is an untrained one here: there are no labels."
    return (
        "The supervised encoder was trained on the held-out labels too: that flatters its held-out score, not its test scores."
    )


def load_lines(dataset: str) -> tuple[str, str]:
    """The Python that loads the champion, from the tracking server in use or, in the project's root, the default store."""
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    store = redact(server) if server.startswith("http") else "sqlite:///mlruns/mlflow.db"
    model = f"models:/{model_name(dataset)}@champion"
    return "from tasks.encoder import load", f'encoder = load("{model}", store="{store}")'


def show(root: Path) -> None:
    """Print the table, what is missing, where the report is and how to load the best encoder."""
    results, missing = load_results(root)
    print(to_text(results))
    if missing:
        print(f"not evaluated yet: {', '.join(missing)}")
    if (root / "reports/report.html").exists():
        print(f"report: {root / 'reports/report.html'}")
    best, registry = champion(results), root / "out/registry.json"
    if best and registry.exists() and read_json(registry)["aliases"].get("champion") == best.name:
        lines = load_lines(read_json(root / "data/prepared/meta.json")["name"])
        print("\n    ".join([f"best encoder, {best.name}:", *lines]))
    elif best:
        print(f"best encoder: {best.name}, in out/encoders/{best.name}; not registered yet, make run goes on with that")


if __name__ == "__main__":
    errors.run(lambda: show(Path()))
