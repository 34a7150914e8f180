"""Stage ``report``: everything the other stages found, for people: ``reports/report.html``, ``leaderboard.csv`` and ``.md``.

The page is one file that needs no network and no script. Every text from data passes through the template's escaping.
"""

import importlib.metadata
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ssl_core.catalogue import ABOUT_LOSS, BASELINES, LABELLED, METHODS
from ssl_core.evaluation.scores import SCORES, Score
from tasks import few_labels, leaderboard, transfer, tuned, worth
from tasks.cautions import seed_note, verdict_text
from tasks.columns import FEW_LABELS, HEADLINES, PRETEXT
from tasks.conclusions import sentences, worth_it
from tasks.leaderboard import percent
from tasks.metrics import Health
from tasks.report import figures, findings, illustrations
from tasks.results import Result, Row, known, load_results, registered_model
from tasks.runtime import audit, dataset, files
from tasks.runtime.words import duration
from tasks.tracking import journal
from tasks.trainings import FULL_SCHEDULE
from tasks.transfer import Transfer
from tasks.tuned import Tuning
from tasks.verdict import Verdict, judge

PACKAGES = ("torch", "torchvision", "numpy", "dvc", "mlflow", "prefect", "matplotlib")
MATRIX_CLASSES = 20
"""Above this many classes the confusion matrix is left out and the most frequent mistakes stand alone."""


def build(root: Path, target: Path) -> None:
    """Write the report of the project in ``root`` into the directory ``target``: complete, or not at all.

    Raises:
        IntegrityError: nothing is evaluated yet, or a file is damaged.
    """
    results, missing = load_results(root)
    publish(documents(root, judge(results), missing), target)


def documents(root: Path, verdict: Verdict, missing: Sequence[str]) -> dict[str, str]:
    """Text of each file of the report by its name."""
    several = transfer.load(root)
    beside = f"\n{transfer.to_markdown(several)}" if several else ""
    tunings = tuned.load_all(root)
    beside += "".join(f"\n{tuned.to_markdown(tuning)}" for tuning in tunings)
    return {
        "leaderboard.csv": leaderboard.to_csv(verdict, several),
        "leaderboard.md": leaderboard.to_markdown(verdict) + beside,
        "report.html": render(root, verdict, missing, several, tunings),
        **({"transfer.csv": transfer.to_csv(several)} if several else {}),
        **{f"{tuning.file}.csv": tuned.to_csv(tuning) for tuning in tunings},
    }


def publish(texts: Mapping[str, str], target: Path) -> None:
    """Replace the directory ``target`` by these files."""

    def fill(directory: Path) -> None:
        for name, text in texts.items():
            files.write_text(directory / name, text)

    files.write_directory(target, fill)


def render(
    root: Path, verdict: Verdict, missing: Sequence[str], several: Transfer | None = None, tunings: Sequence[Tuning] = ()
) -> str:
    """The page."""
    import jinja2

    rows, best = verdict.rows, verdict.best
    results = [result for row in rows for result in row.results if result.kept]
    data = dataset.load(root / dataset.PREPARED)
    view = illustrations.gallery(data)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, lstrip_blocks=True)
    environment.filters |= {
        "percent": percent,
        "duration": duration,
        "bytes": _bytes,
        "number": _number,
        "listing": listing,
        "score": score_text,
        "uri": illustrations.uri,
        "points": worth.points,
        "verdict_text": verdict_text,
        "unbroken": lambda text: text.replace(" %", "\u00a0%"),
    }
    environment.globals |= {"full_schedule": FULL_SCHEDULE, "baselines": BASELINES, "catalogue": METHODS}
    template = environment.from_string(Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        dataset=data.meta,
        rows=rows,
        best=best,
        missing=missing,
        labelled=known(results, "linear_top1"),
        held_out=known(results, "holdout_linear_top1"),
        pretext=PRETEXT,
        solved=known(results, PRETEXT.name),
        **columns(results),
        supervised_note=leaderboard.supervised_note(results),
        warnings=leaderboard.warnings(results),
        seeds=sorted({r.seed for r in results}),
        spread=leaderboard.spread(verdict.rows),
        tested=rows[0].best.metrics.protocol if rows else {},
        all_labels=any(r.method in LABELLED and r.training.epochs != 0 for r in results),
        judged=verdict,
        sentences=sentences(verdict),
        worth_it=worth_it(verdict, brief=True),
        **recipes(rows),
        loss_notes=" ".join(f"{m}: {ABOUT_LOSS[m]}." for m in (row.method for row in rows) if m in ABOUT_LOSS),
        methods=sum(not row.is_baseline for row in rows),
        few=known(results, FEW_LABELS.name),
        few_score=FEW_LABELS.name,
        unhealthy=[(row.method, row.verdict) for row in rows if not row.is_baseline and row.verdict != "healthy"],
        notes=[note for note in (seed_note(rows), leaderboard.edge_note(results)) if note],
        charts=illustrations.charts(root, rows, best),
        sheets=illustrations.sheets(root, rows),
        maps=illustrations.maps(root, rows, best, view, data.meta["classes"]),
        gallery=illustrations.neighbor_rows(root, rows, view, data.meta["classes"]),
        mistakes=mistakes(root, best, data.meta["classes"]),
        audit=findings.findings(
            root, audit.load(root / dataset.PREPARED), data, [best, *(r.best for r in verdict.free)] if best else []
        ),
        provenance=provenance(root, results, data),
        transfer=several,
        transfer_sentences=transfer.sentences(several) if several else (),
        tunings=[(tuning, *tuned.table(tuning), tuned.sentences(tuning)) for tuning in tunings],
        instead_title=leaderboard.instead_title(verdict),
        example=None if verdict.champion else leaderboard.example_encoder(verdict),
        model=registered_model(root),
        few_in_words=few_labels.in_words,
    )


