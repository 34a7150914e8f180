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
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageOps, UnidentifiedImageError

NPY, DICOM = b"\x93NUMPY", b"DICM"
"""How a file that NumPy saved begins, and what a DICOM file has after 128 bytes."""
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
MAX_PIXELS = 89_478_485
"""Pillow's own limit: 0.25 GiB of RGB."""
TOO_LARGE = f"more than {MAX_PIXELS:,} pixels; cut it into several files first"
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
Part = tuple[int, int]  # a tile: the largest side of tiles (data.tile), and its number in the picture


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
    usual: int = 0
    """Value that 99 of 100 of its pixels do not exceed, in each band."""
    reach: int = 0
    """Value that 9 of 10 do not exceed."""
    levels: list[int] = field(default_factory=list)
    """Levels of grey that 8 bits leave of it, and those that it had; empty where enough are left."""
    tiles: int = 1
    """How many the picture is cut into."""
    signed: bool = False
    """Whether 0 is in the middle of its values."""


def decode(
    data: bytes,
    name: str,
    size: int,
    channels: int,
    depth: int = DEPTH,
    bits: int = 8,
    fit: str = "crop",
    part: Part | None = None,
) -> tuple[bytes, Facts]:
    """Decode a file to ``size * size * channels`` values of ``bits`` in H, W, C order.

    Args:
        data: the whole file.
        name: its name, only to compare the suffix with the content.
        depth: bits of the values of an image that has more than 8.
        bits: 8 or 16, of the result.
        fit: how a picture becomes a square: ``crop``, ``pad`` or ``stretch``.
        part: the tile to decode; None: the whole picture.

    Raises:
        BadImage: not usable.
    """
    if not data:
        raise BadImage("empty file")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            file, data, told = data, *full_first(data)
            if part or has_bands(data, channels, bits):
                from tasks.prepare import bands, tiling  # only here: a worker starts faster without, and without NumPy

                other = (data, name, size, channels, depth, bits)
                pixels, facts = tiling.decode(*other, part) if part else bands.decode(*other, fit)
            else:
                picture, facts = read_picture(data, name, channels, depth, size)
                pixels = square(picture, size, fit).tobytes()
        except UnidentifiedImageError:
            from tasks.prepare import unreadable

            raise BadImage(unreadable.what_else(data)) from None
        except Image.DecompressionBombError:
            raise BadImage(TOO_LARGE) from None
        except MemoryError:
            raise BadImage("needs too much memory to decode") from None
        except BadImage:
            raise
        except Exception as error:  # decoders raise nearly anything on damaged files
            raise BadImage(f"damaged: {one_line(error)}") from None
    facts.notes += told
    if data is not file:
        facts.sha256 = hashlib.sha256(file).hexdigest()
    facts.notes += sorted({f"decoder warning: {one_line(w.message)}" for w in caught if w.category is not DeprecationWarning})
    return pixels, facts


def full_first(data: bytes) -> tuple[bytes, list[str]]:
    """The file with its full picture first, and what to say of that."""
    if data[:2] not in (b"II", b"MM"):
        return data, []
    from tasks.prepare import previews

    return previews.full(data)


def has_bands(data: bytes, channels: int, bits: int) -> bool:
    """Whether ``tasks.prepare.bands`` reads this file."""
    if channels not in (1, 3) or bits > 8 or data.startswith(NPY) or data[128:132] == DICOM:
        return True
    if data[:2] in (b"II", b"MM"):
        from tasks.prepare import tiff

        return tiff.is_beyond_pictures(data)
    return data[1:4] == b"PNG" and data[24:26] in (b"\x10\x02", b"\x10\x06")  # 16 bits of a color


def read_picture(data: bytes, name: str, channels: int, depth: int, size: int | None) -> tuple[Any, Facts]:
    """An upright picture of mode L or RGB, at a scale that suffices for ``size``; None: all its pixels, whatever its shape."""
    from tasks.prepare import header, jpeg

    with Image.open(BytesIO(data), formats=FORMATS) as image:
        facts = header.inspect(image, data, name)
        if facts.format == "PNG" and data[24:26] == b"\x10\x04":
            facts.notes.append("16 bits of grey with transparency, of which only the upper 8 are read")
        elif facts.format == "TIFF":
            from tasks.prepare import tiff

            facts.notes += tiff.beyond(image)
        if size:
            check_shape(*image.size)
            image.draft(None, (DRAFT_FACTOR * size, DRAFT_FACTOR * size))
        image.load()
        if facts.format == "JPEG":
            facts.notes += jpeg.check(image, data)
        return flatten(_plain(upright(image, facts), depth, facts), channels), facts


def check_sides(width: int, height: int) -> None:
    """Refuse (``BadImage``) an image that is too large or too small."""
    if width * height > MAX_PIXELS:
        raise BadImage(f"{width} x {height}: {TOO_LARGE}")
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"{width} x {height}: a side is under {MIN_SIDE} pixels")


def check_shape(width: int, height: int) -> None:
    """Refuse (``BadImage``) an image that is too long to become one square."""
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(f"{width} x {height}: one side is more than {MAX_ASPECT} times the other; data.tile cuts it")


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
        from tasks.prepare import bands

        if "transparency" in image.info:
            facts.notes.append("transparent pixels are read as they are")
        return bands.eight_bits(image, depth, facts)
    if not image.has_transparency_data:
        return image
    from tasks.prepare import transparency

    return transparency.on_white(image, facts)


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
    """Read one message; an EOFError when the other side is gone."""
    lengths = _exactly(stream, LENGTHS.size)
    text, blob = (_exactly(stream, n) for n in LENGTHS.unpack(lengths))
    return json.loads(text), blob


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError
    return data


def serve(source: IO[bytes], sink: IO[bytes], size: int, channels: int, depth: int, bits: int, fit: str) -> None:
    """Answer batches ``([[name, length, part], ...], bytes)`` with one message per image, until the other side closes."""
    send(sink, "ready")
    while True:
        try:
            items, blob = receive(source)
        except EOFError:
            return
        start = 0
        for name, length, part in items:
            signal.alarm(SECONDS)
            try:
                pixels, facts = decode(blob[start : start + length], name, size, channels, depth, bits, fit, part)
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
