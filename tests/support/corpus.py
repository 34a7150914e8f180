"""Image files as people have them: damaged, strange, hostile and merely unusual. Generated; nothing binary is committed."""

import io
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

SIDE = 24


def picture(seed: int = 0, size: int = SIDE) -> Image.Image:
    """A smooth random color image."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The image as a file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes = b"", depth: int = 8, color: int = 0, extra: bytes = b"") -> bytes:
    """A PNG written by hand, so that its header may lie."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    data = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def sixteen_bit_rgb(value: int) -> bytes:
    """A 16-bit RGB PNG of one value."""
    row = b"\0" + struct.pack(">H", value) * 3 * SIDE
    return png(SIDE, SIDE, row * SIDE, depth=16, color=2)


def flipped(data: bytes, at: int) -> bytes:
    """One bit changed."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def with_exif(orientation: int) -> bytes:
    """A JPEG, left half black and right half white as stored, with an EXIF orientation."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[:, SIDE // 2 :] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(pixels), "JPEG", quality=95, exif=exif)


def lying_jpeg() -> bytes:
    """A JPEG whose header claims 65,500 x 65,500 pixels."""
    data = encoded(picture(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", 65500, 65500) + data[at + 4 :]


def polyglot() -> bytes:
    """A JPEG with a zip archive behind it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("hidden.txt", "x" * 5000)
    return encoded(picture(), "JPEG") + out.getvalue()


def tiff_pages() -> bytes:
    """Two pages."""
    return encoded(picture(), "TIFF", save_all=True, append_images=[picture(1)])


def animated(kind: str) -> bytes:
    """Three frames, the first one red."""
    frames = [Image.new("RGB", (SIDE, SIDE), c) for c in ("red", "lime", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def transparent(alpha: int, color: tuple[int, int, int] = (255, 0, 255)) -> bytes:
    """One color under one transparency."""
    return encoded(Image.new("RGBA", (SIDE, SIDE), (*color, alpha)))


def palette(transparency: bool) -> bytes:
    """A two-color palette image; index 0 may be transparent."""
    image = Image.fromarray(np.repeat([[0, 1]], SIDE, 0).repeat(SIDE // 2, 1).astype(np.uint8), "L").convert("P")
    image.putpalette([255, 0, 255, 0, 0, 0] + [0] * 762)
    return encoded(image, "PNG", transparency=0) if transparency else encoded(image)


def unusable() -> dict[str, bytes]:
    """File name -> bytes of files that must be quarantined, each for its own reason."""
    jpeg, plain = encoded(picture(), "JPEG"), encoded(picture())
    idat = plain.index(b"IDAT") + 20
    lab = encoded(Image.new("LAB", (SIDE, SIDE), (100, 20, 20)), "TIFF")
    return {
        "empty.jpg": b"",
        "one-byte.png": b"\x89",
        "not-found.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
        "zeros.jpg": bytes(4096),
        "random.jpg": np.random.default_rng(0).bytes(4096),
        "half.jpg": jpeg[: len(jpeg) // 2],
        "nearly-whole.jpg": jpeg[:-10],
        "half.png": plain[: len(plain) // 2],
        "header-only.jpg": jpeg[:20],
        "bit-flip.png": flipped(plain, idat),
        "header-crc.png": flipped(plain, plain.index(b"IHDR") + 18),
        "float.tif": encoded(Image.fromarray(np.full((SIDE, SIDE), 1e4, np.float32)), "TIFF"),
        "int32.tif": encoded(Image.fromarray(np.full((SIDE, SIDE), 10**6, np.int32)), "TIFF"),
        "lab.tif": lab,
        "one-pixel.png": encoded(Image.new("RGB", (1, 1))),
        "line.png": encoded(Image.new("RGB", (4000, 1))),
        "strip.png": encoded(Image.new("RGB", (8, 400))),
        "no-width.png": png(0, 5),
        "bomb.png": png(10_000, 10_000, bytes(10_001 * 10_000)),
        "claims-too-much.png": png(65_500, 65_500, bytes(100)),
        "claims-too-much.jpg": lying_jpeg(),
        "text-bomb.png": png(SIDE, SIDE, bytes(25 * SIDE), extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(70 << 20), 9))),
        "script.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "print.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\n",
        "phone.heic": struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(200),
        "paper.pdf": b"%PDF-1.7\n1 0 obj\n",
    }


def usable() -> dict[str, tuple[bytes, str]]:
    """File name -> (bytes, a word of the note it must get, or nothing)."""
    inverted = Image.fromarray(255 - np.asarray(picture().convert("CMYK")), "CMYK")
    wide = np.linspace(0, 65535, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    return {
        "really-png.jpg": (encoded(picture()), "content is PNG"),
        "polyglot.jpg": (polyglot(), "after the end"),
        "grey.png": (encoded(picture().convert("L")), ""),
        "one-bit.png": (encoded(picture().convert("1")), ""),
        "palette.png": (palette(False), ""),
        "palette-clear.png": (palette(True), "partly transparent"),
        "grey-alpha.png": (encoded(picture().convert("LA")), ""),
        "clear.png": (transparent(0), "transparent all over"),
        "sixteen.png": (encoded(Image.fromarray(wide)), ""),
        "sixteen.tif": (encoded(Image.fromarray(wide), "TIFF", tiffinfo=tags), ""),
        "sixteen-rgb.png": (sixteen_bit_rgb(0x8000), ""),
        "cmyk.jpg": (encoded(picture().convert("CMYK"), "JPEG"), ""),
        "cmyk-inverted.jpg": (encoded(inverted, "JPEG"), ""),
        "grey.jpg": (encoded(picture().convert("L"), "JPEG"), ""),
        "progressive.jpg": (encoded(picture(), "JPEG", progressive=True), ""),
        "pages.tif": (tiff_pages(), "several frames"),
        "moving.gif": (animated("GIF"), "several frames"),
        "moving.webp": (animated("WEBP"), "several frames"),
        "plain.bmp": (encoded(picture(), "BMP"), ""),
        "plain.webp": (encoded(picture(), "WEBP"), ""),
        "turned.jpg": (with_exif(6), "turned by its EXIF"),
        "impossible-turn.jpg": (with_exif(99), "impossible EXIF"),
        "broken-exif.jpg": (encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"), ""),
        "profile.jpg": (encoded(picture(), "JPEG", icc_profile=np.random.default_rng(1).bytes(300)), "color profile"),
        "constant.png": (encoded(Image.new("RGB", (SIDE, SIDE), (7, 7, 7))), ""),
    }
