"""TIFF beyond what Pillow shows: what its tags say of the values, and files of more bands than a picture has."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from tasks.prepare import decoding
from tasks.prepare.decoding import BadImage

Array = np.ndarray[Any, Any]
MOST = 16
"""Channels."""
BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
COMPRESSIONS = (1, 5, 8, 32773, 32946, 50000)
"""Of a multi-band TIFF: none, LZW, Deflate, PackBits, Deflate's old number, Zstandard."""
BITS, PHOTOMETRIC, ORIENTATION, BANDS, LAYOUT, FORMATS = 258, 262, 274, 277, 284, 339
"""Tags."""
UPRIGHT = {
    2: lambda values: values[:, ::-1],
    3: lambda values: np.rot90(values, 2),
    4: lambda values: values[::-1],
    5: lambda values: values.swapaxes(0, 1),
    6: lambda values: np.rot90(values, -1),
    7: lambda values: np.rot90(values, 2).swapaxes(0, 1),
    8: lambda values: np.rot90(values, 1),
}
"""By the orientation, what turns the values (H, W, B)."""


def is_deep(image: Any) -> bool:
    """Whether a TIFF has more than 8 bits of each value."""
    return max(_numbers(image.tag_v2.get(BITS, 8))) > 8


def is_beyond_pictures(data: bytes) -> bool:
    """Whether a file is a TIFF of several bands with more than 8 bits of each, or of bands that are no picture's."""
    try:
        with Image.open(BytesIO(data), formats=decoding.FORMATS) as image:
            bands = int(image.tag_v2.get(BANDS, 1)) if image.format == "TIFF" else 0
            return bands > 1 and image.mode != "L" and is_deep(image)
    except UnidentifiedImageError:
        return data[:4] in BEGINNINGS and is_of_bands(data)


def is_of_bands(data: bytes) -> bool:
    """Whether a TIFF is one that ``read`` takes, by its tags, of more than one band."""
    try:
        _, bands, _ = _tags(data)
    except Exception:  # damaged in any way, or values of another type
        return False
    return bands > 1


def needs_reading(image: Any) -> bool:
    """Whether Pillow shows less of a TIFF than ``read``: bands more than a picture has, or deep ones one after the other."""
    bands = int(image.tag_v2.get(BANDS, 1))
    return bands > len(image.getbands()) or (bands > 1 and is_deep(image) and image.tag_v2.get(LAYOUT, 1) == 2)


def check(image: Any) -> None:
    """Refuse values that a picture would show as others.

    Raises:
        BadImage: signed ones, or deep ones of which 0 is white.
    """
    tags = image.tag_v2
    if 2 in _numbers(tags.get(FORMATS, 1)):
        raise BadImage("signed values have no stated range; store unsigned ones of 8 or 16 bits")
    if tags.get(PHOTOMETRIC) == 0 and is_deep(image):
        raise BadImage("more than 8 bits, of which 0 is white (WhiteIsZero); store black as 0")


def beyond(image: Any) -> list[str]:
    """What to say of bands that a picture of 1 or 3 channels leaves out."""
    bands, read = int(image.tag_v2.get(BANDS, 1)), 3 if image.mode == "RGBX" else len(image.getbands())
    return [f"{bands} bands, of which {read} are read; data.channels: {bands} keeps all"] if bands > read else []


def _numbers(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def read(data: bytes) -> tuple[Array, bool]:
    """All bands (H, W, B) of the first page of a TIFF, unsigned, of 8 or 16 bits; and whether its orientation turned it.

    Pillow decompresses the bands one by one, or all as one wide grey image: a directory that says so is added to the file.

    Raises:
        BadImage: bands of another type, or a compression for pictures.
    """
    tags, bands, (width, height) = _tags(data)
    decoding.check_sides(width, height)
    if tags.get(259, 1) not in COMPRESSIONS:
        raise BadImage(f"{bands} bands in TIFF's compression {tags.get(259)}; use LZW, Deflate or none")
    if tags.get(284, 1) == 2:
        values = np.stack([_page(data, _one_band(tags, band, bands)) for band in range(bands)], 2)
    else:
        values = _page(data, _all_bands(tags, bands)).reshape(height, width, bands)
        if tags.get(317, 1) == 2:
            values = _undo_differences(values, int(tags.get(322, width)))
    turn = UPRIGHT.get(int(tags.get(ORIENTATION, 1)))
    return (np.ascontiguousarray(turn(values)), True) if turn else (values, False)


def _tags(data: bytes) -> tuple[Any, int, tuple[int, int]]:
    """The first directory of a TIFF, the number of its bands, and its sides.

    Raises:
        BadImage: bands of another type.
    """
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2:3] == b"+" or data[3:4] == b"+" else 8])
    file = BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    bands, bits, kinds = int(tags.get(277, 1)), set(tags.get(258, (1,))), set(tags.get(339, (1,)))
    if len(bits) != 1 or not bits <= {8, 16} or kinds != {1} or not 1 <= bands <= MOST:
        raise BadImage(f"{bands} bands of {sorted(bits)} bits; at most {MOST} unsigned ones of 8 or 16 bits can be read")
    return tags, bands, (int(tags[256]), int(tags[257]))


def _one_band(tags: Any, band: int, bands: int) -> dict[int, Any]:
    """The directory of one of the bands that are stored one after the other."""
    changed = {258: tags[258][:1], 262: 1, 277: 1, 284: 1}
    for tag in (273, 279, 324, 325):  # where the strips or tiles are, and how long
        if tag in tags:
            each = len(tags[tag]) // bands
            changed[tag] = tags[tag][band * each : (band + 1) * each]
    return _kept(tags, (317,)) | changed


def _all_bands(tags: Any, bands: int) -> dict[int, Any]:
    """The directory of an image ``bands`` times as wide, of one value after the other."""
    changed = {256: tags[256] * bands, 258: tags[258][:1], 262: 1, 277: 1}
    return _kept(tags, ()) | changed | ({322: tags[322] * bands} if 322 in tags else {})


def _kept(tags: Any, more: tuple[int, ...]) -> dict[int, Any]:
    """What says how the pixels are stored; no colors, places or names."""
    return {tag: tags[tag] for tag in (256, 257, 259, 266, 273, 278, 279, 322, 323, 324, 325, *more) if tag in tags}


def _page(data: bytes, directory: dict[int, Any]) -> Array:
    """The grey image that the file shows with this directory: written behind it, all entries as 32-bit numbers."""
    order = "<" if data[:2] == b"II" else ">"
    at = len(data) + len(data) % 2
    beyond = at + 6 + 12 * len(directory)
    entries, more = b"", b""
    for tag, value in sorted(directory.items()):
        numbers = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        where = packed if len(numbers) == 1 else struct.pack(f"{order}I", beyond + len(more))
        more += b"" if len(numbers) == 1 else packed
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + where
    head = data[:2] + struct.pack(f"{order}HI", 42, at)
    tail = struct.pack(f"{order}H", len(directory)) + entries + b"\0\0\0\0" + more
    with Image.open(BytesIO(head + data[8:].ljust(at - 8, b"\0") + tail), formats=("TIFF",)) as page:
        values = np.asarray(page)
    return values.astype(np.uint8 if page.mode == "L" else np.uint16)


def _undo_differences(values: Array, across: int) -> Array:
    """Values from their differences to the left neighbor, which start anew with each tile of ``across`` pixels."""
    parts = np.split(values, range(across, values.shape[1], across), 1)
    return np.concatenate([np.cumsum(part, 1, dtype=values.dtype) for part in parts], 1)
