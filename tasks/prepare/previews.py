"""TIFF files that begin with a preview: the full picture is a later page, or lies below the first (pyramids, raw files).

Decoders take the first directory that the header names. To read another one, the header is made to name that.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import TiffImagePlugin

from tasks.prepare.decoding import BadImage
from tasks.prepare.tiff import BEGINNINGS

KIND, OLD_KIND, WIDTH, HEIGHT, PHOTOMETRIC, BELOW = 254, 255, 256, 257, 262, 330
"""Tags."""
REDUCED, MASK = 1, 4
"""Bits of a directory's kind."""
MOST_PAGES = 1000
PICTURES = range(9)
"""Photometric interpretations that are no raw data of a sensor."""


@dataclass(frozen=True)
class Page:
    """One directory of the file, and where it lies."""

    at: int
    tags: Any
    following: int

    @property
    def pixels(self) -> int:
        """How many there are."""
        return int(self.tags[WIDTH]) * int(self.tags[HEIGHT])

    @property
    def is_preview(self) -> bool:
        """Whether it says so, the old way or the new."""
        return bool(int(self.tags.get(KIND, 0)) & REDUCED) or self.tags.get(OLD_KIND) == 2

    @property
    def is_mask(self) -> bool:
        """Whether it says which pixels of another count."""
        return bool(int(self.tags.get(KIND, 0)) & MASK)

    def __str__(self) -> str:
        return f"{self.tags[WIDTH]} x {self.tags[HEIGHT]}"


def full(data: bytes) -> tuple[bytes, list[str]]:
    """The file as one that begins with its full picture, and what to say of that; other files as they are.

    Raises:
        BadImage: the full picture cannot be read.
    """
    if data[:4] not in BEGINNINGS:
        return data, []
    try:
        if not _has_others(data):
            return data, []
        first, best = _first_and_best(data)
    except Exception:  # of a damaged file the decoder says what is wrong
        return data, []
    if best is None:
        return data, ["calls itself a preview, but holds no larger picture"] if first.is_preview else []
    if best.tags.get(PHOTOMETRIC) not in PICTURES:
        raise BadImage(
            f"the first picture in it is a preview of {first} pixels; the full one of {best} is raw data of a camera:"
            " export it as TIFF or JPEG"
        )
    return _naming(data, best.at), ["the first picture in it is a preview, the full one is read"]


def _has_others(data: bytes) -> bool:
    """Whether the first directory says that it is no ordinary picture, or that others lie below it. Most say neither."""
    order, is_big, at = "<" if data[:1] == b"I" else ">", _is_big(data), _place(data)
    (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, at)
    start, length, entry = (at + 8, 20, "HHQ8s") if is_big else (at + 2, 12, "HHI4s")
    entries = struct.iter_unpack(order + entry, data[start : start + length * count])
    return any(tag in (KIND, OLD_KIND, BELOW) and value.strip(b"\0") for tag, _, _, value in entries)


def _first_and_best(data: bytes) -> tuple[Page, Page | None]:
    """The first picture, and the one to read instead; None: the first is the one."""
    first = _page(data, _place(data))
    below = [_page(data, at) for at in _numbers(first.tags.get(BELOW, ()))]
    others = [*(_later(data, first) if first.is_preview else ()), *below]
    others = [page for page in others if not page.is_mask and page.pixels > first.pixels]
    return first, max(others, key=lambda page: (not page.is_preview, page.pixels), default=None)


def _numbers(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _is_big(data: bytes) -> bool:
    return b"+" in data[2:4]


def _place(data: bytes) -> int:
    """Where the first directory lies."""
    order, is_big = "<" if data[:1] == b"I" else ">", _is_big(data)
    return int(struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)[0])


def _naming(data: bytes, at: int) -> bytes:
    """The file with another directory as its first."""
    order, is_big = "<" if data[:1] == b"I" else ">", _is_big(data)
    return data[:8] + struct.pack(order + "Q", at) + data[16:] if is_big else data[:4] + struct.pack(order + "I", at) + data[8:]


def _page(data: bytes, at: int) -> Page:
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if _is_big(data) else 8])
    file = BytesIO(data)
    file.seek(at)
    tags.load(file)
    return Page(at, tags, int(tags.next or 0))


def _later(data: bytes, first: Page) -> Iterator[Page]:
    """The pages behind the first, as long as none comes twice."""
    page, known = first, {first.at}
    while page.following and page.following not in known and len(known) < MOST_PAGES:
        page = _page(data, page.following)
        known.add(page.at)
        yield page
