"""Baseline: the same encoder trained from scratch with every label, on the same budget.

L = CE(W h + b, y), averaged over the labelled images of the batch.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ssl_core.config import BelowOne, ConfigError
from ssl_core.engine import distributed
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class Config:
    label_smoothing: BelowOne
    """Share of the target spread over all classes."""


class Supervised(Method):
    title = "all labels, same budget"
    family = "baseline"
    from_labels = True
    Config = Config
    labels: Tensor

    def __init__(self, encoder: Encoder, config: Any, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        if data.labels is None:
            raise ConfigError("the supervised baseline needs labels; remove it from run.methods")
        self.register_buffer("labels", data.labels, persistent=False)
        self.head = nn.Linear(encoder.dim, max(1, data.num_classes))

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        return (self.view(images, rng),)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        target = self.labels[batch.ids]
        known = (target >= 0).float()
        logits = self.head(self.encoder(batch.views[0])).float()
        each = F.cross_entropy(logits, target.clamp(min=0), reduction="none", label_smoothing=self.config.label_smoothing)
        right = (logits.detach().argmax(1) == target).float()
        return {"loss": distributed.masked_mean(each, known), "accuracy": distributed.masked_mean(right, known)}
