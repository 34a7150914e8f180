"""What a source of images is, and the way from ``data.source`` to the module that opens it."""

import importlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from tasks.prepare import layout
from tasks.prepare.class_folders import ClassFolder
from tasks.prepare.decoding import BadImage, Part
from tasks.prepare.layout import Item
from tasks.prepare.names import SUMS, is_image, left_out, to_read
from tasks.prepare.split_names import role_of, words_of
from tasks.prepare.tiff import MOST
from tasks.runtime.dataset import Array
from tasks.runtime.errors import DataError
from tasks.runtime.params import DataConfig
from tasks.runtime.words import few

Content = bytes | Array | BadImage
TEXTS = (".csv", ".tsv", ".jsonl")
READ = (*TEXTS, ".parquet")
ESCAPED = {"n": "\n", "r": "\r", "\\": "\\"}
"""What sha256sum writes in names, after a backslash."""
LISTS = (*READ, ".json", ".xlsx", ".xls")
"""What may be a list of images; ``data.source: table`` reads some."""
BELOW = ("metadata.csv", "metadata.jsonl")
"""Lists that may lie below the top, of what lies beside them: those of Hugging Face's image folders."""
OWN_LICENSE = "not stated (the user's own images)"


def open_source(config: DataConfig) -> "Source":
    """Open the source that params.yaml names.

    Raises:
        ConfigError, UsageError: ``data.name`` or ``data.path`` is not what the source needs.
        DataError: the source holds nothing usable.
        EnvironmentFault: a download is needed and impossible.
    """
    source: Source = importlib.import_module(f"tasks.prepare.sources.{config.source}").open_source(config)
    if config.name and not isinstance(source, ArraySource):
        source.name = source.origin = config.name  # two folders may be called alike, and one otherwise each week
    return source


@dataclass
class Source(ABC):
    """A list of images that are not read yet.

    ``read(rows)`` yields (row, content) in any order. The content is the file's bytes, decoded pixels (H, W) or (H, W, C)
    uint8 or uint16, or why it cannot be read.
    """

    name: str
    origin: str
    license: str
    items: list[Item] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    """Class names; an item's label is a position in this list."""
    ignored: list[str] = field(default_factory=list)
    """Names of files that are no images."""
    bad: list[tuple[str, str]] = field(default_factory=list)
    """(name, reason) of what was refused without being read."""
    warnings: list[str] = field(default_factory=list)
    sums: dict[str, str] = field(default_factory=dict)
    """sha256 by name, from a SHA256SUMS file."""

    @property
    def files(self) -> int:
        """How many images it has, those that were refused included."""
        return len(self.items) + len(self.bad)

    def differs(self, row: int, sha256: str) -> str:
        """Why the file at ``row`` must not be used if that is its hash; empty if it may be."""
        known = self.sums.get(self.items[row].name, sha256)
        return "" if known == sha256 else f"differs from its hash in {SUMS}"

    def part(self, row: int) -> Part | None:
        """Which tile of what is read at ``row`` the item is; None: all of it."""
        return None

    @abstractmethod
    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, Content]]:
        """Read the items at ``rows``."""


class ArraySource(Source):
    """Images that come decoded.

    Args:
        splits: (``train`` or ``test``, images (N, H, W) or (N, H, W, C) uint8 or uint16, labels (N,) with -1 for none).

    Raises:
        DataError: images or labels of another type or shape, or a label that names no class.
    """

    def __init__(self, name: str, origin: str, license: str, classes: list[str], splits: Sequence[tuple[str, Array, Array]]):
        super().__init__(name, origin, license, classes=classes)
        for split, pixels, labels in splits:
            _check_arrays(f"{origin}, {split}", pixels, labels, len(classes))
            self.items += [Item(f"{split}/{i:06}", split, int(label)) for i, label in enumerate(labels)]
        self._images = [pixels for _, pixels, _ in splits]

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, Content]]:
        """Read the items at ``rows``."""
        starts = np.cumsum([0, *map(len, self._images)])
        for row in rows:
            part = int(np.searchsorted(starts, row, side="right")) - 1
            yield row, np.asarray(self._images[part][row - starts[part]])


