"""Numbers in sentences, tables of words, and what words have in common."""

import unicodedata
from collections.abc import Iterable, Sequence

Lines = Sequence[Sequence[str]]
"""Of a table; the first is its head."""


def unseen(task: str, otherwise: Sequence[str]) -> str:
    """That images of a task are not recognized among those that encoders were trained on."""
    return (
        f"{task} and data are made square by another {' and '.join(otherwise)}, so test images that encoders have seen may not"
        " be recognized by their pixels"
    )


def counted(number: int, one: str, more: str) -> str:
    """``1 image lies`` or ``2,000 images lie``."""
    return f"{number:,} {one if number == 1 else more}"


def few(names: Iterable[str], most: int = 3, between: str = ", ", count: int = 0) -> str:
    """``a, b, c and 4 more``: the first of many, of ``count`` if not all are given."""
    listed = list(names)
    more = max(count, len(listed)) - most
    return between.join(listed[:most]) + (f" and {more:,} more" if more > 0 else "")


def ranges(numbers: Iterable[int]) -> str:
    """``1 to 8, 15``: whole numbers, those that follow each other together."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


def apart(name: str) -> str:
    """A name that stands in a list: in quotes where it would look like two."""
    return repr(name) if "," in name else name


def signed(share: float) -> str:
    """A difference of shares in points, ``+3.1``; what rounds to zero has no sign."""
    number = f"{100 * share:+z.1f}"
    return "0.0" if number == "+0.0" else number.replace("-", "−")


def markdown(lines: Lines) -> str:
    """A table in Markdown."""
    head, *rest = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rest])


def aligned(lines: Lines) -> str:
    """A table for a terminal: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]) for first, *rest in lines)


def duration(seconds: float | None) -> str:
    """Seconds in the unit a person would use."""
    if seconds is None:
        return "–"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.{0 if seconds / size >= 10 else 1}f} {unit}"
    return f"{seconds / 86400:.1f} d"


def folded(name: str) -> str:
    """What names that look the same have in common."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def printable(text: str) -> str:
    """``text`` with control characters written as escapes: file and class names go to the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
