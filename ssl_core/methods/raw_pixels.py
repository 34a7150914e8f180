"""Baseline: the pixels themselves as features. An encoder below this row has lost what the image already said."""

from dataclasses import dataclass

from torch import Tensor

from ssl_core.engine.method import Batch, Method
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to set; params.yaml gives it ``encoder.name: pixels`` and ``train.epochs: 0``."""


class RawPixels(Method):
    title = "the pixels"
    family = "baseline"
    Config = Config

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        return (self.view(images, rng),)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        raise RuntimeError("raw_pixels is not trained; set method.raw_pixels.train.epochs to 0")
