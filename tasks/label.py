"""``python -m tasks.label``: pick the images whose labels choose among the encoders, where the data have no labels.

It writes ``labels/label-these.csv``, to be filled in, and ``labels/label-these.png``, the same images as a sheet. A higher
``--count`` adds images to a file with labels. With the name of a filled file it checks the labels, puts them in their place
and shows what they choose; then ``make run`` brings report and registry up to date.
"""

import argparse
import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from tasks import few_labels
from tasks.choice import champion, why_none
from tasks.columns import FEW_LABELS
from tasks.conclusions import sentences, worth_it
from tasks.few_labels import COLUMNS, ENOUGH, FILE, Pool
from tasks.leaderboard import percent
from tasks.results import Result, load_scores
from tasks.runtime import dataset, files, params, settings
from tasks.runtime.errors import DataError, UsageError, run
from tasks.runtime.words import counted, few, printable
from tasks.verdict import judge
from tasks.worth import points, reverse

SHEET = FILE.with_suffix(".png")
LEAST = 10
SEED = 0
CLASSES = 20
"""Of them, how many are printed."""
POOL = 20_000
"""Images, evenly spaced, among which the ones to label are picked."""


def refuse_labels(root: Path) -> None:
    """Refuse to choose by a few labels what held-out labels choose.

    Raises:
        UsageError: no images have been prepared.
        DataError: there are such labels, of the images or of a task.
    """
    if not (root / dataset.PREPARED / files.MANIFEST).exists():
        raise UsageError("no images are prepared here; run make run first, whose encoders choose the images to label")
    data = dataset.load(root / dataset.PREPARED)
    if not few_labels.are_needed(data):
        raise DataError("the images have labels, and the held-out ones choose: nothing is left to label")
    tasks = params.run_config(params.load(root / params.PARAMS)).tasks
    if tasks:
        raise DataError(f"the held-out labels of the task {tasks[0]} choose: nothing is left to label")


def picked(root: Path, results: Sequence[Result], count: int) -> list[int]:
    """Rows of ``count`` training images that stand for all, by the encoders that have not collapsed."""
    import torch

    from ssl_core.labelling import spread

    kept = [result for result in results if result.kept]
    sound = [result for result in kept if not result.is_collapsed] or kept
    total = len(dataset.load(root / dataset.PREPARED).train_images)
    pool = min(total, POOL)
    if count > pool and count != ENOUGH:
        raise UsageError(f"--count {count} is more than the {pool:,} training images that are looked at")
    count = min(count, pool)
    rows = np.arange(pool) * total // pool
    stored = (files.load_tensors(root / f"out/features/{result.file}.safetensors")["train"] for result in sound)
    return [int(rows[i]) for i in spread([torch.from_numpy(x[rows]) for x in stored], count, SEED)]


