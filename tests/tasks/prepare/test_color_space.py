"""A picture in another color space than sRGB is told, whatever says so: a profile, a chunk of PNG, the EXIF of a camera."""

import struct
from typing import Any

import pytest
from PIL import ImageCms

from tasks.prepare import decoding
from tests.support import corpus


def notes(data: bytes, channels: int = 3, **more: Any) -> list[str]:
    return decoding.decode(data, "x", corpus.SIDE, channels, **more)[1].notes


def with_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    plain = corpus.encoded(corpus.picture())
    return plain[:33] + b"".join(corpus.chunk(*c) for c in chunks) + plain[33:]


def gamma(value: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(value * 100_000))


SRGB, ADOBE = ((31270, 32900, 64000, 33000, 30000, 60000, *blue) for blue in ((15000, 6000), (15000, 7500)))
OTHER = "a color profile other than sRGB is ignored"


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ([gamma(1.0)], ["a gamma of 1 is ignored; that of sRGB is 0.45"]),
        ([gamma(0.55556)], ["a gamma of 0.55556 is ignored; that of sRGB is 0.45"]),
        ([gamma(0.45455)], []),
        ([(b"sRGB", b"\0"), gamma(1.0)], []),  # sRGB overrules it
        ([gamma(0.45455), (b"cHRM", struct.pack(">8I", *SRGB))], []),
        ([(b"cHRM", struct.pack(">8I", *ADOBE))], ["primary colors other than those of sRGB are ignored"]),
        ([(b"cICP", bytes([9, 16, 0, 1]))], [OTHER]),  # HDR
        ([(b"cICP", bytes([1, 13, 0, 1])), gamma(1.0)], []),
    ],
)
def test_a_png_in_another_color_space_is_told(chunks: list[tuple[bytes, bytes]], said: list[str]) -> None:
    assert notes(with_chunks(*chunks)) == said
    assert notes(with_chunks(*chunks), bits=16) == said


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_camera_that_says_adobe_rgb_without_a_profile_is_told(order: str) -> None:
    def exif(index: bytes) -> bytes:
        head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
        below = [struct.pack(order + "HHHII", 1, tag, 4, 1, at) + bytes(4) for tag, at in ((0x8769, 26), (0xA005, 44))]
        entry = struct.pack(order + "HHHI", 1, 1, 2, 4) + index + bytes(4)
        return b"Exif\0\0" + head + b"".join(below) + entry

    adobe, srgb = (corpus.encoded(corpus.picture(), "JPEG", exif=exif(index)) for index in (b"R03\0", b"R98\0"))
    assert notes(adobe) == [OTHER] and notes(srgb) == []
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert notes(corpus.encoded(corpus.picture(), icc_profile=profile)) == []
