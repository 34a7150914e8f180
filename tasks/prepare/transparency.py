"""Transparent pixels are laid on white. A picture that is transparent all over is told: nothing of it is left.

Such a picture often has a fourth band that is no transparency, or one that is empty.
"""

from typing import Any

from PIL import Image

from tasks.prepare.decoding import BACKGROUND, Facts

FAINT = 0.02
"""Of 1. What is no more opaque than that cannot be told from white: 5 of 256 levels."""
BEGINNING = "transparent all over"
"""Of what is told of such pictures."""


def on_white(image: Any, facts: Facts) -> Any:
    """A picture of Pillow's that has transparency, in RGBA without any."""
    layer = image.convert("RGBA")
    low, high = layer.getchannel("A").getextrema()
    facts.notes += told(low / 255, high / 255, _bands(image.mode))
    white = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
    white.alpha_composite(layer)
    return white


def _bands(mode: str) -> int:
    """How many channels keep the picture with its transparency; 0 where that is one color and no channel."""
    return {"LA": 2, "La": 2, "RGBA": 4, "RGBa": 4, "PA": 4, "P": 4}.get(mode, 0)


def told(low: float, high: float, bands: int) -> list[str]:
    """What to say of a picture by its least and most opaque pixel, in 0..1."""
    if high <= FAINT:
        keep = f"set data.channels: {bands} to keep what is under it, or " if bands else ""
        return [f"{BEGINNING}, which leaves nothing but white; {keep}remove the transparency"]
    return ["partly transparent, laid on white"] if low < 1 else []
