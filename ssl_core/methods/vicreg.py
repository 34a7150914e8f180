"""VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning.

Bardes, Ponce, LeCun, ICLR 2022, arXiv 2105.04906.

Idea: what keeps the projections from collapsing is said outright, for each view alone: every component has a standard
deviation of at least 1 over the batch, and no two components are correlated.

    L = a * mean (z1 - z2)^2 + b * (v(z1) + v(z2)) / 2 + c * (cov(z1) + cov(z2))
    v(z) = mean_j max(0, 1 - sqrt(Var(z_j) + 1e-4)),  cov(z) = 1/D * sum_{i != j} Cov(z)_ij^2        variances with N - 1

Deviations: as in the authors' code, and not in the paper's equations, there is a half before the variance term, and the
invariance term is a mean over the components, where the paper has their sum; a narrower and shallower expander, as the features
are narrow and CIFAR-10 recipes have it; AdamW instead of LARS (batches of hundreds); as shipped, no blur and no solarization,
which small images do not stand (the paper augments as BYOL does).
"""

from dataclasses import dataclass, replace

import torch
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
class VICRegConfig:
    """The numbers of VICReg."""

    layers: Count
    """Linear layers of the expander. Paper: 3; CIFAR-10 recipes: 2-3."""
    dim: Count
    """Width of the expander's hidden layers and of the projection. Paper: 8192; CIFAR-10 recipes: 1024-2048."""
    invariance: float
    """a. Paper: 25."""
    variance: float
    """b. Paper: 25."""
    covariance: float
    """c. Paper: 1."""
    second_blur: Share
    """Probability of blur in the second view. Paper: 0.1 (first view 1.0); small images: 0."""
    second_solarize: Share
    """Probability of solarization in the second view. Paper: 0.2 (first view 0); CIFAR-10 recipes: 0.1 in both."""


def variance(z: Tensor) -> Tensor:
    """v(z) of (N, D): 0 when every component's standard deviation is 1 or more, 0.99 for constant projections."""
    return F.relu(1.0 - torch.sqrt(z.var(0) + 1e-4)).mean()


def covariance(z: Tensor) -> Tensor:
    """cov(z) of (N, D): 0 when no two components are correlated."""
    n, d = z.shape
    z = z - z.mean(0)
    c = similarities(z.T, z.T) / (n - 1)
    return (c.square().sum() - c.diagonal().square().sum()) / d


class VICReg(Method):
    """Equal projections of the two views, spread out and decorrelated over the batch."""

    title = "VICReg"
    year = 2021
    family = "non-contrastive"
    paper = "arXiv 2105.04906"
    shows = "two augmented views of each image, which are to be alike"
    Config = VICRegConfig

    def __init__(self, encoder: Encoder, config: VICRegConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        self.expander = mlp(encoder.dim, *[config.dim] * config.layers, last_bias=False)
        self.second = replace(augment, blur=config.second_blur, solarize=config.second_solarize)

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Two augmented images, each (B, C, H, W), the second with its own blur and solarization."""
        return self.view(images, rng), self.view(images, rng, self.second)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted sum of the three terms, over the batch of all processes."""
        z1, z2 = (distributed.gather(wide(self.expander(self.encoder(x)))) for x in batch.views)
        inv, var, cov = F.mse_loss(z1, z2), (variance(z1) + variance(z2)) / 2, covariance(z1) + covariance(z2)
        loss = self.config.invariance * inv + self.config.variance * var + self.config.covariance * cov
        return {"loss": loss, "invariance": inv, "variance": var, "covariance": cov}
