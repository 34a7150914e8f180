"""Stage ``prepare``: find the images, check and decode them, split and store them as arrays, and say what is odd about them.

``python -m tasks.prepare``. Writes ``data/prepared``: uint8 arrays, labels, ``meta.json``, ``audit.json`` and the origin of
every row. Either the whole directory appears or nothing does.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tasks.prepare import audit, sources
from tasks.prepare.folders import Source
from tasks.prepare.intake import Seen, Split, new_split, take_in
from tasks.prepare.layout import one_per_line, shown
from tasks.prepare.splits import HOLDOUT, split_rows, stratified
from tasks.runtime import files
from tasks.runtime.dataset import Array, blocks, hashes
from tasks.runtime.errors import DataError, EnvironmentFault
from tasks.runtime.params import DataConfig
from tasks.runtime.stage import state_directory

NAMED = 3
"""Quarantined files a message names; the others are in ``.ssl/quarantine.json``."""


def nothing() -> None:
    """The check of a caller that never stops."""


def prepare(config: DataConfig, target: Path, check: Callable[[], None] = nothing, progress_file: Path | None = None) -> None:
    """Write the prepared data set to the directory ``target``, whole or not at all.

    Args:
        check: called now and then; may raise to stop.
        progress_file: where to leave the progress for a watching process.

    Raises:
        ConfigError, UsageError: an unknown data set, or a path that is not what data.source says.
        DataError: the images are not usable as they are.
        EnvironmentFault: not enough disk space, or no network for a download.
    """
    source = sources.open_source(config)
    chosen = split_rows(source.items, source.classes, config)
    check_space(target, sum(map(len, chosen.values())) * config.channels * config.image_size**2)
    if target.parent.is_dir():
        files.remove_leftovers(target.parent)

    def fill(directory: Path) -> None:
        splits = {name: new_split(directory, name, rows, source, config) for name, rows in chosen.items()}
        seen = take_in(source, splits, config, check, progress_file)
        if len(seen.bad) > config.max_bad:
            raise rejection(source, seen.bad, config.max_bad)
        finish(directory, source, splits, seen, config, check)

    files.write_directory(target, fill)


# ---------------------------------------------------------------------- before


def check_space(target: Path, needed: int) -> None:
    """Refuse to start what cannot fit on the disk."""
    place = next(p for p in (target, *target.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    needed = int(needed * 1.05) + (16 << 20)
    if needed > free:
        raise EnvironmentFault(
            f"{target} needs {needed / 1e6:,.0f} MB but {free / 1e6:,.0f} MB are free;"
            " free some, or lower data.max_train or data.image_size"
        )


def rejection(source: Source, bad: list[tuple[str, str]], allowed: int) -> DataError:
    """The error for too many unusable files; the whole list goes where the user can read it."""
    path = state_directory() / "quarantine.json"
    files.write_json(path, [{"file": shown(name), "reason": reason} for name, reason in bad])
    named = "; ".join(f"{name!r}: {reason}" for name, reason in bad[:NAMED])
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    total = len(source.items) + len(source.bad)
    return DataError(
        f"{len(bad)} of {total} files cannot be used and data.max_bad allows {allowed}: {named}{more}."
        f" Repair or remove them, or raise data.max_bad (all of them: {os.path.relpath(path)})"
    )


# ---------------------------------------------------------------------- the result


def finish(
    directory: Path, source: Source, splits: dict[str, Split], seen: Seen, config: DataConfig, check: Callable[[], None]
) -> None:
    """Judge the images, drop leaks, and write everything beside the pixels."""
    train, test = splits["train"], splits["test"]
    classes = [shown(c) for c in source.classes]
    report = {
        "quarantined": [{"file": shown(n), "reason": r} for n, r in seen.bad],
        "ignored": {"count": len(source.ignored), "files": [shown(n) for n in source.ignored[:100]]},
        "formats": dict(seen.formats),
        "modes": dict(seen.modes),
        "notes": dict(seen.notes),
    }
    report |= compare(train, test, classes, config, check)
    check_classes(train, test, classes, config)
    holdout = stratified(train.labels, config.holdout_fraction, config.seed, HOLDOUT)
    mean, std = moments(train.images)
    report["classes"] = {name: audit.per_class(s.labels, classes) for name, s in splits.items()}
    report["classes"]["holdout"] = audit.per_class(train.labels[holdout], classes)
    report["unlabelled"] = int((train.labels < 0).sum())
    everything = np.concatenate([train.sizes, test.sizes])
    report["sizes"] = audit.describe_sizes(everything)
    report["enlarged"] = int((everything.min(axis=1) < config.image_size).sum())
    found = audit.warnings(report, len(train.rows), config.image_size, config.channels)
    report["warnings"] = [shown(w) for w in (*source.warnings, *found)]
    for name, split in splits.items():
        if isinstance(split.images, np.memmap):
            split.images.flush()
        np.save(directory / f"{name}_labels.npy", split.labels)
        files.write_text(directory / f"{name}_files.txt", one_per_line(split.names))
    np.save(directory / "train_holdout.npy", holdout)
    meta = {
        "name": shown(source.name),
        "source": shown(source.origin),
        "license": source.license,
        "classes": classes,
        "image_size": config.image_size,
        "channels": config.channels,
        "mean": mean,
        "std": std,
        "num_train": len(train.rows),
        "num_test": len(test.rows),
    }
    files.write_json(directory / "meta.json", meta)
    files.write_json(directory / "audit.json", report)


def compare(train: Split, test: Split, classes: list[str], config: DataConfig, check: Callable[[], None]) -> dict[str, Any]:
    """Duplicates, leaks, conflicts and constant images; drops the leaked training rows when asked to."""
    keys = {"train": hashes(train.images), "test": hashes(test.images)}
    names = [shown(n) for n in (*train.names, *test.names)]
    parts = {"train": names[: len(train.rows)], "test": names[len(train.rows) :]}
    labels = np.concatenate([train.labels, test.labels])
    found: dict[str, Any] = {"duplicates": {}, "constant": {}}
    for name, split in (("train", train), ("test", test)):
        known = split.files[split.files > 0]
        same_file = len(known) - len(np.unique(known))
        found["duplicates"][name] = audit.repeats(keys[name], parts[name]) | {"extra_files": same_file}
        flat = np.flatnonzero(audit.constant(split.images))
        found["constant"][name] = {"count": len(flat), "examples": [parts[name][i] for i in flat[: audit.EXAMPLES]]}
    found["conflicts"] = audit.conflicts(np.concatenate([keys["train"], keys["test"]]), labels, names, classes)
    leaked = np.isin(keys["train"], keys["test"])
    rows = np.flatnonzero(leaked)
    by_file = int((np.isin(train.files, test.files) & (train.files > 0)).sum())
    examples = [parts["train"][i] for i in rows[: audit.EXAMPLES]]
    found["leaks"] = {
        "count": len(rows),
        "by_file": by_file,
        "dropped": len(rows) if config.drop_leaks else 0,
        "examples": examples,
    }
    copied = np.isin(keys["test"], keys["train"][~leaked] if config.drop_leaks else keys["train"])
    if config.drop_leaks:
        train.drop(leaked)
    found["near_duplicates"] = audit.near_duplicates(train.images, test.images, copied, check)
    return found


def check_classes(train: Split, test: Split, classes: list[str], config: DataConfig) -> None:
    """Refuse a data set on which the scores would mean nothing.

    Raises:
        DataError: a class without training or test images, or one class, or nothing to train on.
    """
    if len(train.rows) < 2:
        raise DataError(
            f"{len(train.rows)} training image(s) are left after the unusable and leaked ones; there must be at least 2"
        )
    why = "its files are unusable or leaked, or data.max_train and data.max_test are too small"
    for name, split in (("train", train), ("test", test)):
        if classes and (name == "train" or len(split.rows)):
            counts = np.bincount(split.labels[split.labels >= 0], minlength=len(classes))
            if counts.min() == 0:
                raise DataError(f"class {classes[counts.argmin()]!r} has no images left in {name}: {why}")


def moments(pixels: Array) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in [0, 1], from exact sums.

    Raises:
        DataError: every image is the same single color.
    """
    total, squares = (np.zeros(pixels.shape[1], np.int64) for _ in range(2))
    for _, block in blocks(pixels):
        counts = np.stack([np.bincount(block[:, c].ravel(), minlength=256) for c in range(pixels.shape[1])])
        total += counts @ np.arange(256)
        squares += counts @ np.arange(256) ** 2
    n = pixels.size // pixels.shape[1]
    mean = total / n
    std = np.sqrt(np.maximum(squares / n - mean**2, 0))
    if std.min() < 1e-6 * 255:
        raise DataError("all training images together are a single color in one channel; there is nothing to learn")
    return (mean / 255).tolist(), (std / 255).tolist()
