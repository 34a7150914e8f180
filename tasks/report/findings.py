"""What the audit of the data found, for the report: in words, in pictures, and what it does to the scores."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.report import pictures
from tasks.results import Result
from tasks.runtime import dataset

LISTED = 50
"""Entries of a long list that are written out."""
PAIRS = 12
"""Near duplicates that are shown."""


def findings(root: Path, found: Mapping[str, Any], data: dataset.Dataset, best: Result | None) -> dict[str, Any]:
    """Everything the page says about the data.

    Args:
        found: ``audit.json``.
    """
    suspects = suspicious_rows(found, data)
    return {
        "warnings": found.get("warnings", []),
        "facts": facts(found),
        "lists": lists(found),
        "classes": found.get("classes", {}),
        "pairs": near_pairs(found, data),
        "effect": effect(read_predictions(root, best), suspects) if best and len(suspects) else None,
    }


def facts(found: Mapping[str, Any]) -> dict[str, str]:
    """The audit in one line each."""
    duplicates, leaks, near = (found.get(k) or {} for k in ("duplicates", "leaks", "near_duplicates"))
    sizes = (found.get("sizes") or {}).get("common") or {}
    dropped = f", {leaks['dropped']:,} dropped from training" if leaks.get("dropped") else ""
    lines = {
        "files left out": f"{len(found.get('quarantined') or ()):,}",
        "exact copies": ", ".join(f"{v['extra']:,} in {split}" for split, v in duplicates.items()),
        "in training and test": f"{leaks['count']:,}{dropped}" if leaks else "",
        "near duplicates": f"{near['count']:,} of {near['checked']:,} test images" if near else "",
        "same image, other label": f"{(found.get('conflicts') or {}).get('count', 0):,}",
        "images without labels": f"{found.get('unlabelled') or 0:,}",
        "sizes in pixels": _counts(sizes),
        "file formats": _counts(found.get("formats") or {}),
        "color modes": _counts(found.get("modes") or {}),
    }
    return {name: text for name, text in lines.items() if text}


def _counts(counts: Mapping[str, int], shown: int = 5) -> str:
    text = ", ".join(f"{name} ({count:,})" for name, count in list(counts.items())[:shown])
    return text + (f" and {len(counts) - shown} more" if len(counts) > shown else "")


def lists(found: Mapping[str, Any]) -> list[tuple[str, int, list[str]]]:
    """(title, how many, first entries) of what can be named."""
    duplicates, conflicts = found.get("duplicates") or {}, found.get("conflicts") or {}
    named = [
        ("Files left out", [f"{q['file']}: {q['reason']}" for q in found.get("quarantined") or ()]),
        ("Training images that are also in the test split", (found.get("leaks") or {}).get("examples") or []),
        *((f"Exact copies in {s}", [" = ".join(group) for group in v.get("examples", [])]) for s, v in duplicates.items()),
        ("Same image, other label", [" / ".join(": ".join(p) for p in pair) for pair in conflicts.get("examples") or ()]),
    ]
    return [(title, len(entries), entries[:LISTED]) for title, entries in named if entries]


def near_pairs(found: Mapping[str, Any], data: dataset.Dataset) -> dict[str, Any] | None:
    """A sheet of test images (top) over the training images they look like (bottom), or None."""
    pairs = (found.get("near_duplicates") or {}).get("pairs") or []
    if not pairs:
        return None
    columns = [
        np.concatenate([pictures.thumbnail(data.test_images[a]), pictures.thumbnail(data.train_images[b])])
        for a, b, *_ in pairs[:PAIRS]
    ]
    return {"sheet": pictures.png(np.concatenate(columns, axis=1)), "shown": len(columns), "count": len(pairs)}


def suspicious_rows(found: Mapping[str, Any], data: dataset.Dataset) -> np.ndarray:
    """Test rows that have a copy or near copy among the training images."""
    rows = {pair[0] for pair in (found.get("near_duplicates") or {}).get("pairs") or ()}
    leaks = found.get("leaks") or {}
    if leaks.get("count", 0) > leaks.get("dropped", 0):
        copied = np.isin(dataset.hashes(data.test_images), dataset.hashes(data.train_images))
        rows |= set(np.flatnonzero(copied).tolist())
    return np.array(sorted(rows), np.int64)


def read_predictions(root: Path, best: Result | None) -> list[tuple[str, str]]:
    """(actual, predicted) of every test image by the best encoder's linear probe; empty where there are none."""
    path = root / f"out/predictions/{best.name if best else ''}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [(line["actual"], line["predicted"]) for line in csv.DictReader(file)]


def effect(pairs: Sequence[tuple[str, str]], suspects: np.ndarray) -> dict[str, float] | None:
    """The score with and without the suspicious test images."""
    right = np.array([actual == predicted for actual, predicted in pairs])
    rest = np.ones(len(right), bool)
    rest[suspects[suspects < len(right)]] = False
    return {"images": len(suspects), "all": right.mean(), "rest": right[rest].mean()} if rest.any() else None
