"""``source: table``: a folder with a list of its images, in CSV, JSON lines or parquet, or with parquet files that hold them.

Columns: ``path`` (below the folder; ``file_name``, ``filename``, ``file``, ``image`` are the same), or in parquet ``image`` or
``img`` (the bytes, or bytes and path as Hugging Face writes them); then, if you have them, ``label``, ``split`` and ``group``.
Without a column ``split`` the name of the table says it, or that of its folder.
"""

import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.prepare.decoding import MAX_BYTES, BadImage, one_line
from tasks.prepare.labels import Row, arranged, group_of, is_nothing, not_read
from tasks.prepare.list_names import as_there, by_folders, partitions, split_of, with_names, without_endings
from tasks.prepare.lists import NamesNoFile, Numbered, read_csv, read_jsonl
from tasks.prepare.names import is_image
from tasks.prepare.source import BELOW, LISTS, TEXTS, Content, Source
from tasks.prepare.sources.folder import FolderSource
from tasks.prepare.split_names import role_of
from tasks.runtime.errors import DataError, UsageError
from tasks.runtime.image_folders import images_path
from tasks.runtime.params import DataConfig
from tasks.runtime.words import counted, few

HELD = ("image", "img")
"""Columns of a parquet file that may hold the images; where they are text, they name them."""
PATHS = ("path", "file_name", "filename", "file", *HELD)
"""Columns that may name them."""
READ = {*PATHS, "label", "split", "group"}
MISSING, NOT_READ = "listed in the table but not there", "listed in the table, but hidden, or no image by its name"
LONGEST_SHOWN = 200
"""Characters of a cell in a message."""
INDEX = {"", "__index_level_0__"}
"""What pandas calls the numbers of rows."""
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
        self._held: dict[str, tuple[str, int]] = {}
        self._unread: set[str] = set()
        there, refused = set(names), list(self.bad)
        self._there = there
        by_table = self._tables(names, where)
        endless = without_endings(there)
        rows = [as_there(row, there, endless) for found in by_table.values() for row in found]
        listed = {row.name for row in rows}
        missing = sorted(listed - there - set(self._held))
        self.bad += [(_short(name), MISSING if is_image(name) else NOT_READ) for name in missing]
        self.ignored += sorted(there - listed - set(by_table))
        if unused := sum(map(is_image, self.ignored)):
            self.warnings.append(
                f"{counted(unused, 'image that no table lists is', 'images that no table lists are')} not used"
            )
        usable, notes = by_folders([row for row in rows if row.name in there or row.name in self._held])
        self.warnings += notes
        self.items, self.classes, warnings = arranged(usable, where)
        self.warnings += warnings
        folders = sorted({str(PurePosixPath(row.name).parent) for row in usable if row.name not in self._held} - {"."})
        unread = [*sorted(self._unread), *([f"folders as {folders[0]!r}"] if len(folders) > 1 else [])]
        if not self.classes and unread:
            self.warnings.append(f"no labels: they are read from a column 'label', and not from {', '.join(unread)}")
        elif self._unread:
            self.warnings.append(not_read(map(repr, self._unread)))
        if not self.items:
            example = f"; the first is {_short(rows[0].name)!r}" if rows else ""
            unlisted = next(filter(is_image, self.ignored), "")
            example += f", and one that is there {unlisted!r}" if unlisted else ""
            forms = [{unicodedata.normalize("NFC", name) for name in names} for names in (listed, self.ignored)]
            example += " (the same letters in another Unicode form: rename the files)" if set.intersection(*forms) else ""
            refused = [f"{name!r}: {reason}" for name, reason in sorted(refused)]
            example += f"; {len(refused)} refused: {few(refused, between='; ')}" if refused else ""
            raise DataError(f"{where}: none of the {len(rows)} images that the table lists is there{example}")

    def _tables(self, names: Sequence[str], where: str) -> dict[str, list[Row]]:
        """The rows of each list; one that names no files is told, unless there is no other.

        Raises:
            DataError: there is none, or one that cannot be understood.
        """
        kinds = {name: PurePosixPath(name.lower()).suffix for name in names}
        tables = sorted(n for n, kind in kinds.items() if kind == ".parquet" or _is_list(n, kind))
        places = {PurePosixPath(name).parent for name in tables if kinds[name] != ".jsonl"}
        beside = [name for name in tables if kinds[name] == ".jsonl" and PurePosixPath(name).parent in places]
        if not tables:
            seen = sorted(name for name, kind in kinds.items() if kind in LISTS)
            raise DataError(
                f"{where} holds no table: a .csv, .tsv or .jsonl at its top, {BELOW[0]} below it, or .parquet files"
                + (f"; none of these is one: {few(map(repr, seen))}" if seen else "")
                + "; for pictures in folders use data.source: folder"
            )
        found: dict[str, list[Row]] = {}
        of_none: dict[str, NamesNoFile] = {}
        for table in [*(name for name in tables if name not in beside), *beside]:
            if table in beside and found:
                of_none[table] = NamesNoFile("captions, boxes or what was predicted, beside a list")
                continue
            unread = set(self._unread)
            try:
                found[table] = self._text(table) if kinds[table] != ".parquet" else self._parquet(table)
            except NamesNoFile as error:
                of_none[table], self._unread = error, unread
        if not found:
            raise next(iter(of_none.values()))
        self.warnings += _several({name: len(rows) for name, rows in found.items() if kinds[name] != ".parquet"}, of_none)
        return with_names(found)

    def _text(self, table: str) -> list[Row]:
        content = self.content(table)
        if isinstance(content, BadImage):
            raise DataError(f"{table}: {content}")
        heads, lines = read_jsonl(table, content) if table.lower().endswith(".jsonl") else read_csv(table, content, READ)
        return self._listed(self._as_read(heads, lines), table)

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
            if name := _path(line, table, (self.folder, self.given)):
                rows.append(_row(line, table, name))
            elif any(value and str(value).strip() for value in line.values()):
                self.bad.append((f"{table}, row {number}", "it names no file"))
        return rows

    def _parquet(self, table: str) -> list[Row]:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(self.folder / table) as file:
                schema = file.schema_arrow
                held = _held_in(schema)
                columns = [name for name in schema.names if name != held]
                read = [head for head, name in _columns(columns).items() if name in READ or not _may_be_large(schema, head)]
                found = file.read(columns=read).to_pylist() if read else [{}] * file.metadata.num_rows
                lines = self._as_read(columns, list(enumerate(found, 1)))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{table} is no parquet file: {one_line(error)}") from None
        among = _class_names(schema)
        if not held:
            return [replace(row, among=among) for row in self._listed(lines, table)]
        names = [f"{table}#{number:06}" for number in range(len(lines))]
        self._held |= {name: (table, number) for number, name in enumerate(names)}
        return [replace(_row(line, table, name), among=among) for name, (_, line) in zip(names, lines, strict=True)]

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
                    yield number, self._of_value(value)
                    number += 1

    def _of_value(self, value: Any) -> Content:
        """What a cell with an image holds: its bytes, a list of them, or the name of a file that lies in the folder."""
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data is None and path in self._there:
            return self.content(path)
        if isinstance(data, list):
            data = bytes(data) if all(isinstance(number, int) and 0 <= number < 256 for number in data) else None
        fine = isinstance(data, bytes) and len(data) <= MAX_BYTES
        return data if fine else BadImage("the table holds no bytes of it")


