"""What the names of a list, of its folders and of the files that it lists say of the images."""

import functools
import posixpath
import urllib.parse
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from tasks.prepare.labels import POSITION, WHOLE, Row
from tasks.prepare.names import PICTURES, is_image
from tasks.prepare.split_names import role_of, role_within
from tasks.runtime.errors import DataError


def by_folders(rows: list[Row]) -> tuple[list[Row], list[str]]:
    """Rows whose split neither a column nor the table's name says, with that of their folders where these can be splits: there
    are two, the classes of one are those of the other, and no group is in both. And what to say of it.
    """
    if any(row.split for row in rows):
        return [row if row.split else replace(row, split="train") for row in rows], []
    parts = {row.name: next(filter(None, map(role_of, PurePosixPath(row.name).parts[:-1])), "") for row in rows}
    kinds: dict[str, tuple[set[str], set[str]]] = {}
    for row in rows:
        labels, groups = kinds.setdefault(parts[row.name], (set(), set()))
        labels.add(str(row.label))
        groups.add(row.group)
    if "train" not in kinds or not {"test", "val"} & set(kinds):
        return [replace(row, split="train") for row in rows], []
    (first, of_train), *others = kinds["train"], *(kinds[role] for role in kinds if role != "train")
    fits = len(others) == 1 and others[0][0] <= first and not others[0][1] & of_train - {""}
    names = " and ".join(sorted(map(repr, filter(None, kinds))))
    said = f"the folders {names} of the paths are taken for splits" if fits else f"the folders {names} are no splits"
    split = parts if fits else dict.fromkeys(parts, "train")
    return [replace(row, split=split[row.name]) for row in rows], [f"{said}; a column 'split' says otherwise"]


def with_names(lists: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The rows of all lists, where numbers of classes mean the same in those that do not say it as in those that do.

    Raises:
        DataError: those that say it say different things.
    """
    among = {tuple(row.among) for rows in lists.values() for row in rows if row.among is not None}
    silent = [table for table, rows in lists.items() if any(row.among is None and is_number(row.label) for row in rows)]
    if not among or not silent:
        return lists
    if len(among) > 1:
        raise DataError(f"the labels of {silent[0]} are numbers, and the other lists call their classes differently; name them")
    (names,) = among
    return {
        table: [replace(row, among=names) if row.among is None and is_number(row.label) else row for row in rows]
        for table, rows in lists.items()
    }


def is_number(label: object) -> bool:
    """Whether a label is a whole number, of a table or in text; tables of floats write 1.0."""
    text = str(label).strip()
    return not isinstance(label, bool) and bool(POSITION.fullmatch(text) or WHOLE.fullmatch(text))


def without_endings(there: Iterable[str]) -> dict[str, str]:
    """The images by their names without the ending, of those that alone have theirs."""
    paths = [(str(PurePosixPath(name).with_suffix("")), name) for name in there if is_image(name)]
    counts = Counter(short for short, _ in paths)
    return {short: name for short, name in paths if counts[short] == 1}


def as_there(row: Row, there: Collection[str], endless: Mapping[str, str]) -> Row:
    """A row whose file is named as Windows does, or without its ending, by the name that is there."""
    if row.name in there:
        return row
    name = posixpath.normpath(row.name.replace("\\", "/"))
    has_ending = name in there or PurePosixPath(name).suffix.lower() in PICTURES
    other = name if has_ending else endless.get(name)
    return replace(row, name=other) if other in there else row


@functools.cache
def partitions(table: str) -> dict[str, str | None]:
    """What the folders of a table say as pandas and Spark write it: ``split=test/label=cat/0.parquet``."""
    pairs = (part.partition("=") for part in PurePosixPath(table).parent.parts)
    known = {key: urllib.parse.unquote(value) for key, sign, value in pairs if sign and key in ("label", "split", "group")}
    return {key: None if value == "__HIVE_DEFAULT_PARTITION__" else value for key, value in known.items()}


@functools.cache
def split_of(table: str) -> str:
    """The split by the name of a table, or by the folders that it lies in (``default/partial-train/0000.parquet``); empty where
    neither says one."""
    path = PurePosixPath(table)
    folders = (role_of(part.removeprefix("partial-")) for part in reversed(path.parent.parts))
    return role_within(path.stem) or next(filter(None, folders), "")
