"""Stage ``report``: everything the other stages found, for people: ``reports/report.html``, ``leaderboard.csv`` and ``.md``.

The page is one file that needs no network and no script. Every text from data passes through the template's escaping.
"""

import base64
import csv
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core.catalogue import BASELINES, METHODS
from tasks import dataset, figures, files, journal, leaderboard, pictures
from tasks.leaderboard import Result, Row, percent

PACKAGES = ("torch", "torchvision", "numpy", "dvc", "mlflow", "prefect", "matplotlib")
MATRIX_CLASSES = 20
"""Above this many classes the confusion matrix is left out and the most frequent mistakes stand alone."""
GALLERY_IMAGES = 5000
CLUSTERS = 10


def build(root: Path, target: Path) -> None:
    """Write the report of the project in ``root`` into the directory ``target``: complete, or not at all.

    Raises:
        IntegrityError: nothing is evaluated yet, or a file is damaged.
    """
    results, missing = leaderboard.load(root)
    page = render(root, results, missing)

    def fill(directory: Path) -> None:
        files.write_text(directory / "leaderboard.csv", leaderboard.to_csv(results))
        files.write_text(directory / "leaderboard.md", leaderboard.to_markdown(results))
        files.write_text(directory / "report.html", page)

    files.write_directory(target, fill)


def render(root: Path, results: Sequence[Result], missing: Sequence[str]) -> str:
    """The page."""
    import jinja2

    rows, best = leaderboard.ranked(results), leaderboard.champion(results)
    data = dataset.load(root / dataset.PREPARED)
    view = gallery(data)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "duration": leaderboard.duration, "bytes": _bytes, "number": _number}
    environment.globals |= {"full_schedule": leaderboard.FULL_SCHEDULE, "baselines": BASELINES, "catalogue": METHODS}
    template = environment.from_string(Path(__file__).with_name("report.html.j2").read_text())
    return template.render(
        dataset=data.meta,
        rows=rows,
        best=best,
        missing=missing,
        labelled=any(r.get("linear_top1") is not None for r in results),
        seeds=sorted({r.seed for r in results}),
        summary=summary(rows, best),
        charts=charts(root, rows, best),
        sheets=sheets(root, rows),
        maps=maps(root, rows, best, view, data.meta["classes"]),
        gallery=neighbor_rows(root, rows, view, data.meta["classes"]),
        mistakes=mistakes(root, best, data.meta["classes"]),
        audit=files.read_json(root / dataset.PREPARED / "audit.json"),
        provenance=provenance(root, results, data),
        load_lines=leaderboard.load_lines(data.meta["name"]),
    )


# ---------------------------------------------------------------------- words


def summary(rows: Sequence[Row], best: Result | None) -> dict[str, Any]:
    """The first sentences' facts: how the best method compares, in words that the intervals allow."""
    if best is None:
        return {}
    row = next(r for r in rows if r.method == best.method)
    others = {r.method: r for r in rows if r.method != best.method}
    return {
        "row": row,
        "methods": sum(not r.is_baseline for r in rows),
        "against": [(name, others[name], compare(row, others[name])) for name in BASELINES if name in others],
        "ties": [r.method for r in others.values() if not r.is_baseline and compare(row, r) == "within the noise"],
        "unhealthy": [(r.method, r.verdict) for r in rows if not r.is_baseline and r.verdict != "healthy"],
    }


def compare(row: Row, other: Row) -> str:
    """``above``, ``below`` or ``within the noise``: whether the linear intervals of the two best runs are apart."""
    mine, theirs = (r.best.metrics.get("linear_interval") for r in (row, other))
    if not mine or not theirs:
        return "unknown"
    return "above" if mine[0] > theirs[1] else "below" if mine[1] < theirs[0] else "within the noise"


