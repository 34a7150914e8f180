"""Images that are more than a picture for the eye: 1 to 16 channels, 8 or 16 bits of each value, NumPy files, multi-band TIFF.

Every band is kept as it is: none is mixed with another, or taken for transparency, but where ``data.channels`` asks for grey
or color (1 or 3) of a color image. Values with more than 8 bits are scaled from ``depth`` bits; floats are in 0..1.
"""

import hashlib
import struct
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from tasks.prepare import decoding, dicom
from tasks.prepare.decoding import BadImage, Facts

Array = np.ndarray[Any, Any]
LUMA = np.array([0.299, 0.587, 0.114])  # as Pillow
MOST = 16
"""Channels."""
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SAMPLED = 2**16
"""Pixels of a picture that say what is usual in it."""
COMPRESSIONS = (1, 5, 8, 32773, 32946, 50000)
"""Of a multi-band TIFF: none, LZW, Deflate, PackBits, Deflate's old number, Zstandard."""


def decode(data: bytes, name: str, size: int, channels: int, depth: int, bits: int, fit: str) -> tuple[bytes, Facts]:
    """As ``decoding.decode``.

    Raises:
        BadImage, and what decoders raise.
    """
    values, facts = read(data, name, channels)
    return store(values, size, channels, depth, bits, fit, facts), facts


def read(data: bytes, name: str, channels: int) -> tuple[Array, Facts]:
    """The values (H, W, B) of a file.

    Raises:
        BadImage, and what decoders raise.
    """
    if data.startswith(decoding.NPY):
        values = as_bands(_numpy(data), channels)
        facts = Facts(values.shape[1], values.shape[0], f"{values.shape[2]} bands", "NPY", hashlib.sha256(data).hexdigest())
    elif data[128:132] == decoding.DICOM:
        values, facts = dicom.read(data)
        values = as_bands(values, channels)
    else:
        values, facts = _picture_or_tiff(data, name, channels)
    return values, facts


def store(values: Array, size: int, channels: int, depth: int, bits: int, fit: str, facts: Facts) -> bytes:
    """Values (H, W, B) as ``size * size * channels`` of ``bits``, in H, W, C order.

    Raises:
        BadImage: another number of bands than channels, a type or values that have no stated range, or an impossible size.
    """
    decoding.check_sides(values.shape[1], values.shape[0])
    decoding.check_shape(values.shape[1], values.shape[0])
    if values.shape[2] != channels:
        raise BadImage(f"{values.shape[2]} bands, but data.channels is {channels}")
    top, white = _top(values, depth, facts), 2**bits - 1
    scaled = (values.astype(np.float64).clip(0, top) * (white / top)).astype(np.float32)
    squares = [np.asarray(decoding.square(Image.fromarray(scaled[..., c]), size, fit)) for c in range(channels)]
    stored = np.rint(np.stack(squares, 2)).clip(0, white)
    return stored.astype(np.uint8 if bits == 8 else np.uint16).tobytes()


def _top(values: Array, depth: int, facts: Facts) -> float:
    """The value that stands for white."""
    if values.dtype.kind == "f":
        if not (values.min() >= 0 and values.max() <= 1):  # NaN fails too
            raise BadImage(f"floats from {values.min():g} to {values.max():g}; they must be in 0..1")
        return 1.0
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 65535:
        raise BadImage(f"{values.dtype} values from {values.min()} to {values.max()}; they must be whole numbers in 0..65535")
    if values.dtype.itemsize == 1:
        return 255.0
    return float(_white(values, depth, facts))


