"""Configurations and networks that tests start from; ``dataclasses.replace`` makes others of them."""

from dataclasses import replace
from typing import Any

from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import Encoder, EncoderConfig, build

AUGMENT = AugmentConfig(
    view_share=1.0,
    crop_scale=(0.4, 1.0),
    flip=0.5,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grayscale=0.2,
    blur=0.0,
    blur_sigma=(0.1, 2.0),
    solarize=0.0,
)
STILL = replace(AUGMENT, crop_scale=(1.0, 1.0), flip=0.0, jitter=0.0, grayscale=0.0)
"""A view is the image itself."""
ENCODER = EncoderConfig(name="small", width=4, depth=1, patch_size=4, norm="batch")


def encoder_of(channels: int = 1, size: int = 16, seed: int = 0, **changes: Any) -> Encoder:
    """``ENCODER`` with these ``changes``, for images of this many channels and pixels a side."""
    return build(replace(ENCODER, **changes), channels, size, seed)
