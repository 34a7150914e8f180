"""One tile of a picture: where tiles lie, and the way from a file to the values of one. Decoding workers import it."""

from dataclasses import replace
from typing import Any

from tasks.prepare import decoding
from tasks.prepare.decoding import Facts, Part

_last: dict[tuple[Any, ...], tuple[Any, Facts]] = {}
"""The file that was read last, by what was asked of it: the next tile is mostly one of the same."""


def squares(width: int, height: int, largest: int) -> list[tuple[int, int, int]]:
    """(left, top, side) of the tiles of a picture, row by row.

    Their side is ``largest``, or the picture's shorter side where that is less. They cover the picture; where a side is no
    multiple of theirs, they overlap evenly.
    """
    side = min(largest, width, height)
    across, down = (_starts(length, side) for length in (width, height))
    return [(left, top, side) for top in down for left in across]


def _starts(length: int, side: int) -> list[int]:
    """Where tiles begin on a line: the first at 0, the last so that it ends at the end."""
    count = -(-length // side)
    return [round(i * (length - side) / (count - 1)) for i in range(count)] if count > 1 else [0]


def decode(data: bytes, name: str, size: int, channels: int, depth: int, bits: int, part: Part) -> tuple[bytes, Facts]:
    """As ``decoding.decode``, of one tile; the facts' width and height are its own.

    Raises:
        BadImage, and what decoders raise.
    """
    largest, number = part
    asked = (data, name.rpartition("#")[0] or name, channels, depth, bits)  # the file's name, without the tile's number
    if asked not in _last:
        _last.clear()  # first: two large pictures at once may be more than a worker's memory
        _last[asked] = _whole(*asked)
    whole, read = _last[asked]
    height, width = whole.shape[:2] if hasattr(whole, "shape") else whole.size[::-1]
    boxes = squares(width, height, largest)
    left, top, side = boxes[number]
    facts = replace(read, width=side, height=side, notes=list(read.notes), tiles=len(boxes))
    if hasattr(whole, "shape"):
        from tasks.prepare import bands

        values = whole[top : top + side, left : left + side]
        return bands.store(values, size, channels, depth, bits, "crop", facts), facts
    return decoding.square(whole.crop((left, top, left + side, top + side)), size).tobytes(), facts


def _whole(data: bytes, name: str, channels: int, depth: int, bits: int) -> tuple[Any, Facts]:
    """All values (H, W, B), or the picture where the file is one."""
    if not decoding.has_bands(data, channels, bits):
        return decoding.read_picture(data, name, channels, depth, None)
    from tasks.prepare import bands

    return bands.read(data, name, channels, depth)
