"""What makes two encoders the same network, so that the same weights give the same features in both.

It is read off the values of ``encoder`` as they stand: a command that only plans has no time to load torch.
"""

from collections.abc import Mapping
from typing import Any

SHAPES = {
    "timm": ("input_size", "feature"),
    "small": ("width", "depth"),
    "vit": ("width", "depth", "patch_size", "feature"),
}
"""What of ``encoder`` makes another network of weights, by the kind of its name. Not the kind of norm: weights have their own,
and a method that needs another one (CPC) is compared with them as they are."""
SHAPE = ("input_size",)
"""The same of a ResNet."""


def network(encoder: Mapping[str, Any]) -> tuple[Any, ...]:
    """Two encoders with equal ones have the same features if they have the same weights."""
    name = str(encoder.get("name"))
    return name, *(encoder.get(key) for key in SHAPES.get(name.split("/")[0], SHAPE))
