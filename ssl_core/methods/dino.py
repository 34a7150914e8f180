"""DINO: Emerging Properties in Self-Supervised Vision Transformers.

Caron, Touvron, Misra, Jegou, Mairal, Bojanowski, Joulin, ICCV 2021, arXiv 2104.14294.

Idea: self-distillation without labels. A student that sees all crops matches the soft assignment that a teacher, its
own moving average, gives to the large ones. Sharpening the teacher keeps it from the uniform answer, subtracting its
running mean keeps one component from winning everything.

    P = softmax((t - c) / T_t) of the teacher's scores t,  c <- m_c * c + (1 - m_c) * mean(t)      after the loss
    L = mean over large views i and views j != i of  -sum_k P_i[k] log softmax(s_j / T_s)[k]
    scores = cosines of the head's output with K directions (a weight-normalized last layer with gain 1)

The teacher's weights follow with a momentum that goes to 1 by a cosine; it is what is exported, as in the paper.

Deviations: as shipped, BatchNorm in the head, which convolutional encoders want and a ViT does not; a narrower head, as
the features are narrow; fewer small views of half the side, since smaller ones of a small image show nothing; a lower
base momentum, because 0.996 hardly moves in a short training; a constant weight decay, no drop path and one norm for all
gradients (a ViT's recipe sets ``train.final_weight_decay``, ``encoder.drop_path`` and ``train.clip_each``); directions
that start as unit vectors.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ssl_core.config import Count, Positive, Share
from ssl_core.engine import distributed
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.parts.heads import held, mlp
from ssl_core.parts.losses import cross_view_entropy, similarities, unit
from ssl_core.parts.memory import momentum_at, momentum_copy, random_unit, update_momentum
from ssl_core.parts.multicrop import Crops, encode_crops, multi_crop
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class DINOConfig:
    """The numbers of DINO."""

    layers: Count
    """Linear layers of the head before the last. Paper: 3; CIFAR-10 recipes: 2."""
    hidden: Count
    """Width of the head's hidden layers. Paper: 2048; small images: 256-2048."""
    dim: Count
    """Width of the head's output before the last layer. Paper: 256; small images: 128-256."""
    norm: bool
    """BatchNorm in the head. Paper: no for ViTs; CIFAR-10 recipes for ResNets: yes."""
    prototypes: Count
    """K, the directions scores are taken with. Paper: 65536; CIFAR-10 recipes: 2048-4096; 10,000 images: 1024."""
    student_temperature: Positive
    """T_s. Paper: 0.1."""
    teacher_temperature: tuple[Positive, Positive]
    """T_t at the start and after ``warmup``. Paper: 0.04 to 0.07; CIFAR-10 recipes: 0.04."""
    warmup: Share
    """Share of the training over which T_t rises. Paper: 30 of 100-800 epochs."""
    momentum: Share
    """Of the teacher at the start. Paper: 0.996; CIFAR-10 recipes: 0.99; below 1000 steps: 0.95-0.99."""
    center_momentum: Share
    """m_c. Paper: 0.9."""
    freeze: Share
    """Share of the training in which the last layer waits. Paper: 1 of 100-800 epochs; short trainings: 0.05."""
    second_blur: Share
    """Probability of blur in the second view. Paper: 0.1 (first view 1.0); small images: 0."""
    second_solarize: Share
    """Probability of solarization in the second view. Paper: 0.2 (first view 0); CIFAR-10 recipes: the same."""
    crops: Crops
    """The small views."""


class Head(nn.Module):
    """Features (B, D) to cosines (B, K) with K learned directions."""

    def __init__(self, dim: int, config: DINOConfig):
        super().__init__()
        self.mlp = mlp(dim, *[config.hidden] * (config.layers - 1), config.dim, norm=config.norm, gelu=True)
        self.directions = nn.Parameter(random_unit(config.prototypes, config.dim))

    def forward(self, x: Tensor, hold: bool = False) -> Tensor:
        return similarities(unit(self.mlp(x)), unit(held(self.directions, hold)))


class DINO(Method):
    """Match the teacher's centered and sharpened assignment of another view."""

    title = "DINO"
    year = 2021
    family = "non-contrastive"
    paper = "arXiv 2104.14294"
    shows = "two large views, which the teacher sees too, then the small ones"
    Config = DINOConfig
    center: Tensor

    def __init__(self, encoder: Encoder, config: DINOConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        self.second = replace(augment, blur=config.second_blur, solarize=config.second_solarize)
        self.head = Head(encoder.dim, config)
        self.teacher_encoder, self.teacher_head = momentum_copy(encoder), momentum_copy(self.head)
        self.register_buffer("center", torch.zeros(config.prototypes))

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Two large views (B, C, S, S), then the small ones."""
        return multi_crop(self, images, rng, self.config.crops, self.second)

    def teacher_temperature(self, progress: float) -> float:
        """T_t: linear over ``warmup``, then constant."""
        start, end = self.config.teacher_temperature
        done = min(1.0, progress / self.config.warmup) if self.config.warmup else 1.0
        return float(start + (end - start) * done)

    @torch.no_grad()
    def targets(self, views: tuple[Tensor, ...], progress: float) -> Tensor:
        """The teacher's assignments (V * B, K) of the large views; then the center moves."""
        scores = self.teacher_head(encode_crops(self.teacher_encoder, views))
        targets = torch.softmax((scores - self.center) / self.teacher_temperature(progress), dim=1)
        self.center.lerp_(distributed.mean(scores.mean(0)), 1.0 - self.config.center_momentum)
        return targets

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy over all pairs of a large and another view.

        ``target_entropy`` going to 0 (one component wins) or to ln K (all equal) is a collapse.
        """
        targets = self.targets(batch.views[:2], batch.progress)
        scores = self.head(encode_crops(self.encoder, batch.views), batch.progress < self.config.freeze)
        logits = (scores / self.config.student_temperature).chunk(len(batch.views))
        return {
            "loss": cross_view_entropy(targets.chunk(2), logits),
            "target_entropy": torch.special.entr(targets).sum(1).mean(),
        }

    def after_step(self, progress: float) -> None:
        """Move the teacher."""
        momentum = momentum_at(self.config.momentum, progress)
        update_momentum(self.teacher_encoder, self.encoder, momentum)
        update_momentum(self.teacher_head, self.head, momentum)

    @property
    def learned(self) -> Encoder:
        """The teacher's encoder."""
        return self.teacher_encoder
