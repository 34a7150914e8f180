"""Baseline: the untrained encoder. What a method adds is its distance to this row.

Its residual branches are on. The methods start with them off, which helps training and nothing else.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import Encoder, open_residuals
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to set; params.yaml gives it ``train.epochs: 0``."""


class RandomInit(Method):
    title = "the untrained encoder"
    family = "baseline"
    Config = Config

    def __init__(self, encoder: Encoder, config: Any, augment: AugmentConfig, data: DataInfo):
        super().__init__(open_residuals(encoder), config, augment, data)

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        return (self.view(images, rng),)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        raise RuntimeError("random_init is not trained; set method.random_init.train.epochs to 0")