def to_csv(rows: Sequence[int], pool: Pool, labels: Mapping[int, str] = MappingProxyType({})) -> str:
    """The file to fill in.

    Args:
        labels: those that are known, by row.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((number, pool.names[row], labels.get(row, ""), pool.code(row)) for number, row in enumerate(rows, 1))
    return out.getvalue()


def sheet(rows: Sequence[int], images: dataset.Array) -> bytes:
    """The images as they are stored, ten in a row, as a PNG."""
    from PIL import Image

    from tasks.picture_sheet import ACROSS, SIDE, Section, png
    from tasks.report.pictures import ends, thumbnail

    shown = ends(images, rows)
    found = {row: Image.fromarray(thumbnail(images[row], shown)).resize((SIDE, SIDE)) for row in rows}
    groups = [rows[start : start + ACROSS] for start in range(0, len(rows), ACROSS)]
    titles = [f"{ACROSS * i + 1} to {ACROSS * i + len(group)}" for i, group in enumerate(groups)]
    return png([Section(title, group) for title, group in zip(titles, groups, strict=True)], found)


def pick(root: Path, count: int) -> None:
    """Write the file to fill in and its sheet; where it has labels, with further images after these.

    Raises:
        UsageError: there is one with as many images, or ``count`` is too low, or larger than usual and than their number.
        DataError: there is one that cannot be added to.
    """
    if count < LEAST:
        raise UsageError(f"--count must be {LEAST} or more")
    refuse_labels(root)
    every = few_labels.pool(root)
    labels = few_labels.labels(root / FILE, every) if (root / FILE).exists() else {}
    if len(labels) >= count:
        empty = sum(not label for label in labels.values())
        wait = f" and {counted(empty, 'line', 'lines')} without one" if empty else ""
        more = f"--count {min(2 * len(labels), len(every.names))} adds images, " if len(labels) < len(every.names) else ""
        to_do = f"python -m tasks.label {FILE} takes them, {more}or move it away for new ones"
        raise UsageError(f"{FILE} has labels{wait}; {to_do}")
    fresh = [row for row in picked(root, load_scores(root)[0], count) if row not in labels]
    if not fresh:
        raise UsageError(f"{FILE} has every image already that is looked at")
    wanted = min(count - len(labels), len(fresh))
    rows = [*labels, *(fresh[i * len(fresh) // wanted] for i in range(wanted))]  # evenly: rows lie by class in many a folder
    (root / FILE).parent.mkdir(exist_ok=True)
    files.write_bytes(root / SHEET, sheet(rows, every.images))
    files.write_text(root / FILE, to_csv(rows, every, labels))
    waiting, of_all = sum(not labels.get(row) for row in rows), f" of {len(rows)}" if labels else ""
    print(f"{FILE}: {waiting} images to label{of_all}, shown in {SHEET}.")
    print(f"Write a class into the column label of each, then: python -m tasks.label {FILE}")


def take(root: Path, path: Path) -> None:
    """Check filled labels, put them in their place, and show what they choose.

    Raises:
        DataError: something is wrong with the file.
    """
    refuse_labels(root)
    found = few_labels.read(path, few_labels.pool(root))
    if found is None:
        raise DataError(f"{path} has no label yet; write a class into the column label of each line")
    if path.resolve() != (root / FILE).resolve():
        (root / FILE).parent.mkdir(exist_ok=True)
        files.write_bytes(root / FILE, path.read_bytes())
    results, _ = load_scores(root)
    best, verdict = champion(results), judge(results)
    for row in verdict.rows:
        behind = verdict.standings[row.method].behind
        beside = f"{'=' if not behind.is_clear else ' '} {points(reverse(behind))}" if behind else ""
        found_share = percent(row.mean(FEW_LABELS.name), row.std(FEW_LABELS.name)).replace("-", "−")
        print(f"{row.method:14} {found_share:>12} % {beside}".rstrip())
    if verdict.best and any(standing.behind for standing in verdict.standings.values()):
        print(f"Points beside {verdict.best.method}, with 95 % intervals; = cannot be told from it by these labels.")
    counts = Counter(found.labels)
    each = few((f"{printable(name)} {counts[number]}" for number, name in enumerate(found.classes)), CLASSES)
    alone = [printable(name) for number, name in enumerate(found.classes) if counts[number] == 1]
    empty = f"; {counted(found.empty, 'image has', 'images have')} no label yet" if found.empty else ""
    print(f"{len(found.rows)} labels, {len(found.classes)} classes: {each}{empty}.")
    if alone:
        print(f"note: with one image each, which tells nothing, and may be misspelled: {few(alone, CLASSES)}")
    if best and best.few:
        print(f"The choice: {best.name}; a regression on its features {few_labels.in_words(best.few)}.")
        print("make run names it champion.")
    else:
        print(f"None is chosen. {why_none(results)}")
    for line in sentences(verdict) + worth_it(verdict):
        print(line)


def main() -> None:
    """Pick, or take back."""
    parser = argparse.ArgumentParser(prog="python -m tasks.label", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, help="a filled file, to choose by its labels")
    parser.add_argument("--count", type=int, default=ENOUGH, help=f"how many images to pick (default: {ENOUGH})")
    options = parser.parse_args()
    settings.need_project()
    if options.file:
        take(Path(), options.file)
    else:
        pick(Path(), options.count)


if __name__ == "__main__":
    run(main)
