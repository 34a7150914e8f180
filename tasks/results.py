"""What was found: one ``Result`` per method and seed, read from the metrics and journals, and what is chosen by them."""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_core.catalogue import BASELINES
from tasks.runtime import params
from tasks.runtime.errors import IntegrityError
from tasks.runtime.files import read_json
from tasks.tracking import journal

FULL_SCHEDULE = 200
"""Epochs of the schedule the literature compares small-image methods on; what a long run would cost is quoted for it."""


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
        """A number or text by the name of its column in the table, or None where it does not exist (no labels, no training)."""
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


def load_results(root: Path) -> tuple[list[Result], list[str]]:
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


def known(results: Sequence[Result], column: str) -> bool:
    """Whether any result has a value of the column."""
    return any(r.get(column) is not None for r in results)


def model_name(dataset: str) -> str:
    """The registered model of a data set."""
    return "ssl-" + re.sub(r"[^\w.-]+", "-", dataset).strip("-")
