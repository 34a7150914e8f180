"""MoCo: Momentum Contrast for Unsupervised Visual Representation Learning, version 2.

He, Fan, Wu, Xie, Girshick, CVPR 2020, arXiv 1911.05722 (v1); Chen, Fan, Girshick, He, arXiv 2003.04297 (v2).

Idea: a query finds its key among many older keys. The keys come from a copy of the encoder that moves slowly, so that
keys made some steps ago are still comparable, and wait in a queue, so that their number is not the batch size.

    L = -log( exp(q . k+ / T) / (exp(q . k+ / T) + sum_{k in queue} exp(q . k / T)) )
    momentum encoder <- m * momentum encoder + (1 - m) * encoder        after each step

The queue is read before this batch's keys enter it. BatchNorm statistics of the whole batch would betray which key
belongs to the batch, so they are taken over parts of it, and the keys are shuffled so that a query and its key are
normalized with different images (the paper does both with several GPUs; SplitBatchNorm2d on one, as in the authors'
CIFAR demo).

Deviations: the momentum is lower than the paper's 0.999 because a short training has few steps; the copy moves after
the optimizer step instead of before the next forward pass, which is the same sequence; AdamW instead of SGD in short
trainings.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_core.config import Count, Positive, Share
from ssl_core.engine import distributed
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.parts.heads import mlp
from ssl_core.parts.losses import info_nce
from ssl_core.parts.memory import Queue, check_queue, fitting_queue, momentum_copy, shuffled_keys, update_momentum
from ssl_core.parts.normalization import split_batch_norm
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class MoCoConfig:
    """The numbers of MoCo."""

    head: Literal["mlp", "linear"]
    """``mlp``: version 2 (one hidden layer, no BatchNorm); ``linear``: version 1."""
    hidden: Count
    """Width of the hidden layer of ``mlp``. Paper: that of the features, 2048."""
    dim: Count
    """Width of queries and keys. Paper: 128."""
    temperature: Positive
    """Paper: 0.07 (v1), 0.2 (v2); the CIFAR demo: 0.1."""
    momentum: Share
    """Of the momentum encoder. Paper: 0.999; the CIFAR demo: 0.99; below 1000 steps: 0.95-0.99."""
    queue: int
    """Number of keys, a multiple of those a step brings. Paper: 65536; small images: 1024-4096, no more than images."""
    splits: Count
    """Parts of the batch with BatchNorm statistics of their own (CIFAR demo: 8 of 64 images); 1 = plain BatchNorm."""
    symmetric: bool
    """Let each view be the query once and add the two losses (CIFAR demo: better at equal epochs, twice the cost)."""


class MoCo(Method):
    """Contrast queries with the keys of a momentum encoder and a queue of older keys."""

    title = "MoCo v2 (v1 head as an option)"
    year = 2019
    family = "contrastive"
    paper = "arXiv 2003.04297"
    shows = "two augmented views of each image, the query and its key"
    Config = MoCoConfig

    def __init__(self, encoder: Encoder, config: MoCoConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        check_queue("method.moco", config.queue, data.num_images)
        split_batch_norm(encoder, config.splits)
        widths = (encoder.dim, config.hidden, config.dim) if config.head == "mlp" else (encoder.dim, config.dim)
        self.projector = mlp(*widths, norm=False)
        self.momentum_encoder = momentum_copy(nn.Sequential(encoder, self.projector))
        self.queue = Queue(config.queue, config.dim)

    @classmethod
    def largest_batch(cls, config: MoCoConfig, num_images: int) -> int:
        """Equal parts of the batch, and a queue that holds the keys of one step."""
        return num_images // (2 if config.symmetric else 1) // config.splits * config.splits

    @classmethod
    def fitted(cls, config: MoCoConfig, batch_size: int, num_images: int) -> MoCoConfig:
        """A queue that the images can fill."""
        keys = batch_size * (2 if config.symmetric else 1)
        return replace(config, queue=fitting_queue(config.queue, keys, num_images))

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Two augmented images, each (B, C, H, W), and a random number per image (B,): sorted by it, the keys are shuffled."""
        return self.view(images, rng), self.view(images, rng), rng.uniform()

    def keys(self, x: Tensor, order: Tensor) -> Tensor:
        """Unit keys (B, D) of a view, computed in shuffled order and returned in the order of ``x``."""
        return shuffled_keys(self.momentum_encoder, x, order)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """InfoNCE of the queries against their keys and the queue; then the keys enter the queue."""
        x1, x2, shuffle = batch.views
        order = torch.argsort(distributed.gather_keys(shuffle), stable=True)
        older, keys = self.queue.read(), [self.keys(x2, order)]
        loss = info_nce(self.projector(self.encoder(x1)), keys[0], self.config.temperature, older)
        if self.config.symmetric:
            keys.append(self.keys(x1, order))
            loss = loss + info_nce(
                self.projector(self.encoder(x2)),
                keys[1],
                self.config.temperature,
                older,
            )
        self.queue.push(torch.cat(keys))
        return {"loss": loss}

    def after_step(self, progress: float) -> None:
        """Move the momentum encoder."""
        update_momentum(
            self.momentum_encoder,
            nn.Sequential(self.encoder, self.projector),
            self.config.momentum,
        )
