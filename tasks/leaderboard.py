"""The table of results: one row per method and seed, read from the metrics and journals; terminal, CSV and Markdown.

``python -m tasks.leaderboard`` prints it.
"""

import csv
import html
import io
import os
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_core.catalogue import BASELINES
from tasks import errors, journal, params
from tasks.errors import IntegrityError
from tasks.files import read_json
from tasks.records import model_name, redact

FULL_SCHEDULE = 200
"""Epochs of the schedule the literature compares small-image methods on; what a long run would cost is quoted for it."""

COLUMNS = (
    "method", "seed", "encoder", "epochs", "knn_top1", "knn_low", "knn_high", "linear_top1", "linear_low",
    "linear_high", "holdout_knn_top1", "holdout_linear_top1", "layer", "lambda", "knn_layer", "k", "temperature", "verdict",
    "feature_std", "effective_rank", "alignment", "uniformity", "nmi", "ari", "pretext_accuracy", "dim", "parameters",
    "seconds", "images_per_second", "peak_memory_bytes", "full_schedule_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One encoder (method and seed): its metrics, its description and what its training cost."""

    method: str
    seed: int
    metrics: dict[str, Any]
    encoder: dict[str, Any]
    cost: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of its files: ``simclr-0``."""
        return f"{self.method}-{self.seed}"

    @property
    def is_baseline(self) -> bool:
        """Whether it is a row to compare with and not a method."""
        return self.method in BASELINES

    def get(self, column: str) -> Any:
        """The value of one of ``COLUMNS``, or None where it does not exist (no labels, nothing trained)."""
        score, _, end = column.rpartition("_")
        if end in ("low", "high"):
            return (self.metrics.get(f"{score}_interval") or (None, None))[end == "high"]
        for source in (*(self.metrics.get(part, {}) for part in ("health", "protocol")), self.metrics, self.cost, self.encoder):
            if column in source and not isinstance(source[column], dict):
                return source[column]
        if column == "pretext_accuracy":  # of the last epoch, on augmented training images
            return None if self.is_baseline else (self.encoder.get("health") or {}).get("accuracy")
        if column == "encoder":
            return (self.encoder.get("encoder") or {}).get("config", {}).get("name")
        seconds, epochs = self.cost.get("seconds"), self.encoder.get("epochs")
        return seconds / epochs * FULL_SCHEDULE if column == "full_schedule_seconds" and seconds and epochs else None


@dataclass(frozen=True)
class Row:
    """One method over its seeds."""

    method: str
    results: tuple[Result, ...]

    @property
    def is_baseline(self) -> bool:
        """Whether it is a row to compare with and not a method."""
        return self.method in BASELINES

    @property
    def best(self) -> Result:
        """The seed with the best held-out score: the one people take home and pictures show."""
        return max(self.results, key=lambda r: (score(r), -r.seed))

    @property
    def verdict(self) -> str:
        """The worst verdict of its seeds."""
        order = ("healthy", "dimensional collapse", "collapsed")
        return max((r.metrics.get("verdict", "healthy") for r in self.results), key=order.index)

    def values(self, column: str) -> list[float]:
        """The column's values over the seeds, without the absent ones."""
        return [v for r in self.results if (v := r.get(column)) is not None]

    def mean(self, column: str) -> float | None:
        """Mean over the seeds."""
        values = self.values(column)
        return statistics.fmean(values) if values else None

    def std(self, column: str) -> float | None:
        """Standard deviation over the seeds (n - 1), None for a single seed."""
        values = self.values(column)
        return statistics.stdev(values) if len(values) > 1 else None


def score(result: Result) -> float:
    """What encoders are chosen by: held-out linear accuracy; without labels the effective rank; never the test split.

    A collapsed encoder comes after every other one.
    """
    value = result.get("holdout_linear_top1")
    value = result.get("effective_rank") if value is None else value
    return (-1e9 if result.metrics.get("verdict") == "collapsed" else 0.0) + (value or 0.0)


def champion(results: Iterable[Result]) -> Result | None:
    """The encoder to take: the best ``score`` among the methods; None if there is none that has not collapsed."""
    methods = [r for r in results if not r.is_baseline and r.metrics.get("verdict") != "collapsed"]
    return max(methods, key=lambda r: (score(r), r.method, -r.seed), default=None)


def load(root: Path) -> tuple[list[Result], list[str]]:
    """Read the results of the methods (baselines included) and seeds listed in params.yaml under ``run``.

    Returns:
        The results, and the names (``simclr-0``) of those that are listed but not evaluated yet.

    Raises:
        IntegrityError: nothing is evaluated yet, or a file is damaged.
    """
    run = params.run_config(params.load(root / params.PARAMS))
    names = [(method, seed) for method in run.methods for seed in run.seeds]
    results = [r for method, seed in names if (r := _read(root, method, seed))]
    if not results:
        raise IntegrityError("out/metrics holds no results of the methods in params.yaml; run dvc repro first")
    found = {r.name for r in results}
    return results, [name for method, seed in names if (name := f"{method}-{seed}") not in found]


def _read(root: Path, method: str, seed: int) -> Result | None:
    metrics = root / f"out/metrics/{method}-{seed}.json"
    if not metrics.exists():
        return None
    encoder = root / f"out/encoders/{method}-{seed}/encoder.json"
    return Result(
        method, seed, read_json(metrics), read_json(encoder) if encoder.exists() else {}, read_cost(root, f"{method}-{seed}")
    )


def read_cost(root: Path, name: str) -> dict[str, Any]:
    """What a training cost, from the last ``end`` of its journal; empty where there is none (a cached result of elsewhere)."""
    path = root / f"out/journal/{name}.jsonl"
    ends = [event for event in journal.read(path) if event["event"] == "end"] if path.exists() else []
    return dict(ends[-1].get("cost") or {}) if ends else {}


def ranked(results: Iterable[Result]) -> list[Row]:
    """Rows by method, best mean held-out score first; baselines stand among the methods they are to be compared with."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.method, []).append(result)
    rows = [Row(method, tuple(sorted(group, key=lambda r: r.seed))) for method, group in groups.items()]
    return sorted(rows, key=lambda row: -statistics.fmean(score(r) for r in row.results))


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


def known(results: Sequence[Result], column: str) -> bool:
    """Whether any result has a value of the column."""
    return any(r.get(column) is not None for r in results)


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


def warnings(results: Iterable[Result]) -> list[str]:
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
    return (
        f'import mlflow; mlflow.set_tracking_uri("{store}")',
        f'encoder = mlflow.pytorch.load_model("models:/{model_name(dataset)}@champion")',
    )


def show(root: Path) -> None:
    """Print the table, what is missing, where the report is and how to load the best encoder."""
    results, missing = load(root)
    print(to_text(results))
    if missing:
        print(f"not evaluated yet: {', '.join(missing)}")
    if (root / "reports/report.html").exists():
        print(f"report: {root / 'reports/report.html'}")
    best = champion(results)
    if best:
        lines = load_lines(read_json(root / "data/prepared/meta.json")["name"])
        print("\n    ".join([f"best encoder, {best.name}:", *lines]))


if __name__ == "__main__":
    errors.run(lambda: show(Path()))
