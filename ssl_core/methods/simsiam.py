"""SimSiam: Exploring Simple Siamese Representation Learning.

Chen, He, CVPR 2021, arXiv 2011.10566.

Idea: BYOL without the momentum network. One branch predicts the projection of the other, and the gradient stops there:
without that stop or without the predictor everything collapses to one vector, in trainings of the paper's length. Without
BatchNorm in the heads nothing collapses, but it learns less.

    L = -1/2 mean cos(p1, stop(z2)) - 1/2 mean cos(p2, stop(z1)),  z = projector(encoder(x)), p = predictor(z)    in [-1, 1]

The projector ends in BatchNorm without scale and shift; the predictor is a bottleneck with nothing after it, and its
learning rate stays constant (section 4.2: it should follow the newest representations).

Deviations: a narrower projector, since the features are; no blur, as in the authors' CIFAR-10 recipe; AdamW instead of SGD in
short trainings.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssl_core.config import Count
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.parts.heads import mlp
from ssl_core.parts.losses import negative_cosine
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class SimSiamConfig:
    """The numbers of SimSiam."""

    layers: Count
    """Linear layers of the projector. Paper: 3 on ImageNet, 2 on CIFAR-10."""
    dim: Count
    """Width of the projector's hidden and last layer. Paper: 2048; small images: 512-2048."""
    bottleneck: Count
    """Width of the predictor's hidden layer. Paper: a quarter of ``dim``, 512."""


class SimSiam(Method):
    """Predict the projection of the other view, which gets no gradient."""

    title = "SimSiam"
    year = 2020
    family = "non-contrastive"
    paper = "arXiv 2011.10566"
    shows = "two augmented views of each image, which are to be alike"
    Config = SimSiamConfig

    def __init__(self, encoder: Encoder, config: SimSiamConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        self.projector = mlp(encoder.dim, *[config.dim] * config.layers, last_norm="plain")
        self.predictor = mlp(config.dim, config.bottleneck, config.dim)

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Two augmented images, each (B, C, H, W)."""
        return self.view(images, rng), self.view(images, rng)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The mean of the two negative cosines; -1 within a few hundred steps means collapse."""
        z1, z2 = (self.projector(self.encoder(x)) for x in batch.views)
        return {"loss": 0.5 * (negative_cosine(self.predictor(z1), z2) + negative_cosine(self.predictor(z2), z1))}

    def param_groups(self) -> list[dict[str, Any]]:
        """The predictor's learning rate is not decayed."""
        siamese = [*self.encoder.parameters(), *self.projector.parameters()]
        return [{"params": siamese}, {"params": list(self.predictor.parameters()), "constant_lr": True}]
