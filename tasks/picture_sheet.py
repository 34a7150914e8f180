"""A sheet of pictures for ``tasks.embed``: rows of images under a line of text, as one PNG."""

import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tasks.prepare.source import Source
from tasks.prepare.workers import Job, decode_all

SIDE, GAP, LINE = 96, 6, 16
"""Pixels: of a picture, between pictures, of a line of text."""
ACROSS = 10
"""Pictures in a row."""


@dataclass(frozen=True)
class Section:
    """Pictures that belong together."""

    title: str
    rows: Sequence[int]
    """Rows of the source."""


def pictures(source: Source, rows: Sequence[int], channels: int, depth: int) -> dict[int, Image.Image]:
    """The images at ``rows``, whole, with black beside them; of more bands than three the first three as color."""
    shown = channels if channels not in (1, 3) else 3
    jobs = (Job(row, source.items[row].name, content, source.part(row)) for row, content in source.read(sorted(set(rows))))
    found = {}
    with closing(decode_all(jobs, SIDE, shown, workers=1, depth=depth, fit="pad")) as answers:
        for done in answers:
            if not done.bad:
                pixels = np.frombuffer(done.pixels, np.uint8).reshape(SIDE, SIDE, shown)
                color = pixels[..., :3] if shown >= 3 else pixels[..., :1].repeat(3, 2)
                found[done.row] = Image.fromarray(np.ascontiguousarray(color))
    return found


def png(sections: Sequence[Section], found: dict[int, Image.Image]) -> bytes:
    """The sections one below the other; a section with more pictures than ``ACROSS`` has several rows."""
    heights = [LINE + GAP + -(-len(section.rows) // ACROSS) * (SIDE + GAP) for section in sections]
    sheet = Image.new("RGB", (GAP + ACROSS * (SIDE + GAP), sum(heights) + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), _font()
    top = GAP
    for section, height in zip(sections, heights, strict=True):
        draw.text((GAP, top), section.title, "black", font)
        for number, row in enumerate(section.rows):
            place = (GAP + number % ACROSS * (SIDE + GAP), top + LINE + number // ACROSS * (SIDE + GAP))
            if row in found:
                sheet.paste(found[row], place)
        top += height
    out = io.BytesIO()
    sheet.save(out, format="PNG")
    return out.getvalue()


def _font() -> ImageFont.FreeTypeFont:
    """Of names in many scripts: that of matplotlib, which is not imported; Pillow's own has little but ASCII."""
    plots = find_spec("matplotlib")
    assert plots is not None and plots.origin is not None
    return ImageFont.truetype(Path(plots.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf", 12)
