"""Barlow Twins: Self-Supervised Learning via Redundancy Reduction.

Zbontar, Jing, Misra, LeCun, Deny, ICML 2021, arXiv 2103.03230.

Idea: over a batch, each component of the projection should agree between the two views of an image and tell something
that no other component tells. No negatives, no momentum network, no stopped gradient.

    C = norm(z1)' norm(z2) / N,  norm: mean 0 and variance 1 of each component over the batch
    L = sum_i (1 - C_ii)^2 + w * sum_{i != j} C_ij^2

The normalization is part of the loss: BatchNorm without scale and shift (biased variance, eps 1e-5), over the batch of
all processes.

Deviations: a narrower and shallower projector (two layers are what CIFAR-10 recipes use) and AdamW instead of LARS
(batches of hundreds; plain SGD left the features in a few dimensions); as shipped, no blur and no solarization, which small
images do not stand (the paper blurs the first view always and solarizes a fifth of the second ones).
"""

from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional as F

from ssl_core.config import Count, Share
from ssl_core.engine import distributed
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.parts.heads import mlp
from ssl_core.parts.losses import similarities, wide
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class BarlowConfig:
    """The numbers of Barlow Twins."""

    layers: Count
    """Linear layers of the projector. Paper: 3; CIFAR-10 recipes: 2-3."""
    dim: Count
    """Width of the projector's hidden layers and of the projection. Paper: 8192; CIFAR-10 recipes: 2048."""
    weight: float
    """w of the off-diagonal terms. Paper: 0.005; released code: 0.0051."""
    second_blur: Share
    """Probability of blur in the second view. Paper: 0.1 (first view 1.0); small images: 0."""
    second_solarize: Share
    """Probability of solarization in the second view. Paper: 0.2 (first view 0); CIFAR-10 recipes: the same."""


def terms(z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor]:
    """The sums over the diagonal and over the rest of the cross-correlation matrix of (B, D) and (B, D)."""
    z1, z2 = (F.batch_norm(distributed.gather(z), None, None, training=True) for z in (z1, z2))
    c = similarities(z1.T, z2.T) / len(z1)
    on = c.diagonal()
    return (1 - on).square().sum(), c.square().sum() - on.square().sum()


class BarlowTwins(Method):
    """Make the cross-correlation matrix of the two views' projections the identity."""

    title = "Barlow Twins"
    year = 2021
    family = "non-contrastive"
    paper = "arXiv 2103.03230"
    shows = "two augmented views of each image, which are to be alike"
    Config = BarlowConfig

    def __init__(self, encoder: Encoder, config: BarlowConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        self.projector = mlp(encoder.dim, *[config.dim] * config.layers, last_bias=False)
        self.second = replace(augment, blur=config.second_blur, solarize=config.second_solarize)

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Two augmented images, each (B, C, H, W), the second with its own blur and solarization."""
        return self.view(images, rng), self.view(images, rng, self.second)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Agreement on the diagonal, redundancy off it."""
        z1, z2 = (wide(self.projector(self.encoder(x))) for x in batch.views)
        agreement, redundancy = terms(z1, z2)
        return {"loss": agreement + self.config.weight * redundancy, "on_diagonal": agreement, "off_diagonal": redundancy}
