"""BYOL: Bootstrap Your Own Latent.

Grill et al., NeurIPS 2020, arXiv 2006.07733.

Idea: an online network predicts the projection that a slowly moving copy of itself, the target, gives to the other
view. There are no negatives; predictor and momentum keep it from collapsing, and normalization, which need not be that of the
batch (arXiv 2010.10241); with none in the heads it collapses here.

    L = mean( |unit(q1) - unit(z2')|^2 + |unit(q2) - unit(z1')|^2 ),  q = predictor(projector(encoder(x))),  z' of the target
    m(t) = 1 - (1 - m_base) * (cos(pi * t) + 1) / 2                   from m_base to 1 over the training

The target is in train mode (its BatchNorm uses batch statistics, with running ones of its own) and gets no gradient.

Deviations: SGD instead of LARS (batches of hundreds, short trainings); narrower heads, as the features are narrow; a
lower base momentum, because the paper's 0.996 hardly moves within a short training (its own shorter schedules use 0.99
and 0.97); no bias before a BatchNorm, which would take it away, and one after the last layer (in the released code the
other way round).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ssl_core.config import Count, Share
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.parts.heads import mlp
from ssl_core.parts.losses import negative_cosine
from ssl_core.parts.memory import momentum_at, momentum_copy, update_momentum
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class BYOLConfig:
    """The numbers of BYOL."""

    hidden: Count
    """Width of the hidden layers of projector and predictor. Paper: 4096; small images: 256-4096."""
    dim: Count
    """Width of projection and prediction. Paper: 256; small images: 128-256."""
    momentum: Share
    """m_base of the target. Paper: 0.996 for 1000 epochs, 0.99 for 300, 0.97 for 40; below 1000 steps: 0.95."""
    second_blur: Share
    """Probability of blur in the second view. Paper: 0.1 (first view 1.0); small images: 0."""
    second_solarize: Share
    """Probability of solarization in the second view. Paper: 0.2 (first view 0)."""


class BYOL(Method):
    """Predict the target network's projection of the other view."""

    title = "BYOL"
    year = 2020
    family = "non-contrastive"
    paper = "arXiv 2006.07733"
    shows = "two augmented views of each image, which are to be alike"
    Config = BYOLConfig

    def __init__(self, encoder: Encoder, config: BYOLConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        self.projector = mlp(encoder.dim, config.hidden, config.dim)
        self.predictor = mlp(config.dim, config.hidden, config.dim)
        self.target = momentum_copy(nn.Sequential(encoder, self.projector))
        self.second = replace(augment, blur=config.second_blur, solarize=config.second_solarize)

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Two augmented images, each (B, C, H, W), the second with its own blur and solarization."""
        return self.view(images, rng), self.view(images, rng, self.second)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The two squared distances, added: 0 when every prediction points to its target, at most 8."""
        x1, x2 = batch.views
        q1, q2 = (self.predictor(self.projector(self.encoder(x))) for x in (x1, x2))
        with torch.no_grad():
            z1, z2 = self.target(x1), self.target(x2)
        return {"loss": 4.0 + 2.0 * (negative_cosine(q1, z2) + negative_cosine(q2, z1))}

    def after_step(self, progress: float) -> None:
        """Move the target."""
        momentum = momentum_at(self.config.momentum, progress)
        update_momentum(self.target, nn.Sequential(self.encoder, self.projector), momentum)
