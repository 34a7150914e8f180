"""A sheet of pictures for ``tasks.embed``: rows of images under a line of text, as one PNG."""

import io
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tasks.prepare.source import Source
from tasks.prepare.workers import Job, decode_all
from tasks.report.pictures import ends, shades

SIDE, GAP, LINE, SMALL = 96, 6, 16, 12
"""Pixels: of a picture, between pictures, of a line of text, of a name under a picture."""
ACROSS = 10
"""Pictures in a row."""


@dataclass(frozen=True)
class Section:
    """Pictures that belong together."""

    title: str
    rows: Sequence[int]
    """Rows of the source."""


def pictures(source: Source, rows: Sequence[int], channels: int, depth: int) -> dict[int, Image.Image]:
    """The images at ``rows``, whole, with black beside them; of more bands than three the first three as color. Dark ones are
    brightened, all alike."""
    shown = channels if channels not in (1, 3) else 3
    jobs = (Job(row, source.items[row].name, content, source.part(row)) for row, content in source.read(sorted(set(rows))))
    found: dict[int, np.ndarray] = {}
    with closing(decode_all(jobs, SIDE, shown, workers=1, depth=depth, fit="pad")) as answers:
        for done in answers:
            if not done.bad:
                pixels = np.frombuffer(done.pixels, np.uint8).reshape(SIDE, SIDE, shown)
                found[done.row] = (pixels[..., :3] if shown >= 3 else pixels[..., :1].repeat(3, 2)).transpose(2, 0, 1)
    if not found:
        return {}
    every = np.stack(list(found.values()))
    values = ends(every, range(len(every)))
    return {row: Image.fromarray(shades(pixels, values).transpose(1, 2, 0)) for row, pixels in found.items()}


def png(
    sections: Sequence[Section], found: Mapping[int, Image.Image], names: Mapping[int, str] = MappingProxyType({})
) -> bytes:
    """The sections one below the other; a section with more pictures than ``ACROSS`` has several rows.

    Args:
        found: the pictures, by row.
        names: what stands under them, by row.
    """
    down = SIDE + GAP + (SMALL if names else 0)
    heights = [LINE + GAP + -(-len(section.rows) // ACROSS) * down for section in sections]
    sheet = Image.new("RGB", (GAP + ACROSS * (SIDE + GAP), sum(heights) + GAP), "white")
    draw, font, small = ImageDraw.Draw(sheet), _font(12), _font(9)
    top = GAP
    for section, height in zip(sections, heights, strict=True):
        draw.text((GAP, top), section.title, "black", font)
        for number, row in enumerate(section.rows):
            left, upper = GAP + number % ACROSS * (SIDE + GAP), top + LINE + number // ACROSS * down
            if row in found:
                sheet.paste(found[row], (left, upper))
            draw.text((left, upper + SIDE), _end(names.get(row, ""), small), "dimgray", small)
        top += height
    out = io.BytesIO()
    sheet.save(out, format="PNG")
    return out.getvalue()


def _end(name: str, font: ImageFont.FreeTypeFont) -> str:
    """As much of a name's end as fits under a picture: its beginning is what many names share."""
    name = name if len(name) <= SIDE else f" {name[-SIDE:]}"  # no letter is narrower than a pixel
    kept = next((start for start in range(len(name)) if font.getlength(f"…{name[start:]}" if start else name) <= SIDE), 0)
    return f"…{name[kept:]}" if kept else name


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Of names in many scripts: that of matplotlib, which is not imported; Pillow's own has little but ASCII."""
    plots = find_spec("matplotlib")
    assert plots is not None and plots.origin is not None
    return ImageFont.truetype(Path(plots.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf", size)
