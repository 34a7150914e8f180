"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations.

Chen, Kornblith, Norouzi, Hinton, ICML 2020, arXiv 2002.05709.

Idea: two augmentations of one image attract each other and repel every other view in the batch; the projector that
the comparison happens in is thrown away, the encoder below it is kept.

    L = mean over the 2B views i of  -log( exp(z_i . z_j / T) / sum_{k != i} exp(z_i . z_k / T) ),  j the other view of i

with unit-length z = projector(encoder(view)); ``parts.losses.nt_xent`` computes it.

Deviations: SGD instead of LARS, because the batch is hundreds and not thousands; the released code adds the
means of the two directions (twice this loss), the paper and this file average them; as shipped, the projector ends in
BatchNorm without scale and shift (the paper has none there, the released code one with a scale); no blur, as in the paper's
own recipe for CIFAR-10.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ssl_core.config import Count, Positive
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.parts.heads import mlp
from ssl_core.parts.losses import nt_xent
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig:
    """The numbers of SimCLR."""

    hidden: Count
    """Width of the projector's hidden layer. Paper: that of the features, 2048; small images: 256-2048."""
    dim: Count
    """Width of the projection. Paper: 128."""
    last_norm: Literal["none", "plain", "affine"]
    """BatchNorm after the projector's last layer. Paper: none; released code: one with a scale; short schedules: ``plain``."""
    temperature: Positive
    """Paper: 0.1 on ImageNet, 0.5 on CIFAR-10 with 1000 epochs; short schedules: 0.2."""


class SimCLR(Method):
    """Contrast the two views of an image with all other views of the batch."""

    title = "SimCLR"
    year = 2020
    family = "contrastive"
    paper = "arXiv 2002.05709"
    shows = "two augmented views of each image, which are to be alike and unlike all others of the batch"
    Config = SimCLRConfig

    def __init__(self, encoder: Encoder, config: SimCLRConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        self.projector = mlp(encoder.dim, config.hidden, config.dim, last_norm=config.last_norm)

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Two augmented images, each (B, C, H, W)."""
        return self.view(images, rng), self.view(images, rng)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """NT-Xent over the 2B views, which share one forward pass and its batch statistics."""
        x1, x2 = batch.views
        z1, z2 = self.projector(self.encoder(torch.cat([x1, x2]))).chunk(2)
        return {"loss": nt_xent(z1, z2, self.config.temperature)}
