"""What the audit of the data found, for the report: in words, in pictures, and what it does to the scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks import results
from tasks.metrics import class_in_predictions
from tasks.report import pictures
from tasks.results import Result
from tasks.runtime import dataset
from tasks.runtime.audit import Audit
from tasks.runtime.dataset import Array
from tasks.runtime.words import few

LISTED = 50
"""Entries of a long list that are written out."""
PAIRS = 12
"""Near duplicates that are shown."""


@dataclass(frozen=True)
class NearSheet:
    """Test images (top) over the training images they look like (bottom)."""

    sheet: bytes
    """A PNG."""
    shown: int
    """Pairs on the sheet."""
    count: int
    """Pairs that the audit found."""


@dataclass(frozen=True)
class Effect:
    """The share of test images that an encoder's linear probe gets right, with and without the suspicious ones."""

    encoder: str
    images: int
    """Suspicious test images."""
    all: float
    rest: float


@dataclass(frozen=True)
class Findings:
    """Everything the page says about the data."""

    warnings: Sequence[str]
    facts: dict[str, str]
    """The audit in one line each: what, and how many."""
    lists: list[tuple[str, int, list[str]]]
    """(title, how many, first entries) of what can be named."""
    classes: dict[str, dict[str, int]]
    """Images of each class in each split."""
    pairs: NearSheet | None
    effects: list[Effect]


def findings(root: Path, audit: Audit, data: dataset.Dataset, compared: Sequence[Result]) -> Findings:
    """Gather what the page says about the data; ``compared`` are the encoders whose scores the verdict is about."""
    suspects = suspicious_rows(audit, data)
    here = [each for each in compared if not each.task and len(suspects)]
    changed = [found for each in here if (found := effect(each.method, read_predictions(root, each), suspects, data))]
    return Findings(audit.warnings, facts(audit), lists(audit), audit.classes, near_sheet(audit, data), changed)


def facts(audit: Audit) -> dict[str, str]:
    """The audit in one line each."""
    leaks, near = audit.leaks, audit.near_duplicates
    dropped = f", {leaks.dropped:,} dropped from training" if leaks.dropped else ""
    lines = {
        "files left out": f"{len(audit.quarantined):,}",
        "exact copies": ", ".join(f"{copies.extra:,} in {split}" for split, copies in audit.duplicates.items()),
        "in training and test": f"{leaks.count:,}{dropped}",
        "near duplicates": f"{near.count:,} of {near.checked:,} test images",
        "same image, other label": f"{audit.conflicts.count:,}",
        "images without labels": f"{audit.unlabelled:,}",
        "sizes in pixels": _counts(audit.sizes.common),
        "file formats": _counts(audit.formats),
        "color modes": _counts(audit.modes),
    }
    return {name: text for name, text in lines.items() if text}


def _counts(counts: Mapping[str, int], shown: int = 5) -> str:
    return few((f"{name} ({count:,})" for name, count in counts.items()), shown)


def lists(audit: Audit) -> list[tuple[str, int, list[str]]]:
    """(title, how many, first entries) of what can be named."""
    left_out = [f"{left_out.file}: {left_out.reason}" for left_out in audit.quarantined]
    conflicts = [" / ".join(": ".join(image) for image in pair) for pair in audit.conflicts.examples]
    named = [
        ("Files left out", len(left_out), left_out),
        ("Training images that are also in the test split", audit.leaks.count, list(audit.leaks.examples)),
        *((f"Exact copies in {s}", r.groups, [" = ".join(group) for group in r.examples]) for s, r in audit.duplicates.items()),
        ("Same image, other label", audit.conflicts.count, conflicts),
    ]
    return [(title, count, entries[:LISTED]) for title, count, entries in named if entries]


def near_sheet(audit: Audit, data: dataset.Dataset) -> NearSheet | None:
    """The test images that look like a training image, above it; None where there are none."""
    pairs = audit.near_duplicates.pairs
    if not pairs:
        return None
    both = [(data.test_images[pair.test], data.train_images[pair.train]) for pair in pairs[:PAIRS]]
    shown = pictures.ends(np.stack([image for pair in both for image in pair]), range(2 * len(both)))
    columns = [np.concatenate([pictures.thumbnail(image, shown) for image in pair]) for pair in both]
    return NearSheet(pictures.png(np.concatenate(columns, axis=1)), len(columns), len(pairs))


def suspicious_rows(audit: Audit, data: dataset.Dataset) -> Array:
    """Test rows that have a copy or near copy among the training images."""
    rows = {pair.test for pair in audit.near_duplicates.pairs}
    if audit.leaks.count > audit.leaks.dropped:
        copied = np.isin(dataset.hashes(data.test_images), dataset.hashes(data.train_images))
        rows |= set(np.flatnonzero(copied).tolist())
    return np.array(sorted(rows), np.int64)


def read_predictions(root: Path, best: Result | None) -> list[tuple[str, str]]:
    """(actual, predicted) of every test image by the best encoder's linear probe; empty where there are none."""
    found = results.read_predictions(root, best.file) if best else {}
    return list(zip(found["actual"].tolist(), found["predicted"].tolist(), strict=True)) if found else []


def effect(encoder: str, pairs: Sequence[tuple[str, str]], suspects: Array, data: dataset.Dataset) -> Effect | None:
    """The score with and without the suspicious test images; None where none of them was judged, or nothing would be left."""
    right = np.array([actual == predicted for actual, predicted in pairs])
    judged = {class_in_predictions(actual) for actual, _ in pairs}
    names = [class_in_predictions(name) for name in data.meta["classes"]]
    labels = data.test_labels.tolist()  # not all have one, and of very many classes some are not judged
    rows = [row for row, label in enumerate(labels) if label >= 0 and names[label] in judged]
    rest = ~np.isin(rows, suspects)
    if len(rows) != len(right) or rest.all() or not rest.any():
        return None
    return Effect(encoder, int((~rest).sum()), float(right.mean()), float(right[rest].mean()))
