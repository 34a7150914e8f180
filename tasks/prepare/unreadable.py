"""What a file is that no allowed decoder takes."""

from tasks.prepare import decoding, tiff

PICTURES = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
"""Kinds of what begins like a film and is a picture."""


def what_else(data: bytes) -> str:
    """Name what a file is that no allowed decoder takes."""
    start = data[:64].lstrip().lower()
    allowed = "not one of " + ", ".join(decoding.FORMATS)
    if not data.strip(b"\0"):
        return "nothing but zero bytes"
    if start.startswith((b"<!doctype", b"<html", b"<svg", b"<?xml")):
        return f"text (HTML, SVG or XML), {allowed}"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the image; git lfs pull fetches it"
    if start.startswith(b"%!ps") or start.startswith(b"%pdf"):
        return f"PostScript or PDF, {allowed}"
    if data[4:8] == b"ftyp":
        return f"{'HEIC or AVIF' if data[8:12].lower() in PICTURES else 'a film (MP4 or alike)'}, {allowed}"
    if data[:4] in tiff.BEGINNINGS:
        return "a TIFF whose pixels are none that can be read (floats, for instance), or damaged; store 8 or 16 bits, unsigned"
    return f"damaged or {allowed}"
