"""The choice among encoders where the data have no labels: by a few that somebody gives, in ``labels/label-these.csv``.

``python -m tasks.label`` picks the images and writes the file. Whoever reads results reads it when it is filled in, so report
and registration follow from it as from everything else.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.columns import safe_cell
from tasks.runtime import dataset, files
from tasks.runtime.errors import DataError
from tasks.runtime.words import few, folded

if TYPE_CHECKING:
    from tasks.results import Result

FOLDER = Path("labels")
FILE = FOLDER / "label-these.csv"
COLUMNS = ("number", "file", "label", "picture")
NEEDED = COLUMNS[1:3]
ALIKE = 20
"""Most bits of 64 in which codes of a picture may differ. The same one of another size, in grey or of another depth differs in
13 at most, 99 times in 100; two photographs differ in 25 and more, every other time."""
NAMED = 5
"""Faults that a message names."""
ENOUGH = 100
"""Labels that are asked for; docs/label-free.md says how well so many choose."""


@dataclass(frozen=True)
class Labelled:
    """A few labelled training images."""

    rows: tuple[int, ...]
    """Their numbers among the training images."""
    labels: tuple[int, ...]
    """Their classes."""
    classes: tuple[str, ...]
    empty: int = 0
    """Lines without a label yet."""
    groups: np.ndarray | None = None
    """(n,) equal for images that belong together; None where none of the pool do."""


@dataclass(frozen=True)
class Few:
    """What a few labelled images say of an encoder."""

    each: np.ndarray
    """(n,) how much of the label of each a regression on the others predicts (``ssl_core.labelling``)."""
    others: int
    """How many labels are not of the most frequent class."""
    groups: np.ndarray | None = None
    """(n,) equal for images that belong together: none was predicted from another one of its group."""

    @property
    def units(self) -> int:
        """How many labels, or groups of them, say something of their own."""
        return self.labels if self.groups is None else len(np.unique(self.groups))

    @property
    def explained(self) -> float:
        """Of all labels: a leave-one-out R2."""
        return float(self.each.mean())

    @property
    def labels(self) -> int:
        """How many there are."""
        return len(self.each)


@dataclass(frozen=True)
class Pool:
    """The images that labels may be of: all training images."""

    names: Sequence[str]
    """As cells of a table show them."""
    images: dataset.Array
    """(N, C, S, S), as they are stored."""
    groups: dataset.Array | None = None
    """(N,) equal for images that belong together; None where none do."""

    def code(self, row: int) -> str:
        """What the picture looks like, so that the same name for another one is noticed: ``p`` and 16 hexadecimal digits, a bit
        for each two neighbors of 9 x 8 parts, whether the right one is brighter (a difference hash)."""
        from PIL import Image

        grey = np.asarray(self.images[row], np.float32).mean(0)
        parts = np.asarray(Image.fromarray(grey).resize((9, 8), Image.Resampling.BOX))
        return f"p{np.packbits(parts[:, 1:] > parts[:, :-1]).tobytes().hex()}"  # a spreadsheet takes no p for a number

    def has(self, row: int, code: str) -> bool:
        """Whether ``code`` may be of this image; a cell that is no code says nothing."""
        return not re.fullmatch("p[0-9a-f]{16}", code) or (int(code[1:], 16) ^ int(self.code(row)[1:], 16)).bit_count() <= ALIKE


def labels(path: Path, pool: Pool) -> dict[int, str]:
    """What a CSV file with the columns of ``COLUMNS`` says of images, by their numbers in ``pool``, in its order; nothing where
    no line has a label yet.

    Raises:
        DataError: the file cannot be read, or names images that are not there, twice, or now others than when it was made.
    """
    lines = _lines(path)
    number = {name: row for row, name in enumerate(pool.names)}
    files_named = [line["file"] for line in lines]
    unknown = [name for name in files_named if name not in number]
    if unknown:
        raise DataError(
            f"{path} names {few(unknown, NAMED)}, which {_is(unknown)} among the training images: leave the column"
            " file as it was, or move the file away if the images are others now"
        )
    twice = [name for name, count in Counter(files_named).items() if count > 1]
    if twice:
        raise DataError(f"{path} names {few(twice, NAMED)} more than once; leave one line of each")
    others = [line["file"] for line in lines if not pool.has(number[line["file"]], line["picture"])]
    if others:
        raise DataError(
            f"{path}: {few(others, NAMED)} {'is' if len(others) == 1 else 'are'} another picture now than when the labels were"
            " given (data.path, data.tile): move the file away, and python -m tasks.label picks anew; if it is the same, only"
            " prepared otherwise, empty the column picture"
        )
    return {number[line["file"]]: line["label"] for line in lines} if any(line["label"] for line in lines) else {}


def read(path: Path, pool: Pool) -> Labelled | None:
    """The labels in such a file; None where no line has one yet.

    Raises:
        DataError: as of ``labels``, or its labels tell nothing.
    """
    found = labels(path, pool)
    given = [(row, label) for row, label in found.items() if label]
    if not given:
        return None
    counts = Counter(label for _, label in given)
    first = {folded(name): name for name in sorted(counts, reverse=True)}
    if other := next((name for name in sorted(counts) if first[folded(name)] != name), None):
        raise DataError(f"{path}: {first[folded(other)]!r} and {other!r} are one class spelled in two ways; spell it in one")
    if len(counts) < 2:
        raise DataError(f"{path}: all {len(given)} labels are {given[0][1]!r}; a choice needs two classes at least")
    if sorted(counts.values())[-2] < 2:
        most = max(counts, key=lambda c: counts[c])
        what = f"only {most!r} has more than one image" if counts[most] > 1 else f"the {len(given)} labels are all different"
        raise DataError(f"{path}: {what}; a choice needs two images at least of two classes")
    classes = tuple(sorted(counts))
    rows, chosen = zip(*((row, classes.index(label)) for row, label in given), strict=True)
    groups = None if pool.groups is None else np.asarray(pool.groups)[list(rows)]
    if groups is not None and len(np.unique(groups)) < 2:
        raise DataError(f"{path}: all labels are of one group of images, which tells nothing of others; label some of those")
    return Labelled(rows, chosen, classes, len(found) - len(given), groups)


def _lines(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file, stripped; a spreadsheet may have put semicolons or tabs between the columns."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; python -m tasks.label makes {FILE}") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise DataError(f"{path} is not UTF-8 text; save it as CSV in UTF-8") from None
    told = text.partition("\n")[0].lower().startswith("sep=")  # a spreadsheet is
    text = text.partition("\n")[2] if told else text
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        numbered = [(reader.line_num + told, row) for row in reader if any(row)]
    except csv.Error as error:
        raise DataError(f"{path}: {error}; save it as CSV") from None
    rows = [row for _, row in numbered]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    missing = [name for name in NEEDED if name not in header]
    if missing:
        raise DataError(f"{path} has no column {' and no column '.join(missing)}; its first line must be {','.join(COLUMNS)}")
    if twice := [name for name in NEEDED if header.count(name) > 1]:
        raise DataError(f"{path} has two columns {twice[0]}; leave one")
    short = [str(number) for number, row in numbered if len(row) <= header.index("file")]
    if short:
        raise DataError(f"{path}: line {few(short, NAMED)} has no file; make it as it was, or leave it out")
    at = {name: header.index(name) if name in header else len(header) for name in COLUMNS[1:]}
    return [{name: row[place].strip() if place < len(row) else "" for name, place in at.items()} for row in rows[1:]]


def _is(names: Sequence[str]) -> str:
    return "is not" if len(names) == 1 else "are not"


def pool(root: Path) -> Pool:
    """The training images, in the order of their rows."""
    lines = (root / dataset.PREPARED / "train_files.txt").read_text(encoding="utf-8").splitlines()
    whole = (json.loads(line).encode("utf-8", "surrogateescape") for line in lines)  # of any bytes
    names = [safe_cell(name.decode("utf-8", "backslashreplace")) for name in whole]
    while len(often := Counter(names)) < len(names):  # they differ in blanks alone
        names = [name if often[name] == 1 else f"{name} ({row})" for row, name in enumerate(names)]
    data = dataset.load(root / dataset.PREPARED)
    return Pool(names, data.train_images, data.train_groups)


def are_needed(data: dataset.Dataset) -> bool:
    """Whether no held-out labels choose among the encoders of these images."""
    held = data.train_holdout[data.train_labels >= 0]
    return not held.any() or bool(held.all())


def check(root: Path) -> None:
    """Once the images are prepared, and before anything is trained on them: whether the labels that will choose are of them.

    Raises:
        DataError: the file of labels is not as it must be.
    """
    if (root / FILE).exists() and are_needed(dataset.load(root / dataset.PREPARED)):
        read(root / FILE, pool(root))


def beside(root: Path, results: Sequence["Result"]) -> list["Result"]:
    """The results with what the labelled images say of their encoders, if there are such images.

    Raises:
        DataError: the file of labels is not as it must be.
    """
    path = root / FILE
    found = read(path, pool(root)) if path.exists() else None
    if found is None:
        return list(results)
    import torch

    from ssl_core.labelling import explained_by_few

    rows, classes = list(found.rows), torch.tensor(found.labels)
    apart = None if found.groups is None else torch.from_numpy(found.groups)
    others = len(rows) - max(Counter(found.labels).values())

    def judged(result: "Result") -> "Result":
        features = files.load_tensors(root / f"out/features/{result.file}.safetensors")["train"][rows]
        return replace(
            result, few=Few(explained_by_few(torch.from_numpy(features), classes, apart).numpy(), others, found.groups)
        )

    return [judged(result) if result.kept else result for result in results]


def in_words(few: Few) -> str:
    """What a regression on the other labelled images does with those of this encoder."""
    share = f"{100 * few.explained:.1f} %"
    if few.explained > 0:
        return f"predicts {share} of the variation of their labels"
    return f"predicts nothing of their labels (R2 {share}: below 0 is worse than without any features)"


def sentence(few: Few | None) -> str:
    """What chose, or what to do where nothing can: None without labels."""
    if few is None:
        return (
            "Without labels nothing tells which encoder is best, so none is named champion:"
            f" python -m tasks.label picks {ENOUGH} images (all, if there are fewer), and their labels choose"
            " (docs/label-free.md)."
        )
    what = "labels" if few.groups is None else "groups of images"
    more = "" if few.units >= ENOUGH else f" Fewer than {ENOUGH} {what} may choose wrongly (docs/label-free.md)."
    return (
        f"{few.labels} labelled images choose: how much of the label of each a regression on the others predicts"
        f" (leave-one-out R2).{more}"
    )