def _number(value: Any, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _bytes(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


# ---------------------------------------------------------------------- charts and pictures


def uri(data: bytes, kind: str) -> str:
    """A data URI of an image: the page carries everything it shows."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def charts(root: Path, rows: Sequence[Row], best: Result | None) -> dict[str, str]:
    """Data URIs of the charts that there is something to draw for, by name."""
    trained = [row for row in rows if row.method not in ("raw_pixels", "random_init")]
    histories = {row.method: found for row in trained if (found := [h for r in row.results if (h := read_history(root, r.name))])}
    losses = {m: [h for h in seeds if "loss" in h] for m, seeds in sorted(histories.items())}
    losses = {m: seeds for m, seeds in losses.items() if seeds}
    drawn: dict[str, bytes | None] = {}
    if any(row.mean("linear_top1") is not None for row in rows):
        drawn["scores"] = figures.scores(rows)
        drawn["scatter"] = figures.knn_against_linear(rows)
        drawn["few_labels"] = figures.few_labels(rows, best and best.method)
    if losses:
        drawn["learning"] = figures.learning_curves(losses)
    if histories:
        methods = {m: h for m, h in histories.items() if m not in BASELINES}
        drawn["health"] = figures.health_curves(methods, {r.method: r.verdict for r in rows}, best and best.method)
    return {name: uri(svg, "svg+xml") for name, svg in drawn.items() if svg}


def read_history(root: Path, name: str) -> dict[str, np.ndarray] | None:
    """The columns of a training's history that hold numbers, each (epochs,) with NaN where not measured; None if absent."""
    path = root / f"out/history/{name}.csv"
    if not path.exists():
        return None
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    columns = {key: np.array([float(line[key] or "nan") for line in lines]) for key in (lines[0] if lines else ())}
    return {key: values for key, values in columns.items() if np.isfinite(values).any()} or None


def sheets(root: Path, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(method, data URI of what it sees) of every method that has a sheet."""
    paths = [(row.method, root / f"out/encoders/{row.best.name}/views.png") for row in rows if not row.is_baseline]
    return [(method, uri(path.read_bytes(), "png")) for method, path in paths if path.exists()]


def gallery(data: dataset.Dataset) -> pictures.Gallery:
    """The test images; the first training images where the test split is too small for pictures."""
    split = "test" if len(data.test_images) > 2 * pictures.NEIGHBORS else "train"
    images, labels = getattr(data, f"{split}_images"), getattr(data, f"{split}_labels")
    return pictures.Gallery(images[:GALLERY_IMAGES], np.asarray(labels[:GALLERY_IMAGES]), split)


def maps(root: Path, rows: Sequence[Row], best: Result | None, view: pictures.Gallery, classes: Sequence[str]) -> dict[str, Any]:
    """Maps of the features by method, with the legend; without labels the colors are clusters of the best encoder's features."""
    chosen = pictures.map_points(view)
    labels, names = view.labels[chosen], list(classes)
    if not (labels >= 0).any():
        features = view.features(root, best.name) if best else None
        labels = labels if features is None else clusters(features[chosen])
        names = [f"cluster {i + 1}" for i in range(CLUSTERS)]
    drawn = []
    for row in rows:
        features = view.features(root, row.best.name)
        if features is not None:
            drawn.append((row, uri(pictures.feature_map(features[chosen], labels), "png")))
    shown = pictures.groups(labels)
    return {"maps": drawn, "legend": pictures.legend([names[g] for g in shown]), "points": len(chosen), "split": view.split}


def clusters(features: np.ndarray) -> np.ndarray:
    """(n,) k-means cluster of each row."""
    import torch

    from ssl_core.clustering import kmeans

    return np.asarray(kmeans(torch.from_numpy(features), min(CLUSTERS, len(features)), 20)[1])


def neighbor_rows(root: Path, rows: Sequence[Row], view: pictures.Gallery, classes: Sequence[str]) -> dict[str, Any]:
    """For the same queries, what each encoder holds for most similar."""
    queries = view.queries()
    names = ["" if label < 0 else classes[label] for label in view.labels]
    lines = []
    for row in rows:
        features = view.features(root, row.best.name)
        if features is None:
            continue
        found = pictures.neighbors(features, queries)
        right = [sum(view.labels[q] == view.labels[i] for i in line) for q, line in zip(queries, found, strict=True)]
        strips = [uri(pictures.strip(view, q, line), "png") for q, line in zip(queries, found, strict=True)]
        texts = [", ".join(names[i] or f"image {i}" for i in line) for line in found]
        lines.append((row, list(zip(strips, texts, strict=True)), sum(right)))
    heads = [(uri(pictures.png(pictures.thumbnail(view.images[q])), "png"), names[q] or f"image {q}") for q in queries]
    return {"queries": heads, "rows": lines, "labelled": bool((view.labels >= 0).any()), "of": len(queries) * pictures.NEIGHBORS}


# ---------------------------------------------------------------------- tables


def mistakes(root: Path, best: Result | None, classes: Sequence[str]) -> dict[str, Any] | None:
    """Accuracy by class and the most frequent confusions of the best encoder's linear probe; None without predictions."""
    path = root / f"out/predictions/{best.name if best else ''}.csv"
    if not path.exists():
        return None
    with path.open(newline="") as file:
        pairs = [(line["actual"], line["predicted"]) for line in csv.DictReader(file)]
    names = [c for c in classes if any(c in pair for pair in pairs)]
    names += sorted({name for pair in pairs for name in pair} - set(names))
    if len(names) < 2:
        return None
    position = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)))
    np.add.at(matrix, tuple(zip(*((position[a], position[p]) for a, p in pairs), strict=True)), 1)
    totals = matrix.sum(1)
    shares = matrix / np.maximum(totals[:, None], 1)
    wrong = [(shares[i, j], names[i], names[j], int(matrix[i, j])) for i in range(len(names)) for j in range(len(names)) if i != j and matrix[i, j]]
    return {
        "classes": sorted((shares[i, i], name, int(totals[i])) for i, name in enumerate(names) if totals[i]),
        "pairs": sorted(wrong, key=lambda w: (-w[0], w[1], w[2]))[:10],
        "matrix": uri(figures.confusion(matrix, names), "svg+xml") if len(names) <= MATRIX_CLASSES else None,
    }


def provenance(root: Path, results: Sequence[Result], data: dataset.Dataset) -> dict[str, Any]:
    """Protocol, versions and hashes: what somebody needs to get the same numbers."""
    protocols = {r.name: r.metrics.get("protocol", {}) for r in results}
    common = common_facts(list(protocols.values()))
    return {
        "protocol": common,
        "own": {name: {k: v for k, v in p.items() if k not in common} for name, p in protocols.items()},
        "versions": {"Python": platform.python_version()} | {p: v for p in PACKAGES if (v := _version(p))},
        "machines": common_facts([run_tags(root, r.name) for r in results]),
        "data_sha256": data.sha256,
        "encoders": [(r.name, r.metrics.get("encoder_sha256")) for r in results],
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


if __name__ == "__main__":
    from tasks import stage

    stage.main(lambda: stage.Stage("report"), lambda s: build(Path(), s.out("reports")))
