"""``source: table``: a folder with a list of its images, in CSV or parquet, or with parquet files that hold the images.

Columns: ``path`` (below the folder; ``file_name``, ``filename``, ``file``, ``image`` are the same), or in parquet ``image`` or
``img`` (the bytes, or bytes and path as Hugging Face writes them); then, if you have them, ``label``, ``split`` and ``group``.
Without a column ``split`` the name of the table says it, or that of its folder.
"""

import csv
import functools
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from tasks.prepare.decoding import MAX_BYTES, BadImage, one_line
from tasks.prepare.labels import Row, arranged, group_of, is_nothing, not_read
from tasks.prepare.names import is_image
from tasks.prepare.source import Content, Source
from tasks.prepare.sources.folder import FolderSource
from tasks.prepare.split_names import role_of, role_within
from tasks.runtime.errors import DataError, UsageError
from tasks.runtime.image_folders import images_path
from tasks.runtime.params import DataConfig
from tasks.runtime.words import counted, few

HELD = ("image", "img")
"""Columns of a parquet file that may hold the images; where they are text, they name them."""
PATHS = ("path", "file_name", "filename", "file", *HELD)
"""Columns that may name them."""
READ = {*PATHS, "label", "split", "group"}
BELOW = "metadata.csv"
"""A list that may lie below the top, of what lies beside it."""
INDEX = {"", "__index_level_0__"}
"""What pandas calls the numbers of rows."""
Numbered = tuple[int, dict[str, Any]]
"""(row, its cells by column)"""
SEPARATORS = ",;\t"
DECIMAL = re.compile(r"([+-]?[0-9]*),([0-9]+)")
"""A number as it stands between semicolons, in the countries that write it with a comma."""
BATCH = 64
"""Rows with images that are in memory at once."""


def open_source(config: DataConfig) -> Source:
    """The folder at ``data.path``.

    Raises:
        UsageError: no folder there.
        DataError: no table, or one that cannot be understood.
    """
    path = images_path(config.path)
    if not path.is_dir():
        raise UsageError(f"data.path: {path} is not a folder; give the folder of the table, with its images")
    return TableSource(path, config.follow_links)


