"""Images that are more than a picture for the eye: 1 to 16 channels, 8 or 16 bits of each value, NumPy files, multi-band TIFF.

Every band is kept as it is: none is mixed with another, or taken for transparency, but where ``data.channels`` asks for grey
or color (1 or 3) of a color image. Values with more than 8 bits are scaled from ``depth`` bits; floats are in 0..1.
"""

import hashlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from tasks.prepare import decoding, dicom, header, jpeg, levels, tiff, transparency
from tasks.prepare.decoding import BadImage, Facts

Array = np.ndarray[Any, Any]
LUMA = np.array([0.299, 0.587, 0.114])  # as Pillow
SAMPLED = 2**16
"""Values of a picture that say what is usual in it."""
CUT = "values above"
"""How what is told of values begins that are whiter than white."""


def decode(data: bytes, name: str, size: int, channels: int, depth: int, bits: int, fit: str) -> tuple[bytes, Facts]:
    """As ``decoding.decode``.

    Raises:
        BadImage, and what decoders raise.
    """
    values, facts = read(data, name, channels, depth)
    return store(values, size, channels, depth, bits, fit, facts), facts


def read(data: bytes, name: str, channels: int, depth: int) -> tuple[Array, Facts]:
    """The values (H, W, B) of a file, signed ones with 0 in the middle of ``depth`` bits.

    Raises:
        BadImage, and what decoders raise.
    """
    if data.startswith(decoding.NPY):
        values = as_bands(_numpy(data), channels)
        facts = Facts(values.shape[1], values.shape[0], f"{values.shape[2]} bands", "NPY", hashlib.sha256(data).hexdigest())
    elif data[128:132] == decoding.DICOM:
        values, facts = dicom.read(data, depth)
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
    if bits == 8:
        facts.levels = _levels(values, int(top), facts)
    scaled = (values.astype(np.float64).clip(0, top) * (white / top)).astype(np.float32)
    squares = [np.asarray(decoding.square(Image.fromarray(scaled[..., c]), size, fit)) for c in range(channels)]
    stored = np.rint(np.stack(squares, 2)).clip(0, white)
    return stored.astype(np.uint8 if bits == 8 else np.uint16).tobytes()


def _top(values: Array, depth: int, facts: Facts) -> float:
    """The value that stands for white."""
    if values.dtype.kind == "f":
        if not (values.min() >= 0 and values.max() <= 1):  # NaN fails too
            raise BadImage(f"floats from {values.min():.9g} to {values.max():.9g}; they must be in 0..1")
        return 1.0
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 65535:
        raise BadImage(f"{values.dtype} values from {values.min()} to {values.max()}; they must be whole numbers in 0..65535")
    if values.dtype.itemsize == 1:
        if values.dtype.kind == "i":
            raise BadImage("int8 values, which have no stated white; store uint8")
        return 255.0
    return float(_white(values, depth, facts))


def _levels(values: Array, top: int, facts: Facts) -> list[int]:
    """``levels.left`` of values of more than 8 bits; floats count as the 16 bits that ``data.bits`` would keep of them."""
    if values.dtype.kind == "f":
        facts.reach = 65535
        return levels.left(np.rint(values.astype(np.float64) * 65535), 65535)
    return levels.left(values, top) if top > 255 else []


