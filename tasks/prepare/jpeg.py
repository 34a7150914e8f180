"""JPEG files that lack a part and end properly all the same, as repair tools leave them. The decoder says nothing of it.

Where the data end early the decoder goes on in grey, 128. So does a picture with a grey border, but there the last bytes are
those of the border. They are left out, no more of them than the grey rows must have: if a row above the grey changes then,
the grey has no data.
"""

import contextlib
from io import BytesIO
from typing import Any

from PIL import Image

from tasks.prepare.decoding import BadImage

END, SCAN, ARITHMETIC = b"\xff\xd9", b"\xff\xda", b"\xff\xc9"
"""Markers. Arithmetic coding has no fewest bits."""
GREY = 128
BITS, BITS_GREY = 12, 8
"""Fewest bits of 16 x 16 pixels: 4 blocks, and 1 of each other color, of 2 codes each, of a bit at least."""
MOST = 64
"""Bytes left out at most."""
BLEEDS = 4
"""Rows above a changed one that may change with it, where colors are stored at half the size."""


def ending(data: bytes) -> list[str]:
    """What to say of how a file ends."""
    return [] if data.rstrip(b"\0").endswith(END) else ["bytes after the end of the JPEG"]


def check(image: Any, data: bytes) -> list[str]:
    """Refuse a decoded image that ends early; what to say where the last scans are absent.

    Args:
        image: in the mode and at the scale it was decoded at.
        data: the whole file.

    Raises:
        BadImage: its lower part is none of its own.
    """
    if image.info.get("progressive"):
        return ["a progressive JPEG without its last scans: less sharp than it was"] if _lacks_scans(data, image.layers) else []
    last = image.size[1] - 1
    if image.getpixel((0, last)) in (GREY, (GREY,) * 3) and (row := _end_of_data(image, data)):
        raise BadImage(f"damaged: the JPEG ends early, and is grey below row {row}")
    return []


def _end_of_data(image: Any, data: bytes) -> int:
    """The row at which the data end; 0: they do not, or that cannot be told for sure."""
    import numpy as np  # only here: pictures need no NumPy

    end = data.rstrip(b"\0")
    is_usual = end.endswith(END) and ARITHMETIC not in end and end[end.rfind(SCAN) + 4 :][:1] == bytes([image.layers])
    if not is_usual or any(down > 2 for _, _, down, _ in image.layer):
        return 0
    with contextlib.suppress(OSError):  # in other colors than those of a picture
        whole = _plain(end)
        row = 1 + max(np.flatnonzero((whole[..., 0] != GREY).any(axis=1)), default=0)
        count = (len(whole) - row) // 16 * (whole.shape[1] // 16) * (BITS if image.layers > 1 else BITS_GREY) // 8
        if count:
            shorter = _plain(end[: -len(END) - min(count, MOST)] + END)
            return int(row) if (shorter != whole)[: max(0, row - BLEEDS)].any() else 0
    return 0


def _plain(data: bytes) -> Any:
    """(H, W, layers) uint8 as they are coded, without a change of colors."""
    import numpy as np

    with Image.open(BytesIO(data), formats=("JPEG",)) as image:
        image.draft("YCbCr", image.size)
        values = np.asarray(image)
    return values if values.ndim == 3 else values[..., None]


def _lacks_scans(data: bytes, layers: int) -> bool:
    """Whether a coefficient of a progressive JPEG has not come with its last bit."""
    at = 2
    while data[at : at + 2] != SCAN:  # what lies before the first scan may hold a small JPEG
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at : at + 1] != b"\xff":
            return False
    left: dict[tuple[int, int], int] = {}
    while 0 < at < len(data) - 4:  # what lies behind the picture may look like a scan
        count = min(data[at + 4], 4)
        if at + 8 + 2 * count > len(data):
            break
        first, last, bits = data[at + 5 + 2 * count : at + 8 + 2 * count]
        for key in ((color, k) for color in data[at + 5 : at + 5 + 2 * count : 2] for k in range(first, last + 1)):
            left[key] = min(left.get(key, bits & 15), bits & 15)
        at = data.find(SCAN, at + 2)
    return sum(bits == 0 for bits in left.values()) < 64 * layers