def columns(results: Sequence[Result]) -> dict[str, list[Score]]:
    """The scores with a column in the table: shares, other numbers and, without test labels, all label-free indicators."""
    shown = [score for score in (*HEADLINES, FEW_LABELS) if known(results, score.name)]
    numbers = [score for score in shown if score.form == "number"]
    label_free = {field.name for field in fields(Health)} - {score.name for score in numbers}
    return {
        "shares": [score for score in shown if score.form == "share"],
        "numbers": numbers,
        "indicators": [] if known(results, "linear_top1") else [score for score in SCORES if score.name in label_free],
    }


# ---------------------------------------------------------------------- words


def score_text(of: Row | Result, score: Score) -> str:
    """A score of a method or of one run, as the short table writes it."""
    return leaderboard.text(score, of if isinstance(of, Row) else Row(of.method, (of,)))


def listing(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _number(value: Any, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _bytes(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


# ---------------------------------------------------------------------- tables


def mistakes(root: Path, best: Result | None, classes: Sequence[str]) -> dict[str, Any] | None:
    """Accuracy by class and the most frequent confusions of the best encoder's linear probe; None without predictions."""
    import pandas as pd

    pairs = pd.DataFrame(findings.read_predictions(root, best), columns=["actual", "predicted"])
    seen = set(pairs.to_numpy().ravel())
    names = [c for c in classes if c in seen] + sorted(seen - set(classes))
    if len(names) < 2:
        return None
    matrix = pd.crosstab(pairs["actual"], pairs["predicted"]).reindex(index=names, columns=names, fill_value=0)
    totals = matrix.sum(axis=1)
    shares = matrix.div(totals.clip(lower=1), axis=0)
    wrong = [
        (shares.loc[actual, predicted], actual, predicted, count)
        for (actual, predicted), count in matrix.stack().items()
        if actual != predicted and count
    ]
    return {
        "classes": sorted((shares.loc[name, name], name, total) for name, total in totals.items() if total),
        "pairs": sorted(wrong, key=lambda w: (-w[0], w[1], w[2]))[:10],
        "matrix": illustrations.uri(figures.confusion(matrix.to_numpy(), names), "svg+xml")
        if len(names) <= MATRIX_CLASSES
        else None,
    }


def recipes(rows: Sequence[Row]) -> dict[str, Any]:
    """How each row was trained: (row, ``train``, what its augmentation has of its own), and what is usual among them."""
    made = [(row, row.best.training.recipe, row.best.training.augment) for row in rows if row.best.get("epochs")]
    made = [(row, train, augment) for row, train, augment in made if {"batch_size", "lr"} <= train.keys()]
    usual = {name: statistics.mode(str(augment.get(name)) for *_, augment in made) for name in (made[0][2] if made else {})}
    own = [{k: v for k, v in augment.items() if str(v) != usual.get(k)} for *_, augment in made]
    return {
        "recipes": [(row, train, _named(other) or "–") for (row, train, _), other in zip(made, own, strict=True)],
        "usual": _named(usual),
    }


def _named(values: Mapping[str, Any]) -> str:
    shown = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in values.items()}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())


def provenance(root: Path, results: Sequence[Result], data: dataset.Dataset) -> dict[str, Any]:
    """Protocol, versions and hashes: what somebody needs to get the same numbers."""
    protocols = {r.name: r.metrics.protocol for r in results}
    common = common_facts(list(protocols.values()))
    return {
        "protocol": common,
        "own": {name: _named({k: v for k, v in p.items() if k not in common}) for name, p in protocols.items()},
        "versions": {"Python": platform.python_version()} | {p: v for p in PACKAGES if (v := _version(p))},
        "machines": common_facts([run_tags(root, r.name) for r in results]),
        "data_sha256": data.sha256,
        "encoders": [(r.name, r.metrics.encoder_sha256) for r in results],
    }


def common_facts(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all the mappings agree on."""
    first = facts[0] if facts else {}
    return {k: v for k, v in first.items() if all(f.get(k) == v for f in facts)}


def run_tags(root: Path, name: str) -> dict[str, Any]:
    """The tags a training started with: device, precision, versions."""
    path = root / f"out/journal/{name}.jsonl"
    start = next((e for e in journal.read(path) if e["event"] == "start"), None) if path.exists() else None
    return dict(start["run"].get("tags") or {}) if start else {}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
