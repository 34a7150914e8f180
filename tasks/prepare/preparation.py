"""Stage ``prepare``: find the images, check and decode them, split and store them as arrays, and say what is odd about them.

The stage writes ``data/prepared``: uint8 arrays, labels, ``meta.json``, ``audit.json`` and the origin of every row. Either the
whole directory appears or nothing does.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from tasks.prepare import auditing, bands, levels, tiled, transparency
from tasks.prepare.intake import Seen, Split, decode_into, new_split
from tasks.prepare.layout import one_per_line, shown
from tasks.prepare.source import Source, open_source
from tasks.prepare.splits import group_numbers, held_out, split_rows, without_single
from tasks.runtime import audit, files
from tasks.runtime.audit import Audit, Ignored, Quarantined
from tasks.runtime.dataset import Array, blocks
from tasks.runtime.errors import DataError
from tasks.runtime.params import DataConfig
from tasks.runtime.stage import state_directory
from tasks.runtime.words import counted, few

CONSTANT = 1e-6
"""Deviation, as a share of white, below which a channel shows nothing."""
NAMED = 3
"""Unusable files a message names; the others are in ``.ssl/unusable.json``."""


def nothing() -> None:
    """The check of a caller that never stops."""


def prepare(
    config: DataConfig,
    target: Path,
    check: Callable[[], None] = nothing,
    progress_file: Path | None = None,
    also: Callable[[Path], None] = lambda directory: None,
) -> None:
    """Write the prepared data set to the directory ``target``, whole or not at all.

    Args:
        check: called now and then; may raise to stop.
        progress_file: where to leave the progress for a watching process.
        also: called with the directory once all else is in it; may add files, and may raise to refuse the images.

    Raises:
        ConfigError, UsageError: an unknown data set, or a path that is not what data.source says.
        DataError: the images are not usable as they are.
        EnvironmentFault: not enough disk space, or no network for a download.
    """
    source = open_source(config)
    source.items, source.classes = without_single(source.items, source.classes, config, source.warnings)
    source = tiled.cut_as_asked(source, config, check, progress_file)
    chosen = split_rows(source.items, source.classes, config, source.warnings)
    size = sum(map(len, chosen.values())) * config.channels * config.stored**2 * config.bits // 8
    files.check_space(target, int(size * 1.05) + (16 << 20), "free some, or lower data.max_train or data.image_size")
    if target.parent.is_dir():
        files.remove_leftovers(target.parent)

    def fill(directory: Path) -> None:
        splits = {name: new_split(directory, name, rows, source, config) for name, rows in chosen.items()}
        seen = decode_into(source, splits, config, check, progress_file)
        if len(seen.bad) > config.max_bad:
            raise rejection(source, seen.bad, config.max_bad)
        finish(directory, source, splits, seen, config, check)
        also(directory)

    files.write_directory(target, fill)
    unusable_files().unlink(missing_ok=True)


# ---------------------------------------------------------------------- before


def unusable_files() -> Path:
    """Where the list of a stage that was refused lies; that of a finished one is in its ``audit.json``."""
    return state_directory() / "unusable.json"


def rejection(source: Source, bad: list[tuple[str, str]], allowed: int) -> DataError:
    """The error for too many unusable files; the whole list goes where the user can read it."""
    path = unusable_files()
    files.write_json(path, [{"file": shown(name), "reason": reason} for name, reason in bad])
    named = few((f"{name!r}: {reason}" for name, reason in bad), NAMED, "; ")
    bands = {found[1] for _, reason in bad if (found := re.match(r"(\d+) bands, but data\.channels", reason))}
    alike = len(bad) == source.files and len(bands) == 1  # then it is not the files that are wrong
    to_do = f"Set data.channels to {bands.pop()}" if alike else "Repair or remove them, or raise data.max_bad"
    return DataError(
        f"{len(bad)} of {source.files} files cannot be used and data.max_bad allows {allowed}: {named}."
        f" {to_do} (all of them: {os.path.relpath(path)})"
    )


# ---------------------------------------------------------------------- the result


def finish(
    directory: Path, source: Source, splits: dict[str, Split], seen: Seen, config: DataConfig, check: Callable[[], None]
) -> None:
    """Judge the images, drop leaks, and write everything beside the pixels."""
    train, test = splits["train"], splits["test"]
    classes = [shown(c) for c in source.classes]
    copies, pixels = auditing.compare(train, test, classes, config.drop_leaks, check)
    with _explained(seen.notes):
        check_classes(train, test, classes)
        mean, std = moments(train.images)
    items = [source.items[row] for row in train.rows]
    holdout = held_out(train.labels, items, pixels, config.holdout_fraction, config.seed)
    source.warnings += _without_use(std, holdout if classes and config.holdout_fraction else None)
    for name, split in splits.items():
        if isinstance(split.images, np.memmap):
            split.images.flush()
        np.save(directory / f"{name}_labels.npy", split.labels)
        files.write_text(directory / f"{name}_files.txt", one_per_line(split.names))
        if any(item.group for item in source.items):
            np.save(directory / f"{name}_groups.npy", group_numbers([source.items[row] for row in split.rows]))
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
    # Images to embed later must be treated alike.
    meta |= {"bit_depth": seen.bit_depth} if seen.peak else {}
    meta |= {"store_size": config.stored} if config.stored != config.image_size else {}
    meta |= {"bits": config.bits} if config.bits != 8 else {}
    meta |= {"fit": config.fit} if config.fit != "crop" else {}
    meta |= {"tile": config.tile} if config.tile else {}
    files.write_json(directory / "meta.json", meta)
    audit.write(directory, judge(source, splits, holdout, classes, seen, copies, config))


@contextmanager
def _explained(notes: Counter[str]) -> Iterator[None]:
    """To an error of images that are left out or all alike, what may have made them so."""
    try:
        yield
    except DataError as error:
        why = [text for text in sorted(notes) if text.startswith((transparency.BEGINNING, levels.BEGINNING, bands.CUT))]
        said = [f"{counted(notes[text], 'image', 'images')}: {text}" for text in why]
        raise DataError("; ".join([str(error), *said])) from None


def _without_use(std: Sequence[float], holdout: Array | None) -> list[str]:
    """What of these images tells nothing: channels, and labels of which none could be held out."""
    found = [f"channel {number} is the same in all training images" for number, s in enumerate(std, 1) if s == 1]
    if holdout is not None and not holdout.any():
        found.append(
            "labels are not used: no class has two training images of different groups, of which one could be held out for"
            " choices; add such images, or leave classes out"
        )
    return found


def judge(
    source: Source,
    splits: dict[str, Split],
    holdout: Array,
    classes: Sequence[str],
    seen: Seen,
    copies: auditing.Copies,
    config: DataConfig,
) -> Audit:
    """The audit of the finished splits."""
    train, test = splits["train"], splits["test"]
    sizes = np.concatenate([train.sizes, test.sizes])
    labels = {"train": train.labels, "test": test.labels, "holdout": train.labels[holdout]}
    facts = Audit(
        **vars(copies),
        classes={name: auditing.per_class(values, classes) for name, values in labels.items()},
        unlabelled=int((train.labels < 0).sum()),
        quarantined=tuple(Quarantined(shown(name), reason) for name, reason in seen.bad),
        ignored=Ignored(len(source.ignored), tuple(shown(name) for name in source.ignored[:100])),
        sizes=auditing.describe_sizes(sizes),
        enlarged=int((sizes.min(axis=1) < config.image_size).sum()),
        formats=dict(seen.formats),
        modes=dict(seen.modes),
        notes=dict(seen.notes),
        warnings=(),
    )
    sentences = auditing.warnings(facts, len(train.rows), config.image_size, config.channels)
    return replace(facts, warnings=tuple(shown(text) for text in (*source.warnings, *sentences)))


def check_classes(train: Split, test: Split, classes: Sequence[str]) -> None:
    """Refuse a data set on which the scores would mean nothing.

    Raises:
        DataError: a class without training or test images, or one class, or nothing to train on.
    """
    if len(train.rows) < 2:
        raise DataError(
            f"{len(train.rows)} training image(s) are left after the unusable and leaked ones; there must be at least 2"
        )
    why = (
        "there were none, they are unusable or leaked, or data.max_train and data.max_test are too small; without labels (in a"
        " table, empty ones) its images are trained on all the same"
    )
    for name, split in (("train", train), ("test", test)):
        if classes and (name == "train" or len(split.rows)):
            counts = np.bincount(split.labels[split.labels >= 0], minlength=len(classes))
            if counts.min() == 0:
                raise DataError(f"class {classes[counts.argmin()]!r} has no images left in {name}: {why}")


def moments(pixels: Array) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in [0, 1], from exact sums; 1 for a channel that is the same everywhere.

    Raises:
        DataError: every image is the same single color.
    """
    total, squares = np.zeros(pixels.shape[1], np.int64), [0] * pixels.shape[1]
    white = int(np.iinfo(pixels.dtype).max)
    for _, block in blocks(pixels):
        counts = np.stack([np.bincount(block[:, c].ravel(), minlength=white + 1) for c in range(pixels.shape[1])])
        total += counts @ np.arange(white + 1)
        of_block = (counts @ np.arange(white + 1) ** 2).tolist()
        squares = [a + b for a, b in zip(squares, of_block, strict=True)]  # of any size: 64 bits are few for many 16-bit images
    n = pixels.size // pixels.shape[1]
    mean = total / n
    std = np.sqrt(np.maximum(np.array(squares, float) / n - mean**2, 0)) / white
    if std.max() < CONSTANT:
        raise DataError("all training images together are a single color; there is nothing to learn")
    return (mean / white).tolist(), np.where(std < CONSTANT, 1.0, std).tolist()
