"""From the bytes of an image file to (S, S, C) uint8, by stated rules, or a reason why not.

Run as a script this file is a decoding worker: it needs only Pillow, so that it starts fast and a file that crashes or
stalls a decoder takes nothing but the worker with it (``tasks.prepare.workers`` drives it). Pillow decodes everything: it
reports a damaged PNG as an exception where torchvision 0.29 can end the process.

Rules: the format is told by content and must be in ``FORMATS``; width x height is checked before any pixel is decoded; the
first frame or page counts; EXIF orientation is applied; transparent pixels are laid on white; 10 to 16 bits are scaled to 8;
palette, 1-bit, CMYK and YCbCr become grey or RGB; the centered square of the short side is resized with antialiasing, or all of
it (``data.fit``). What has other channels or keeps 16 bits is read by ``tasks.prepare.bands``.
"""

import contextlib
import hashlib
import json
import signal
import struct
import sys
import warnings
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any

from PIL import Image, ImageOps, UnidentifiedImageError

NPY, DICOM = b"\x93NUMPY", b"DICM"
"""How a file that NumPy saved begins, and what a DICOM file has after 128 bytes."""
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
SUFFIXES = {name: (f".{name.lower()}",) for name in FORMATS}
SUFFIXES |= {"JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "TIFF": (".tif", ".tiff")}
MODES = set("1 L LA P PA RGB RGBA RGBX RGBa La CMYK YCbCr I;16 I;16B I;16L I;16N I".split())  # noqa: SIM905
MAX_PIXELS = 89_478_485
"""Pillow's own limit: 0.25 GiB of RGB."""
MAX_BYTES = 256 << 20
MIN_SIDE = 8
MAX_ASPECT = 20
BACKGROUND = 255
"""Grey level under transparent pixels."""
DEPTH = 16
"""Bits of a pixel with more than 8, unless the caller knows better: cameras store 10, 12 or 14 bits in 16."""
DRAFT_FACTOR = 2
"""A JPEG may be decoded at a reduced scale that is still this many times larger than what is stored."""
SECONDS = 60
"""A decoder busy with one image for longer is ended."""
MEMORY = 4 << 30
"""Address space of a worker in bytes."""


class BadImage(Exception):
    """The file is not usable; the message says why."""


@dataclass
class Facts:
    """What the file was before it became pixels."""

    width: int
    height: int
    mode: str
    format: str
    sha256: str
    notes: list[str] = field(default_factory=list)
    peak: int = 0
    """Largest value of an image with more than 8 bits, where they count; 0 of any other."""


def decode(
    data: bytes, name: str, size: int, channels: int, depth: int = DEPTH, bits: int = 8, fit: str = "crop"
) -> tuple[bytes, Facts]:
    """Decode a file to ``size * size * channels`` values of ``bits`` in H, W, C order.

    Args:
        data: the whole file.
        name: its name, only to compare the suffix with the content.
        depth: bits of the values of an image that has more than 8.
        bits: 8 or 16, of the result.
        fit: how a picture becomes a square: ``crop``, ``pad`` or ``stretch``.

    Raises:
        BadImage: not usable.
    """
    if not data:
        raise BadImage("empty file")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if channels not in (1, 3) or bits > 8 or data.startswith(NPY) or data[128:132] == DICOM:
                from tasks.prepare import bands  # only here: a worker starts faster without, and without NumPy

                pixels, facts = bands.decode(data, name, size, channels, depth, bits, fit)
            else:
                pixels, facts = _picture(data, name, size, channels, depth, fit)
        except UnidentifiedImageError:
            raise BadImage(_what_else(data)) from None
        except Image.DecompressionBombError:
            raise BadImage(f"more than {MAX_PIXELS:,} pixels") from None
        except MemoryError:
            raise BadImage("needs too much memory to decode") from None
        except BadImage:
            raise
        except Exception as error:  # decoders raise nearly anything on damaged files
            raise BadImage(f"damaged: {one_line(error)}") from None
    facts.notes += sorted({f"decoder warning: {one_line(w.message)}" for w in caught if w.category is not DeprecationWarning})
    return pixels, facts


def _picture(data: bytes, name: str, size: int, channels: int, depth: int, fit: str) -> tuple[bytes, Facts]:
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        facts = inspect(image, data, name)
        stored = data[24:25] == b"\x10" if facts.format == "PNG" else facts.format == "TIFF" and deep_tiff(image)
        if stored and not image.mode.startswith("I"):
            facts.notes.append("16 bits a color, of which only the upper 8 are read; data.bits: 16 keeps them")
        image.draft(None, (DRAFT_FACTOR * size, DRAFT_FACTOR * size))
        image.load()
        picture = flatten(_plain(upright(image, facts), depth, facts), channels)
    return square(picture, size, fit).tobytes(), facts


def deep_tiff(image: Any) -> bool:
    """Whether a TIFF has more than 8 bits of each color."""
    return max(image.tag_v2.get(258, (8,))) > 8


def check_sides(width: int, height: int) -> None:
    """Refuse an image that is too large, too small or too long.

    Raises:
        BadImage: it is.
    """
    if width * height > MAX_PIXELS:
        raise BadImage(f"{width} x {height} is more than {MAX_PIXELS:,} pixels")
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"{width} x {height}: a side is under {MIN_SIDE} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(f"{width} x {height}: one side is more than {MAX_ASPECT} times the other")


def inspect(image: Any, data: bytes, name: str) -> Facts:
    """Judge what the header tells, before any pixel is decoded."""
    width, height = image.size
    kind = "JPEG" if image.format == "MPO" else str(image.format)  # MPO: a JPEG with a second picture behind it
    check_sides(width, height)
    if image.mode not in MODES or (image.mode == "I" and kind != "PNG"):
        raise BadImage(f"pixels of type {image.mode} have no stated range; convert the file to 8 or 16 bits")
    facts = Facts(width, height, image.mode, kind, hashlib.sha256(data).hexdigest())
    suffix = PurePosixPath(name).suffix.lower()
    if suffix and suffix not in SUFFIXES[kind]:
        facts.notes.append(f"content is {kind}, the name ends in {suffix}")
    if kind != "JPEG" and getattr(image, "n_frames", 1) > 1:
        image.seek(0)
        facts.notes.append("several frames or pages, the first is used")
    if kind == "JPEG" and not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        facts.notes.append("bytes after the end of the JPEG")
    profile = image.info.get("icc_profile") or b""
    if profile and b"sRGB" not in profile and b"s\0R\0G\0B" not in profile:
        facts.notes.append("a color profile other than sRGB is ignored")
    return facts


def upright(image: Any, facts: Facts) -> Any:
    """Apply the EXIF orientation; unreadable EXIF counts as none."""
    try:
        orientation = image.getexif().get(0x0112, 1)
        if orientation in range(2, 9):
            facts.notes.append("turned by its EXIF orientation")
            return ImageOps.exif_transpose(image)
        if orientation != 1:
            facts.notes.append("impossible EXIF orientation ignored")
    except Exception:
        facts.notes.append("unreadable EXIF ignored")
    return image


def _plain(image: Any, depth: int, facts: Facts) -> Any:
    """The image in 8 bits and without transparency."""
    if image.mode.startswith("I"):
        return _eight_bits(image, depth, facts)
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema()[0] < 255:
        facts.notes.append("partly transparent, laid on white")
    white = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
    white.alpha_composite(layer)
    return white


def _eight_bits(image: Any, depth: int, facts: Facts) -> Any:
    import numpy as np  # only here: a worker starts faster without

    top = 2**depth - 1
    wide = np.asarray(image).astype(np.int64).clip(0, 65535)
    facts.peak = int(wide.max())
    if facts.peak > top:
        facts.notes.append(f"values above {top} are cut; data.bit_depth is {depth}")
    return Image.fromarray(((wide.clip(0, top) * 255 + top // 2) // top).astype(np.uint8))


def flatten(image: Any, channels: int) -> Any:
    """An image of mode L (``channels`` 1) or RGB (3)."""
    if image.mode in ("CMYK", "YCbCr", "PA", "P", "La", "RGBa") and channels == 1:
        image = image.convert("RGB")
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def square(image: Any, size: int, fit: str = "crop") -> Any:
    """An image of one mode as ``size`` x ``size``, antialiased (bilinear).

    Args:
        fit: ``crop`` takes the centered square of the short side, ``stretch`` all of it, ``pad`` all with black beside it.
    """
    width, height = image.size
    if width == height == size:
        return image
    if fit == "pad":
        inner = [max(1, round(side * size / max(width, height))) for side in image.size]
        whole = Image.new(image.mode, (size, size))
        whole.paste(image.resize(inner, Image.Resampling.BILINEAR, reducing_gap=3.0), tuple((size - n) // 2 for n in inner))
        return whole
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (0, 0, width, height) if fit == "stretch" else (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)


def from_array(pixels: Any, size: int, channels: int, fit: str = "crop") -> bytes:
    """Decoded pixels (H, W) or (H, W, 3) uint8 as ``decode`` would give them."""
    same = pixels.shape[:2] == (size, size) and pixels.ndim == (2 if channels == 1 else 3)
    return pixels.tobytes() if same else square(flatten(Image.fromarray(pixels), channels), size, fit).tobytes()


def _what_else(data: bytes) -> str:
    """Name what a file is that no allowed decoder takes."""
    start = data[:64].lstrip().lower()
    allowed = "not one of " + ", ".join(FORMATS)
    if not data.strip(b"\0"):
        return "nothing but zero bytes"
    if start.startswith((b"<!doctype", b"<html", b"<svg", b"<?xml")):
        return f"text (HTML, SVG or XML), {allowed}"
    if start.startswith(b"%!ps") or start.startswith(b"%pdf"):
        return f"PostScript or PDF, {allowed}"
    if data[4:8] == b"ftyp":
        return f"HEIC or AVIF, {allowed}"
    return f"damaged or {allowed}"


def one_line(error: object) -> str:
    """An error's message without line ends or addresses, so that it is the same each time."""
    text = " ".join(str(error).split())
    return text[:120] if text and " at 0x" not in text else type(error).__name__


# ---------------------------------------------------------------------- the worker

LENGTHS = struct.Struct("<II")


def send(stream: IO[bytes], header: Any, blob: bytes = b"") -> None:
    """Write one message: lengths, JSON, bytes."""
    text = json.dumps(header).encode()
    stream.write(LENGTHS.pack(len(text), len(blob)) + text + blob)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[Any, bytes]:
    """Read one message.

    Raises:
        EOFError: the other side is gone.
    """
    lengths = _exactly(stream, LENGTHS.size)
    text, blob = (_exactly(stream, n) for n in LENGTHS.unpack(lengths))
    return json.loads(text), blob


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError
    return data


def serve(source: IO[bytes], sink: IO[bytes], size: int, channels: int, depth: int, bits: int, fit: str) -> None:
    """Answer batches ``([[name, length], ...], bytes)`` with one message per image, until the other side closes."""
    send(sink, "ready")
    while True:
        try:
            items, blob = receive(source)
        except EOFError:
            return
        start = 0
        for name, length in items:
            signal.alarm(SECONDS)
            try:
                pixels, facts = decode(blob[start : start + length], name, size, channels, depth, bits, fit)
                send(sink, vars(facts), pixels)
            except BadImage as error:
                send(sink, {"bad": str(error)})
            start += length
            signal.alarm(0)


def _limit() -> None:
    import resource

    for kind, amount in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # a lower limit already holds
            resource.setrlimit(kind, (amount, amount))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle


if __name__ == "__main__":
    _limit()
    sys.path.append(str(Path(__file__).parents[2]))
    sys.modules["tasks.prepare.decoding"] = sys.modules["__main__"]  # for ``bands``: the same BadImage
    serve(sys.stdin.buffer, sys.stdout.buffer, *map(int, sys.argv[1:5]), sys.argv[5])
