"""Baseline: a network that others trained on ImageNet, frozen. Training that gives less is not worth it."""

from dataclasses import dataclass

from torch import Tensor

from ssl_core.engine.method import Batch, Method
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to set; params.yaml gives it ``encoder.name``, ``encoder.weights`` and ``train.epochs: 0``."""


class Pretrained(Method):
    title = "trained on ImageNet by others"
    family = "baseline"
    Config = Config

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        return (self.view(images, rng),)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        raise RuntimeError("pretrained is not trained; set method.pretrained.train.epochs to 0")
