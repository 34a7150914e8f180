"""Baseline: the untrained encoder. What a method adds is its distance to this row."""

from dataclasses import dataclass

from torch import Tensor

from ssl_core.engine.method import Batch, Method
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to set; params.yaml gives it ``train.epochs: 0``."""


class RandomInit(Method):
    title = "the untrained encoder"
    family = "baseline"
    Config = Config

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        return (self.view(images, rng),)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        raise RuntimeError("random_init is not trained; set method.random_init.train.epochs to 0")