def _may_be_large(schema: Any, column: str) -> bool:
    """Whether a column that is not read may hold pictures, or lists of numbers."""
    import pyarrow as pa

    kinds = [schema.field(number).type for number in schema.get_all_field_indices(column)]
    return any(pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) for kind in kinds)


def _is_list(name: str, kind: str) -> bool:
    """Whether a file is a list of images: at the top, or below it by the name that Hugging Face's image folders have."""
    return kind in TEXTS and ("/" not in name or PurePosixPath(name).name in BELOW)


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


def _held_in(schema: Any) -> str | None:
    """The column that holds the images; None where they are files."""
    import pyarrow as pa

    kinds = {f.name: f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in schema}
    named = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
    texts = {name for name, kind in kinds.items() if any(is_kind(kind) for is_kind in named)}
    names = _columns(schema.names)
    return next((head for kind in HELD for head, name in names.items() if name == kind and head not in texts), None)


def _path(line: dict[str, Any], table: str, folders: Sequence[Path]) -> str:
    """The name of the file that a line lists, below the folder; empty where it names none.

    Args:
        folders: the folder as it is, and as the user writes it, which may be a link.

    Raises:
        DataError: no column names files, or this one lies elsewhere.
    """
    column = next((name for name in PATHS if name in line), None)
    if column is None:
        raise NamesNoFile(f"{table} has the columns {', '.join(map(str, line))}; one must name the files: {' or '.join(PATHS)}")
    if isinstance(line[column], (bytes, dict, list)):
        raise DataError(f"{table}: the column {column!r} holds no names of files")
    if not (given := str("" if line[column] is None else line[column]).strip()):
        return ""
    inside = folders[0] / table if PurePosixPath(table).name in BELOW else folders[0] / "x"
    path = os.path.normpath(f"{inside.parent}/{given}" if given[0] != "/" else given)
    for around in (f"{str(folder).rstrip('/')}/" for folder in folders):
        if path.startswith(around):
            return path.removeprefix(around)
    raise DataError(f"{table} lists {_short(given)!r}; paths must lie below its folder, for DVC watches that folder alone")


def _short(text: str) -> str:
    """A cell in a message: some hold whole images."""
    return text if len(text) < LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _several(lists: Mapping[str, int], others: Iterable[str]) -> list[str]:
    """That several lists are read, of which one may be what somebody predicted, and which are not."""
    named = (f"{name!r} ({counted(rows, 'row', 'rows')})" for name, rows in sorted(lists.items()))
    found = [f"{len(lists)} lists are read: {few(named, between=' and ')}"] if len(lists) > 1 else []
    return [*found, f"not a list that names files, so not read: {few(map(repr, others))}"] if others else found


def _row(line: dict[str, Any], table: str, name: str) -> Row:
    facts = partitions(table) | line
    split, label = facts.get("split"), facts.get("label")
    known = split and str(split).strip() not in ("", "None") and not is_nothing(split)
    text = label.decode(errors="replace") if isinstance(label, bytes) else label
    return Row(name, text, str(split) if known else split_of(table), group_of(facts.get("group")))


def _class_names(schema: Any) -> list[str] | None:
    """Those that Hugging Face's datasets writes into a parquet file, for labels that are numbers."""
    try:
        facts = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return [str(name) for name in facts["info"]["features"]["label"]["names"]]
    except (ValueError, KeyError, TypeError):
        return None
