"""Multi-crop: two large views of each image and several small ones that cost little (SwAV, arXiv 2006.09882, section 3.2)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from ssl_core.config import ASCENDING, Fraction, Share
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import Encoder, VisionTransformer
from ssl_core.engine.method import Method
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class Crops:
    """The small views; the two large ones follow the common recipe (``augment.crop_scale``)."""

    views: int
    """Number of small views; 0 = the two large ones alone. SwAV, LeJEPA: 6; DINO: 8; small images: 0-4."""
    scale: Annotated[tuple[Fraction, Fraction], ASCENDING]
    """Share of the image's area in a small view. Papers: 0.05-0.14 (SwAV) to 0.05-0.4 (DINO); small images: 0.1-0.4."""
    size: Fraction
    """Side of a small view as a share of a large one's. Papers: 96 / 224; small images: 0.5, which keeps 14 px and more."""
    blur: Share
    """Probability of blur in a small view. Papers: 0.5; small images: 0."""


def multi_crop(
    method: Method, images: Tensor, rng: Rng, crops: Crops, second: AugmentConfig | None = None
) -> tuple[Tensor, ...]:
    """Two large views (B, C, S, S) by the method's recipe, then ``crops.views`` small ones, of a side its encoder can take.

    Args:
        images: (B, C, H, W) uint8.
        crops: the small views follow the method's recipe, with a crop and a blur of their own.
        second: another recipe of the second large view.
    """
    side = method.augment.view_side(method.data.image_size)
    unit = method.encoder.patch_size if isinstance(method.encoder, VisionTransformer) else 1
    small = max(1, round(side * crops.size / unit)) * unit
    local = replace(method.augment, crop_scale=crops.scale, blur=crops.blur)
    large = [method.view(images, rng), method.view(images, rng, second)]
    return *large, *(method.view(images, rng, local, small) for _ in range(crops.views))


def encode_crops(encoder: Encoder, views: Sequence[Tensor]) -> Tensor:
    """Features (V * B, D) of V views, view by view; those of one size share a forward pass and its batch statistics."""
    groups = itertools.groupby(views, key=lambda v: v.shape[-1])
    return torch.cat([encoder(torch.cat(list(group))) for _, group in groups])