class TableSource(FolderSource):
    """Images that a table names, or holds."""

    def place(self, names: Sequence[str], folders: Sequence[str], where: str) -> None:
        """Take the tables among the names, and of the other files those that they list."""
        kinds = {name: PurePosixPath(name.lower()).suffix for name in names}
        tables = sorted(n for n, kind in kinds.items() if kind == ".parquet" or _is_list(n, kind))
        if not tables:
            raise DataError(f"{where} holds no table: a .csv beside the images, or .parquet files")
        self._held: dict[str, tuple[str, int]] = {}
        self._unread: set[str] = set()
        rows: list[Row] = []
        classes: list[str] | None = None
        for table in tables:
            found, named = self._csv(table) if kinds[table] != ".parquet" else self._parquet(table)
            rows, classes = rows + found, named or classes
        there, refused = set(names), list(self.bad)
        listed = {row.name for row in rows}
        self.bad += [(name, "listed in the table but not there") for name in sorted(listed - there - set(self._held))]
        self.ignored += sorted(there - listed - set(tables))
        if unused := sum(map(is_image, self.ignored)):
            self.warnings.append(
                f"{counted(unused, 'image that no table lists is', 'images that no table lists are')} not used"
            )
        usable, notes = _by_folders([row for row in rows if row.name in there or row.name in self._held])
        self.warnings += notes
        self.items, self.classes, warnings = arranged(usable, classes, where)
        self.warnings += warnings
        if not self.classes and self._unread:
            self.warnings.append(
                f"no labels: they are read from a column 'label', and not from {', '.join(sorted(self._unread))}"
            )
        elif self._unread:
            self.warnings.append(not_read(map(repr, self._unread)))
        if not self.items:
            example = f"; the first is {rows[0].name!r}" if rows else ""
            unlisted = next(filter(is_image, self.ignored), "")
            example += f", and one that is there {unlisted!r}" if unlisted else ""
            forms = [{unicodedata.normalize("NFC", name) for name in names} for names in (listed, self.ignored)]
            example += " (the same letters in another Unicode form: rename the files)" if set.intersection(*forms) else ""
            refused = [f"{name!r}: {reason}" for name, reason in sorted(refused)]
            example += f"; {len(refused)} refused: {few(refused, between='; ')}" if refused else ""
            raise DataError(f"{where}: none of the {len(rows)} images that the table lists is there{example}")

    def _csv(self, table: str) -> tuple[list[Row], None]:
        content = self.content(table)
        if isinstance(content, BadImage):
            raise DataError(f"{table} {content}")
        try:
            text = content.decode("utf-8-sig")
            text = text.partition("\n")[2] if text.startswith("sep=") else text  # for Excel
            separator = _separator(text)
            reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
            heads = [(name or "").strip() for name in reader.fieldnames or ()]
            lines = [(reader.line_num, _cells(line, f"{table}, line {reader.line_num}", separator)) for line in reader]
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{table} is no CSV in UTF-8: {one_line(error)}") from None
        if twice := [name for name in heads if name in READ and heads.count(name) > 1]:
            raise DataError(f"{table} has the column {twice[0]!r} twice; leave one of them")
        lines = self._as_read(heads, lines)
        for _, line in lines:
            if separator == ";" and (number := DECIMAL.fullmatch((line.get("label") or "").strip())):
                line["label"] = ".".join(number.groups())
        return self._listed(lines, table), None

    def _as_read(self, heads: Sequence[str], lines: Sequence[Numbered]) -> list[Numbered]:
        """The lines by the names that columns are read by; the others are noted."""
        names = _columns(heads)
        odd = next((head for head, name in names.items() if name == "split" != head), None)
        if odd is not None and not all(is_nothing(line[odd]) or not line[odd] or role_of(str(line[odd])) for _, line in lines):
            names[odd] = odd  # folds, or something else
        self._unread |= set(names.values()) - READ - INDEX
        return [(number, {names[head]: value for head, value in line.items()}) for number, line in lines]

    def _listed(self, lines: Iterable[Numbered], table: str) -> list[Row]:
        """The rows that name files. A row of blanks says nothing; one that says something of no file is told."""
        rows = []
        for number, line in lines:
            if name := _path(line, table):
                rows.append(_row(line, table, name))
            elif any(value and str(value).strip() for value in line.values()):
                self.bad.append((f"{table}, row {number}", "it names no file"))
        return rows

    def _parquet(self, table: str) -> tuple[list[Row], list[str] | None]:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(self.folder / table) as file:
                schema = file.schema_arrow
                held = _held_in(schema)
                columns = [name for name in schema.names if name != held]
                lines = self._as_read(columns, list(enumerate(file.read(columns=columns).to_pylist(), 1)))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{table} is no parquet file: {one_line(error)}") from None
        if not held:
            return self._listed(lines, table), _class_names(schema)
        names = [f"{table}#{number:06}" for number in range(len(lines))]
        self._held |= {name: (table, number) for number, name in enumerate(names)}
        return [_row(line, table, name) for name, (_, line) in zip(names, lines, strict=True)], _class_names(schema)

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, Content]]:
        """Read the items at ``rows``."""
        inside: dict[str, dict[int, int]] = {}
        for row in rows:
            name = self.items[row].name
            if name in self._held:
                table, number = self._held[name]
                inside.setdefault(table, {})[number] = row
            else:
                yield row, self.content(name)
        for table, wanted in inside.items():
            for number, content in self._images(table):
                if number in wanted:
                    yield wanted[number], content

    def _images(self, table: str) -> Iterator[tuple[int, Content]]:
        from pyarrow import parquet

        number = 0
        with parquet.ParquetFile(self.folder / table) as file:
            for batch in file.iter_batches(batch_size=BATCH, columns=[_held_in(file.schema_arrow)]):
                for value in batch.column(0).to_pylist():
                    data = value.get("bytes") if isinstance(value, dict) else value
                    fine = isinstance(data, bytes) and len(data) <= MAX_BYTES
                    yield number, data if fine else BadImage("the table holds no bytes of it")
                    number += 1