def _white(values: Array, depth: int, facts: Facts) -> int:
    """The largest value of ``depth`` bits; how large those of the picture are is noted."""
    some = values.ravel()[:: max(1, values.size // SAMPLED)]
    place = some.size - 1 - some.size // 100
    facts.peak, facts.usual = int(values.max()), int(np.partition(some, place)[place])
    if facts.peak >= 2**depth:
        facts.notes.append(f"values above {2**depth - 1} are cut; data.bit_depth is {depth}")
    return int(2**depth - 1)


def _numpy(data: bytes) -> Array:
    """The array of a .npy file as (H, W, B)."""
    try:
        values = np.lib.format.read_array(BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BadImage(f"not an array that can be read: {decoding.one_line(error)}") from None
    if values.ndim not in (2, 3) or not values.size:
        raise BadImage(f"an array of shape {values.shape}; it must be (H, W), (H, W, C) or (C, H, W)")
    return values


def eight_bits(image: Any, depth: int, facts: Facts) -> Any:
    """A grey picture of ``depth`` bits in 8."""
    wide = np.asarray(image).astype(np.int64).clip(0, 65535)
    top = _white(wide, depth, facts)
    return Image.fromarray(((wide.clip(0, top) * 255 + top // 2) // top).astype(np.uint8))


def as_bands(values: Array, channels: int) -> Array:
    """An array (H, W), (H, W, B) or (B, H, W) as (H, W, B); grey and color become each other as in pictures."""
    values = values[..., None] if values.ndim == 2 else values
    if values.shape[2] != channels and values.shape[0] == channels:
        values = values.transpose(1, 2, 0)
    if values.shape[2] > MOST:
        raise BadImage(f"an array of shape {values.shape}; it must be (H, W), (H, W, C) or (C, H, W)")
    return _grey_or_color(values, channels) if {values.shape[2], channels} == {1, 3} else values


def _grey_or_color(values: Array, channels: int) -> Array:
    """(H, W, 1) as (H, W, 3), or the other way round."""
    if channels == 3:
        return np.repeat(values, 3, 2)
    grey = (values @ LUMA)[..., None]
    return grey if values.dtype.kind == "f" else np.rint(grey).astype(values.dtype)


# ---------------------------------------------------------------------- Pillow's formats


def _picture_or_tiff(data: bytes, name: str, channels: int) -> tuple[Array, Facts]:
    try:
        with Image.open(BytesIO(data), formats=decoding.FORMATS) as image:
            facts = decoding.inspect(image, data, name)
            if not (facts.format == "TIFF" and image.tag_v2.get(277, 1) > len(image.getbands())):
                return _laid_out(_values(image, data, facts), channels, facts), facts
    except UnidentifiedImageError:
        if data[:4] not in TIFF:
            raise
    values = tiff(data)
    facts = Facts(values.shape[1], values.shape[0], f"{values.shape[2]} bands", "TIFF", hashlib.sha256(data).hexdigest())
    return as_bands(values, channels), facts


def _values(image: Any, data: bytes, facts: Facts) -> Array:
    """All bands (H, W, B), with all their bits."""
    deep = data[24:25] == b"\x10" if facts.format == "PNG" else facts.format == "TIFF" and decoding.deep_tiff(image)
    if image.mode in ("RGB", "RGBA") and deep:
        high, low = (_bytes_of(data, low, facts if low else None) for low in (False, True))
        return high.astype(np.uint16) << 8 | low
    turned = decoding.upright(image, facts)
    if turned.mode.startswith("I"):
        return np.asarray(turned).astype(np.int64)[..., None].clip(0, 65535).astype(np.uint16)
    kind = turned.mode
    if kind not in ("L", "LA", "RGB", "RGBA", "RGBX"):
        grey = kind in ("1", "La")
        kind = ("LA" if grey else "RGBA") if turned.has_transparency_data else ("L" if grey else "RGB")
        turned = turned.convert(kind)
    values = np.asarray(turned)
    return values[..., None] if values.ndim == 2 else values


def _bytes_of(data: bytes, low: bool, facts: Facts | None) -> Array:
    """The high or the low byte of each value of an image with 16 bits a color: Pillow reads one of them.

    It takes the first byte of big-endian values and the second of little-endian ones. Told the other order it takes the other.
    """
    swapped = {"B": "L", "L": "B", "N": "B" if np.little_endian else "L"}
    with Image.open(BytesIO(data), formats=decoding.FORMATS) as image:
        assert isinstance(image, ImageFile.ImageFile)
        if low:
            tiles = []
            for tile in image.tile:
                raw, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
                raw = str(raw)[:-1] + swapped[str(raw)[-1]]
                tiles.append(tile._replace(args=(raw, *rest) if isinstance(tile.args, tuple) else raw))
            image.tile = tiles
        image.load()
        return np.asarray(decoding.upright(image, facts or Facts(0, 0, "", "", "")))


def _laid_out(values: Array, channels: int, facts: Facts) -> Array:
    """Transparent pixels on white, and grey or color as asked for, where that is asked for; else all bands."""
    if channels not in (1, 3):
        return values
    if values.shape[2] in (2, 4) and facts.mode != "RGBX":
        white = np.iinfo(values.dtype).max
        alpha = values[..., -1:] / white
        if alpha.min() < 1:
            facts.notes.append("partly transparent, laid on white")
        values = np.rint(values[..., :-1] * alpha + white * (1 - alpha)).astype(values.dtype)
    values = values[..., :3]
    return _grey_or_color(values, channels) if values.shape[2] != channels else values


# ---------------------------------------------------------------------- multi-band TIFF


def tiff(data: bytes) -> Array:
    """All bands (H, W, B) of the first page of a TIFF, unsigned, of 8 or 16 bits.

    Pillow decompresses the bands one by one, or all as one wide grey image: a directory that says so is added to the file.

    Raises:
        BadImage: bands of another type, or a compression for pictures.
    """
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2:3] == b"+" or data[3:4] == b"+" else 8])
    file = BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    width, height, bands = int(tags[256]), int(tags[257]), int(tags.get(277, 1))
    bits, kinds = set(tags.get(258, (1,))), set(tags.get(339, (1,)))
    decoding.check_sides(width, height)
    if len(bits) != 1 or not bits <= {8, 16} or kinds != {1} or not 1 <= bands <= MOST:
        raise BadImage(f"{bands} bands of {sorted(bits)} bits; at most {MOST} unsigned ones of 8 or 16 bits can be read")
    if tags.get(259, 1) not in COMPRESSIONS:
        raise BadImage(f"{bands} bands in TIFF's compression {tags.get(259)}; use LZW, Deflate or none")
    if tags.get(284, 1) == 2:
        return np.stack([_page(data, _one_band(tags, band, bands)) for band in range(bands)], 2)
    predicted = tags.get(317, 1) == 2
    values = _page(data, _all_bands(tags, bands)).reshape(height, width, bands)
    return _undo_differences(values, int(tags.get(322, width))) if predicted else values


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