def _white(values: Array, depth: int, facts: Facts) -> int:
    """The largest value of ``depth`` bits; how large those of the picture are is noted."""
    used = _as_unsigned(values.astype(np.int64) - 2 ** (depth - 1)) if facts.signed else values
    some = levels.sample(used, SAMPLED)
    places = [int(levels.MOST * len(some)) - 1, len(some) - 1 - len(some) // 100]
    facts.reach, facts.usual = map(int, np.partition(some, places, axis=0)[places].max(axis=1))
    facts.peak = int(used.max())
    if facts.peak >= 2**depth:
        facts.notes.append(f"{CUT} {2**depth - 1} are cut; data.bit_depth is {depth}")
    return int(2**depth - 1)


def _as_unsigned(values: Array) -> Array:
    """The largest value of as many bits as each signed one needs: 1023 and -1024 need 11, as 2047 does."""
    return np.where(values < 0, -2 * values - 1, 2 * values + 1)


def _numpy(data: bytes) -> Array:
    """The array of a .npy file as (H, W, B)."""
    try:
        values = np.lib.format.read_array(BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BadImage(f"not an array that can be read: {decoding.one_line(error)}") from None
    if values.dtype.kind not in "biuf":
        raise BadImage(f"an array of {values.dtype}; it must be of whole numbers or floats")
    if values.ndim not in (2, 3) or not values.size:
        raise BadImage(f"an array of shape {values.shape}; it must be (H, W), (H, W, C) or (C, H, W)")
    return values


def eight_bits(image: Any, depth: int, facts: Facts) -> Any:
    """A grey picture of ``depth`` bits in 8."""
    wide = np.asarray(image).astype(np.int64).clip(0, 65535)
    top = _white(wide, depth, facts)
    facts.levels = _levels(wide, top, facts)
    return Image.fromarray(((wide.clip(0, top) * 255 + top // 2) // top).astype(np.uint8))


def as_bands(values: Array, channels: int) -> Array:
    """An array (H, W), (H, W, B) or (B, H, W) as (H, W, B); grey and color become each other as in pictures."""
    values = values[..., None] if values.ndim == 2 else values
    if values.shape[2] != channels and (values.shape[0] == channels or values.shape[2] > tiff.MOST >= values.shape[0]):
        values = values.transpose(1, 2, 0)
    if values.shape[2] > tiff.MOST:
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
            facts = header.inspect(image, data, name)
            if not (facts.format == "TIFF" and tiff.needs_reading(image)):
                values = _values(image, data, facts)
                facts.notes += jpeg.check(image, data) if facts.format == "JPEG" else []
                return _laid_out(values, channels, facts), facts
    except UnidentifiedImageError:
        if data[:4] not in tiff.BEGINNINGS:
            raise
    values, turned = tiff.read(data)
    facts = Facts(values.shape[1], values.shape[0], f"{values.shape[2]} bands", "TIFF", hashlib.sha256(data).hexdigest())
    facts.notes += ["turned by its EXIF orientation"] if turned else []
    return as_bands(values, channels), facts


AS_THEY_ARE = "transparent pixels of one color are read as they are"


def _values(image: Any, data: bytes, facts: Facts) -> Array:
    """All bands (H, W, B), with all their bits."""
    deep = data[24:25] == b"\x10" if facts.format == "PNG" else facts.format == "TIFF" and tiff.is_deep(image)
    if facts.format == "PNG" and data[24:26] == b"\x10\x04":  # Pillow calls it RGBA
        raise BadImage("16 bits of grey with transparency; store it without transparency")
    if image.mode in ("RGB", "RGBA") and deep:
        if "transparency" in image.info:
            facts.notes.append(AS_THEY_ARE)
        high, low = (_bytes_of(data, low, facts if low else None) for low in (False, True))
        return high.astype(np.uint16) << 8 | low
    if deep and image.mode == "CMYK":
        facts.notes.append("16 bits of CMYK are read as 8")
    turned = decoding.upright(image, facts)
    if turned.mode.startswith("I"):
        facts.notes += [AS_THEY_ARE] if turned.has_transparency_data else []
        return np.asarray(turned).astype(np.int64)[..., None].clip(0, 65535).astype(np.uint16)
    kind = turned.mode
    if kind not in ("L", "LA", "RGB", "RGBA", "RGBX") or (kind in ("L", "RGB") and turned.has_transparency_data):
        grey = kind in ("1", "La", "L")
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
        facts.notes += transparency.told(float(alpha.min()), float(alpha.max()), values.shape[2])
        values = np.rint(values[..., :-1] * alpha + white * (1 - alpha)).astype(values.dtype)
    values = values[..., :3]
    return _grey_or_color(values, channels) if values.shape[2] != channels else values