def _is_list(name: str, kind: str) -> bool:
    """Whether a file is a list of images: at the top, or below it by the name that Hugging Face's image folders have."""
    return kind in (".csv", ".tsv") and ("/" not in name or PurePosixPath(name).name == BELOW)


def _separator(text: str) -> str:
    """What parts the columns, by the first line: spreadsheets of many countries write semicolons. A column that is read decides
    before the number of parts, for other names may hold commas.
    """
    first = text.partition("\n")[0]

    def fits(separator: str) -> tuple[int, int]:
        names = {name.strip(' "\r').lower() for name in first.split(separator)}
        return len(names & READ), first.count(separator)

    return max(SEPARATORS, key=fits)


def _columns(heads: Sequence[str]) -> dict[str, str]:
    """What each column is read as: its name, or, where none has that, the same in small letters. ``Group`` stays what it is: in
    many lists it is the class.
    """
    found: dict[str, str] = {}
    for head in heads:
        low = head.lower()
        missing = low in ("label", "split") and low not in heads
        missing |= low in PATHS and not set(PATHS) & set(heads)
        found[head] = low if missing and low not in found.values() else head
    return found


def _cells(line: Mapping[str | None, Any], where: str, separator: str) -> dict[str, Any]:
    """The cells of a row by their columns.

    Raises:
        DataError: it has more than there are columns: a separator within a cell.
    """
    if any(cell and cell.strip() for cell in line.get(None) or ()):
        raise DataError(f"{where} has more cells than there are columns; a cell that holds {separator!r} must stand in quotes")
    return {name.strip(): value for name, value in line.items() if name is not None}


def _by_folders(rows: list[Row]) -> tuple[list[Row], list[str]]:
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


def _held_in(schema: Any) -> str | None:
    """The column that holds the images; None where they are files."""
    import pyarrow as pa

    texts = {field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)}
    names = _columns(schema.names)
    return next((head for kind in HELD for head, name in names.items() if name == kind and head not in texts), None)


def _path(line: dict[str, Any], table: str) -> str:
    """The name of the file that a line lists, below the folder; empty where it names none."""
    column = next((name for name in PATHS if name in line), None)
    if column is None:
        raise DataError(f"{table} has the columns {', '.join(map(str, line))}; one must name the files: {' or '.join(PATHS)}")
    if isinstance(line[column], (bytes, dict, list)):
        raise DataError(f"{table}: the column {column!r} holds no names of files")
    if not (given := str(line[column] or "").strip()):
        return ""
    inside = PurePosixPath(table).parent if PurePosixPath(table).name == BELOW else PurePosixPath()
    path = inside / given
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{table} lists {str(path)!r}; paths must lie below its folder, for DVC watches that folder alone")
    return str(path)


def _row(line: dict[str, Any], table: str, name: str) -> Row:
    split, label = line.get("split"), line.get("label")
    known = split and not is_nothing(split)
    text = label.decode(errors="replace") if isinstance(label, bytes) else label
    return Row(name, text, str(split) if known else _split(table), group_of(line.get("group")))


@functools.cache
def _split(table: str) -> str:
    """The split by the name of a table, or by the folders that it lies in (``default/partial-train/0000.parquet``); empty where
    neither says one."""
    path = PurePosixPath(table)
    folders = (role_of(part.removeprefix("partial-")) for part in reversed(path.parent.parts))
    return role_within(path.stem) or next(filter(None, folders), "")


def _class_names(schema: Any) -> list[str] | None:
    """Those that Hugging Face's datasets writes into a parquet file, for labels that are numbers."""
    try:
        facts = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return [str(name) for name in facts["info"]["features"]["label"]["names"]]
    except (ValueError, KeyError, TypeError):
        return None