def _check_arrays(where: str, pixels: Array, labels: Array, classes: int) -> None:
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] > MOST):
        raise DataError(
            f"{where}: the images are {pixels.dtype} of shape {pixels.shape}; they must be uint8 or uint16,"
            f" (N, H, W) or (N, H, W, C) with at most {MOST} channels"
        )
    if labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"{where}: {len(pixels)} images need as many whole numbers as labels, not {labels.dtype} {labels.shape}"
        )
    if len(labels) and not -1 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(
            f"{where}: labels go from {labels.min()} to {labels.max()}; there are {classes} classes, -1 is no label"
        )


def marked(name: str, mark: str) -> str:
    """The name of an image, with that of the further folder it lies in before its last part; of no image, the name as it is."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{mark}:{file}" if mark and is_image(name) else name


def _folders_of(names: Iterable[str]) -> set[str]:
    """All folders in which files lie, however deep."""
    direct = {name.rpartition("/")[0] for name in names}
    return direct.union(*(map(str, PurePosixPath(folder).parents) for folder in direct)) - {"", "."}


def _unread_lists(images: Sequence[str], others: Sequence[str], labelled: bool) -> list[str]:
    """That lists lie beside the images which may hold their labels, or say their splits."""
    own = {str(PurePosixPath(name).with_suffix("")) for name in images}  # what bears an image's name is about that one
    lists = [n for n in others if n.lower().endswith(LISTS) and str(PurePosixPath(n).with_suffix("")) not in own]
    if labelled:
        lists = [name for name in lists if {role_of(word) for word in words_of(PurePosixPath(name).stem)} - {None}]
    read = [name for name in lists if name.lower().endswith(READ) and ("/" not in name or name.endswith(BELOW))]
    what = "their splits" if labelled else "no labels"
    found = [f"{what}: lists as {min(read)!r} are read by data.source: table"] if read else []
    if not read and lists:
        found = [f"{what}: {min(lists)!r} is not read; data.source: table reads .csv, .tsv, .jsonl and .parquet at the top"]
    return found


class FileSource(Source):
    """Images that are files, whose names say splits and classes."""

    class_folder: ClassFolder | None = None
    """``data.class_folder``."""

    def place(self, names: Sequence[str], folders: Sequence[str], where: str) -> None:
        """Take the names of all files and folders; ``where`` names the source in messages.

        Raises:
            DataError: no images, or folders that cannot be understood.
        """
        images, others = to_read(names)
        self.ignored += others
        self.warnings += left_out(others, images)
        refused = f"{len(self.bad)} refused: " + few((f"{name!r}: {reason}" for name, reason in sorted(self.bad)), between="; ")
        if self.bad and not images:
            raise DataError(f"{where} holds no images that can be used; {refused}")
        without = sorted(_folders_of(others) - _folders_of(images))
        try:
            arranged = layout.arrange(images, [f for f in folders if f not in without], where, self.class_folder)
        except DataError as error:
            raise DataError(f"{error}; {refused}" if self.bad else str(error)) from None
        self.items, self.classes = arranged.items, arranged.classes
        self.warnings += [*arranged.warnings, *_unread_lists(images, others, bool(self.classes))]
        if self.classes and without:
            self.warnings.append(f"no image lies in {few(map(repr, without))}: no class")

    def check_sums(self, text: bytes, renamed: Callable[[str], str] = str) -> None:
        """Take the hashes of a SHA256SUMS file (``sha256sum``'s format); a listed image that is absent is bad.

        Args:
            renamed: the name in this source of what the file calls so.

        Raises:
            DataError: a line of another format.
        """
        known = {item.name for item in self.items}
        refused = {name for name, _ in self.bad}
        for number, line in enumerate(os.fsdecode(text).splitlines(), 1):
            digest, _, name = line.partition(" ")
            if digest.startswith("\\"):  # sha256sum's sign for a name with a backslash or a line break
                digest, name = digest[1:], re.sub(r"\\([nr\\])", lambda found: ESCAPED[found[1]], name)
            name = renamed(name.lstrip(" *").removeprefix("./"))
            if not line.strip():
                continue
            if len(digest) != 64 or not name:
                raise DataError(f"{self.name}: line {number} of {SUMS} is not 'sha256  name'; make it with sha256sum")
            if name in known:
                self.sums[name] = digest.lower()
            elif is_image(name) and name not in refused:
                self.bad.append((name, f"listed in {SUMS} but not there"))
