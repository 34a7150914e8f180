"""What a file says of its colors and no decoder heeds: a picture is read as sRGB, whatever it is in."""

from typing import Any

OTHER = "a color profile other than sRGB is ignored"
GAMMA, PRIMARIES = 1 / 2.2, (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""Of sRGB in a PNG: the exponent; white, red, green and blue as x and y."""
APART = 0.05, 0.01
"""From how much on they are others."""
ADOBE = (b"\x01\0\x02\0\x04\0\0\0R03\0", b"\0\x01\0\x02\0\0\0\x04R03\0")
"""How the EXIF of a camera names Adobe RGB, in both byte orders; few of them add a profile."""


def ignored(image: Any, data: bytes) -> list[str]:
    """What to say of an image's color space.

    Args:
        data: the whole file.
    """
    profile = image.info.get("icc_profile") or b""
    if profile:
        return [OTHER] if b"sRGB" not in profile and b"s\0R\0G\0B" not in profile else []
    if image.format == "PNG":
        return _of_png(image.info, data)
    exif = image.info.get("exif") or b""
    return [OTHER] if any(name in exif for name in ADOBE) else []


def _of_png(info: dict[str, Any], data: bytes) -> list[str]:
    """What the chunks cICP, gAMA and cHRM say, where sRGB does not overrule them."""
    at = data.find(b"cICP", 0, data.find(b"IDAT"))
    if at > 0:
        return [OTHER] if data[at + 4 : at + 6] != b"\x01\x0d" else []  # 1: its primaries, 13: its curve
    if "srgb" in info:
        return []
    told = []
    if abs(info.get("gamma", GAMMA) / GAMMA - 1) > APART[0]:
        told.append(f"a gamma of {info['gamma']:g} is ignored; that of sRGB is 0.45")
    if any(abs(a - b) > APART[1] for a, b in zip(info.get("chromaticity", ()), PRIMARIES, strict=False)):
        told.append("primary colors other than those of sRGB are ignored")
    return told
