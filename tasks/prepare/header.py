"""What the header of a picture tells before any pixel is decoded: whether it can be read, and what is odd about it."""

import hashlib
from pathlib import PurePosixPath
from typing import Any

from tasks.prepare import color_space, decoding, jpeg
from tasks.prepare.decoding import FORMATS, BadImage, Facts

SUFFIXES: dict[str, tuple[str, ...]] = {name: (f".{name.lower()}",) for name in FORMATS}
SUFFIXES |= {"JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "TIFF": (".tif", ".tiff")}
MODES = set("1 L LA P PA RGB RGBA RGBX RGBa La CMYK YCbCr I;16 I;16B I;16L I;16N I".split())  # noqa: SIM905


def inspect(image: Any, data: bytes, name: str) -> Facts:
    """Judge what the header tells, before any pixel is decoded."""
    width, height = image.size
    kind = "JPEG" if image.format == "MPO" else str(image.format)  # MPO: a JPEG with a second picture behind it
    decoding.check_sides(width, height)
    if kind == "TIFF":
        from tasks.prepare import tiff

        tiff.check(image)
    if image.mode not in MODES or (image.mode == "I" and kind != "PNG"):
        raise BadImage(f"pixels of type {image.mode} have no stated range; convert the file to 8 or 16 bits")
    facts = Facts(width, height, image.mode, kind, hashlib.sha256(data).hexdigest())
    suffix = PurePosixPath(name).suffix.lower()
    if suffix and suffix not in SUFFIXES[kind] and "#" not in suffix:  # the row of a parquet file
        facts.notes.append(f"content is {kind}, the name ends in {suffix}")
    if kind != "JPEG" and getattr(image, "n_frames", 1) > 1:
        image.seek(0)
        facts.notes.append("several frames or pages, the first is used")
    facts.notes += jpeg.ending(data) if kind == "JPEG" else []
    facts.notes += color_space.ignored(image, data)
    return facts
