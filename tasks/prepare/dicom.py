"""DICOM files, read by pydicom, an extra: ``make`` installs it, an installation by hand needs ``pip install pydicom``.

The stored values count, not what a viewer's window shows: 0 of signed ones is put in the middle, the inverted scale of
MONOCHROME1 (large is dark) is turned round, and what is padding is as dark as the darkest pixel. The first frame counts.
"""

import hashlib
from io import BytesIO
from typing import Any

import numpy as np

from tasks.prepare import decoding
from tasks.prepare.decoding import BadImage, Facts

KINDS = ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""Photometric interpretations that have a stated range; a palette has none."""
MOST = 65535


def read(data: bytes, depth: int) -> tuple[np.ndarray[Any, Any], Facts]:
    """Values (H, W, B) of the first frame, uint8 or uint16, in 0..2^BitsStored - 1.

    Args:
        depth: bits of signed values above 8: 0 becomes 2^(depth - 1), and what lies below is cut.

    Raises:
        BadImage: pydicom is absent, there are no pixels, or they have no stated range; and what pydicom raises.
    """
    try:
        import pydicom
        from pydicom.pixels import pixel_array
    except ImportError:
        raise BadImage("DICOM needs pydicom, which is not installed: .venv/bin/pip install pydicom") from None
    about = pydicom.dcmread(BytesIO(data))
    if not {"Rows", "Columns", "PixelData"} <= {element.keyword for element in about}:
        raise BadImage("a DICOM file without pixels")
    width, height, kind = int(about.Columns), int(about.Rows), str(about.PhotometricInterpretation)
    decoding.check_sides(width, height)
    if kind not in KINDS or not 1 <= about.BitsStored <= 16:
        raise BadImage(f"DICOM pixels {kind} of {about.BitsStored} bits; grey or color of at most 16 bits can be read")
    values, top = pixel_array(about, index=0).astype(np.int64), 2**about.BitsStored - 1
    is_deep, is_signed = about.BitsStored > 8, bool(about.PixelRepresentation)
    padding = _is_padding(values, about)
    top = 2**depth - 1 if is_signed and is_deep else top
    values = values + (top + 1) // 2 if is_signed else values
    values = (top - values if kind == "MONOCHROME1" else values).clip(0, MOST)
    if padding.any() and not padding.all():
        values[padding] = values[~padding].min()
    facts = Facts(width, height, kind, "DICOM", hashlib.sha256(data).hexdigest(), signed=is_signed and is_deep)
    if int(about.get("NumberOfFrames") or 1) > 1:
        facts.notes.append("several frames or pages, the first is used")
    values = values * 255 // top if about.BitsStored < 8 else values
    values = values[..., None] if values.ndim == 2 else values
    return values.astype(np.uint16 if is_deep else np.uint8), facts


def _is_padding(values: np.ndarray[Any, Any], about: Any) -> np.ndarray[Any, Any]:
    """Which pixels were filled in outside of what was scanned."""
    first = about.get("PixelPaddingValue")
    if first is None:
        return np.zeros(values.shape, bool)
    bound = 2 ** (about.BitsAllocated - 1) if about.PixelRepresentation else None  # of signed values that are written unsigned
    limits = (int(first), int(about.get("PixelPaddingRangeLimit", first)))
    low, high = sorted(limit - 2 * bound if bound and limit >= bound else limit for limit in limits)
    return (values >= low) & (values <= high)
