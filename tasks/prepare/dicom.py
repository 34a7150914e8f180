"""DICOM files, read by pydicom, an extra: ``make`` installs it, an installation by hand needs ``pip install pydicom``.

The stored values count, not what a viewer's window shows: signed ones are shifted to begin at 0, and the inverted scale of
MONOCHROME1 (large is dark) is turned round. The first frame counts.
"""

import hashlib
from io import BytesIO
from typing import Any

import numpy as np

from tasks.prepare import decoding
from tasks.prepare.decoding import BadImage, Facts

KINDS = ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""Photometric interpretations that have a stated range; a palette has none."""


def read(data: bytes) -> tuple[np.ndarray[Any, Any], Facts]:
    """Values (H, W, B) of the first frame, uint8 or uint16 in 0..2^BitsStored - 1.

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
    values = values + (top + 1) // 2 if about.PixelRepresentation else values
    values = top - values if kind == "MONOCHROME1" else values
    facts = Facts(width, height, kind, "DICOM", hashlib.sha256(data).hexdigest())
    if int(about.get("NumberOfFrames") or 1) > 1:
        facts.notes.append("several frames or pages, the first is used")
    values = values[..., None] if values.ndim == 2 else values
    return values.astype(np.uint8 if about.BitsStored <= 8 else np.uint16), facts
