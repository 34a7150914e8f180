"""Lists in CSV, as spreadsheets, pandas and people write them, and in lines of JSON: the columns, and the cells of each row."""

import csv
import io
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from tasks.prepare.decoding import one_line
from tasks.runtime.errors import DataError

Numbered = tuple[int, dict[str, Any]]
"""(row, its cells by column)"""
SEPARATORS = ",;\t"
ENDS = re.compile("\r\n|\r|\n")
"""Of a line."""
DECIMAL = re.compile(r"([+-]?[0-9]*),([0-9]+)")
"""A number as it stands between semicolons, in the countries that write it with a comma."""
WIDE = (b"\xff\xfe", b"\xfe\xff")
"""How UTF-16 begins, which spreadsheets call Unicode text."""
LONGEST = 1 << 24
"""Characters of a cell."""


class NamesNoFile(DataError):
    """What is no list, or one without a column that names files: what the numbers of classes mean, for instance."""


def read_csv(table: str, content: bytes, read: Collection[str]) -> tuple[list[str], list[Numbered]]:
    """The columns of a list, and its rows with their numbers of lines.

    Args:
        table: its name, for messages.
        read: the names of columns that are read; they tell what parts the columns.

    Raises:
        DataError: no text, no CSV, a column that is read there twice, or a row of too many cells.
    """
    csv.field_size_limit(LONGEST)
    try:
        text = content.decode("utf-16" if content.startswith(WIDE) else "utf-8-sig")
        text = ENDS.split(text, 1)[-1] if text.startswith("sep=") else text  # for Excel
        separator = _separator(text, read)
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=separator, skipinitialspace=True)
        heads = [(name or "").strip() for name in reader.fieldnames or ()]
        lines = [(reader.line_num, _cells(line, f"{table}, line {reader.line_num}", separator)) for line in reader]
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is no text in UTF-8 ({one_line(error)}); save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{table} is no CSV: {one_line(error)}") from None
    if twice := [name for name in heads if name in read and heads.count(name) > 1]:
        raise DataError(f"{table} has the column {twice[0]!r} twice; leave one of them")
    label = next((head for head in heads if head.lower() == "label"), None)
    for _, line in lines if separator == ";" and label else ():
        if number := DECIMAL.fullmatch((line[label] or "").strip()):
            line[label] = ".".join(number.groups())
    return heads, lines


def read_jsonl(table: str, content: bytes) -> tuple[list[str], list[Numbered]]:
    """As ``read_csv``, of a file with one JSON object a line; a key that a line lacks is empty.

    Raises:
        NamesNoFile: no text, or a line that is no object.
    """
    lines: list[Numbered] = []
    try:
        for number, line in enumerate(content.decode("utf-8-sig").split("\n"), 1):
            if line.strip():
                lines.append((number, dict(json.loads(line).items())))
    except (ValueError, AttributeError, RecursionError):
        raise NamesNoFile(f"{table}, line {len(lines) + 1} is no JSON object in UTF-8") from None
    heads = list(dict.fromkeys(key for _, line in lines for key in line))
    return heads, [(number, dict.fromkeys(heads) | line) for number, line in lines]


def _separator(text: str, read: Collection[str]) -> str:
    """What parts the columns, by the first line: spreadsheets of many countries write semicolons. A column that is read decides
    before the number of parts, for other names may hold commas.
    """
    first = ENDS.split(text, 1)[0]

    def fits(separator: str) -> tuple[int, int]:
        names = {name.strip(' "\r').lower() for name in first.split(separator)}
        return len(names & set(read)), first.count(separator)

    return max(SEPARATORS, key=fits)


def _cells(line: Mapping[str | None, Any], where: str, separator: str) -> dict[str, Any]:
    """The cells of a row by their columns.

    Raises:
        DataError: it has more than there are columns: a separator within a cell.
    """
    if any(cell and cell.strip() for cell in line.get(None) or ()):
        raise DataError(f"{where} has more cells than there are columns; a cell that holds {separator!r} must stand in quotes")
    return {name.strip(): value for name, value in line.items() if name is not None}
