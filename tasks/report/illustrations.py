"""What the report shows, ready for the page: charts, sheets of views, maps and neighbors as data URIs with their texts."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssl_core.catalogue import BASELINES, SHOWS
from tasks.report import curves, figures, pictures
from tasks.results import Result, Row
from tasks.runtime import dataset
from tasks.runtime.errors import IntegrityError
from tasks.runtime.files import MEND
from tasks.trainings import still_rising

if TYPE_CHECKING:
    import pandas as pd

GALLERY_IMAGES = 5000
"""Images among which neighbors are searched."""
CLUSTERS = 10


def uri(data: bytes, kind: str) -> str:
    """A data URI of an image: the page carries everything it shows."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def charts(root: Path, rows: Sequence[Row], best: Result | None) -> dict[str, str | None]:
    """Data URIs of the charts by name; None where there is nothing to draw."""
    trained = [row for row in rows if not row.is_free]
    read = {row.method: [read_history(root, result.name) for result in row.results] for row in trained}
    histories = {method: found for method, seeds in read.items() if (found := [h for h in seeds if h is not None])}
    losses = {m: found for m, seeds in sorted(histories.items()) if (found := [h for h in seeds if "loss" in h])}
    methods = {m: seeds for m, seeds in histories.items() if m not in BASELINES}
    scored = any(row.mean("linear_top1") is not None for row in rows)
    name = best.method if best else None
    drawn = {
        "scores": figures.scores(rows) if scored else None,
        "scatter": figures.knn_against_linear(rows) if scored else None,
        "few_labels": figures.few_labels(rows, name),
        "learning": curves.learning_curves(losses) if losses else None,
        "knn": curves.knn_curves(methods, name),
        "health": curves.health_curves(methods, {r.method: r.verdict for r in rows}, name),
    }
    found = {name: uri(svg, "svg+xml") if svg else None for name, svg in drawn.items()}
    made = {row.method: [result.training for result in row.results] for row in trained if row.method in methods}
    return found | {"rising": still_rising(made)}


def read_history(root: Path, name: str) -> "pd.DataFrame | None":
    """A training's history, a line for one or more epochs, without the columns that hold no number; None if there is none."""
    import pandas as pd

    path = root / f"out/history/{name}.csv"
    if not path.exists():
        return None
    try:
        history = pd.read_csv(path, float_precision="round_trip").dropna(axis=1, how="all")
    except ValueError as error:
        raise IntegrityError(f"{path}: {error}; {MEND}") from None
    words = set(history) - set(history.select_dtypes("number"))
    if words:
        raise IntegrityError(f"{path}: {', '.join(sorted(words))} are not numbers alone; {MEND}")
    return None if history.empty else history


def sheets(root: Path, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """(method, data URI of what it sees, what its rows are) of every method that has a sheet."""
    paths = [(row.method, root / f"out/encoders/{row.best.name}/views.png") for row in rows if not row.is_baseline]
    return [(m, uri(path.read_bytes(), "png"), SHOWS.get(m, "what it is trained on")) for m, path in paths if path.exists()]


def gallery(data: dataset.Dataset) -> pictures.Gallery:
    """The test images; training images where the test split is too small for pictures. Of many, evenly spaced ones: they often
    lie class by class."""
    split = "test" if len(data.test_images) > 2 * pictures.NEIGHBORS else "train"
    images, labels = getattr(data, f"{split}_images"), getattr(data, f"{split}_labels")
    rows, groups = pictures.evenly(len(images), GALLERY_IMAGES), getattr(data, f"{split}_groups")
    return pictures.Gallery(images[rows], np.asarray(labels)[rows], split, rows, None if groups is None else groups[rows])


@dataclass(frozen=True)
class Maps:
    """The features of every encoder in the plane, of the same images."""

    maps: list[tuple[Row, str]]
    """Each with the data URI of its map."""
    legend: list[tuple[str, str, str]]
    """(color, sign, name) of each group of points."""
    points: int
    """Images on each map, of the split ``split``."""
    split: str
    clustered: str = ""
    """Without labels: the method whose clusters are the colors."""


def maps(root: Path, rows: Sequence[Row], best: Result | None, view: pictures.Gallery, classes: Sequence[str]) -> Maps:
    """Maps of the features by method, with the legend.

    Without labels the colors are clusters of the best features, or, where none is known to be best, of those of the first
    method that has not collapsed.
    """
    chosen = pictures.map_points(view)
    labels, names = view.labels[chosen], list(classes)
    clustered = None
    if not (labels >= 0).any():
        clustered = best or next((row.best for row in rows if not row.is_baseline and not row.best.is_collapsed), None)
        features = view.features(root, clustered.name) if clustered else None
        labels = labels if features is None else clusters(features[chosen])
        names = [f"cluster {i + 1}" for i in range(CLUSTERS)]
    drawn = []
    for row in rows:
        features = view.features(root, row.best.name)
        if features is not None:
            drawn.append((row, uri(pictures.feature_map(features[chosen], labels), "png")))
    shown = pictures.groups(labels)
    legend = pictures.legend([names[g] for g in shown], bool(shown) and not np.isin(labels, shown).all())
    return Maps(drawn, legend, len(chosen), view.split, clustered.method if clustered else "")


def clusters(features: np.ndarray) -> np.ndarray:
    """(n,) k-means cluster of each row."""
    import torch

    from ssl_core.clustering import kmeans

    return np.asarray(kmeans(torch.from_numpy(features), min(CLUSTERS, len(features)), 20)[1])


@dataclass(frozen=True)
class Neighbors:
    """What each encoder holds for most similar to the same images."""

    queries: list[str]
    """Names of the images that are shown on top of the columns: their classes."""
    rows: list[tuple[Row, str, pictures.Precision | None]]
    """For each encoder the data URI of its sheet, and how often a neighbor is of the query's class, over all queries."""
    labelled: bool
    """Whether there are classes."""
    split: str
    classes: int
    """How many there are among the images."""
    note: str
    """What to say of images that belong together; empty where none do."""


def neighbor_rows(root: Path, rows: Sequence[Row], view: pictures.Gallery, classes: Sequence[str]) -> Neighbors:
    """For the same queries, what each encoder holds for most similar; and one number over many more."""
    queries, lines = view.queries(), []
    groups, note = view.groups, "" if view.groups is None else "Images of the query's own group are left out."
    if groups is not None and len(groups) - np.unique(groups, return_counts=True)[1].max() < pictures.NEIGHBORS:
        groups, note = None, "They may be of the query's own group, for there are too few others; so nothing is counted."
    for row in rows:
        features = view.features(root, row.best.name)
        if features is not None:
            sheet = pictures.neighbor_sheet(view, queries, pictures.most_similar(features, queries, groups))
            lines.append((row, uri(sheet, "png"), pictures.precision(features, view.labels, view.groups)))
    known = view.labels[view.labels >= 0]
    names = [f"image {q}" if view.labels[q] < 0 else classes[view.labels[q]] for q in queries]
    return Neighbors(names, lines, bool(len(known)), view.split, len(np.unique(known)), note)
