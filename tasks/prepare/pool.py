"""A task beside the pool: whether it can be scored, and which of its test images the encoders are trained on.

A test image that an encoder has seen without its label flatters the score; it does not give the label away. So such images
are named and stay. A task that is the pool's own test is refused: it would be scored, and choose, twice.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tasks.prepare.auditing import EXAMPLES, near_duplicates
from tasks.prepare.layout import shown
from tasks.runtime import dataset, files
from tasks.runtime.dataset import IN_POOL, Array
from tasks.runtime.errors import DataError, IntegrityError
from tasks.runtime.words import printable, unseen

SQUARES = ("fit", "tile")
"""What makes other pixels of the same file."""


def compare(directory: Path, task: str, check: Callable[[], None]) -> None:
    """Write ``in_pool.json`` into the directory of a task that is nearly finished.

    Raises:
        DataError: fewer than two classes, no test images, or the pool's own test.
    """
    meta = files.read_json(directory / "meta.json")
    classes = meta["classes"]
    if len(classes) < 2:
        what = f"one class, {classes[0]!r}" if classes else "no classes"
        raise DataError(f"the images of task {task} have {what}; a task needs at least two (a folder for each)")
    test = np.load(directory / "test_images.npy", mmap_mode="r", allow_pickle=False)
    if not len(test):
        raise DataError(f"task {task} has no test images; raise tasks.{task}.test_fraction")
    pool, keys = dataset.load(), dataset.hashes(test)
    if pool.test_images.shape[1:] != test.shape[1:]:
        sizes = " and ".join("x".join(map(str, images.shape[1:])) for images in (pool.test_images, test))
        raise IntegrityError(
            f"data/prepared and task {task} have images of {sizes}: params.yaml changed; run dvc repro prepare"
        )
    scored = dataset.hashes(pool.test_images)
    tested = np.isin(keys, scored)
    held = pool.has_labels and len(scored) > 0 and bool(np.isin(scored, keys).all())  # and more, where data.max_test cut it
    if tested.all() or held:
        which = "has all the test images of data" if held else f"has {len(test):,} test images, all of them in that of data"
        raise DataError(
            f"task {task} is the pool's own test: it {which}, where every encoder is scored already; give other images, or take"
            f" {task} out of run.tasks"
        )
    copied = np.isin(keys, dataset.hashes(pool.train_images))
    names = [json.loads(line) for line in (directory / "test_files.txt").read_text(encoding="utf-8").splitlines()]
    alike = near_duplicates(pool.train_images, test, copied, check)
    files.write_json(
        directory / IN_POOL,
        {
            "test_images": len(test),
            "equal": int(copied.sum()),
            "tested": int(tested.sum()),
            "alike": alike.count,
            "checked": alike.checked,
            "examples": _named(copied, names),
            "alike_examples": [_shown(names[pair.test]) for pair in alike.pairs[:EXAMPLES]],
            "otherwise": [key for key in SQUARES if meta.get(key) != pool.meta.get(key)],
        },
    )


def _named(mask: Array, names: list[str]) -> list[str]:
    return [_shown(names[row]) for row in np.flatnonzero(mask)[:EXAMPLES]]


def _shown(name: str) -> str:
    return printable(shown(name))


def in_words(directory: Path, task: str) -> list[str]:
    """What ``in_pool.json`` says, a line for each kind; nothing where no image is in both."""
    found: dict[str, Any] = files.read_json(directory / IN_POOL)
    of, lines = f"pool: of {found['test_images']:,} test images of task {task}", []
    if found["tested"]:
        lines.append(f"{of}, {found['tested']:,} are test images of data too: the two scores are in part of the same images")
    if found["otherwise"]:
        lines.append(f"pool: {unseen(task, found['otherwise'])}")
    if not found["equal"] and not found["alike"]:
        return lines
    named = ", ".join([*found["examples"], *found["alike_examples"]][:3])
    return [
        *lines,
        f"{of}, {found['equal']:,} are among the training images of data and {found['alike']:,} look like one ({named}, ...):"
        " encoders have seen them without their labels",
    ]
