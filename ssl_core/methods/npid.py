"""NPID: Unsupervised Feature Learning via Non-Parametric Instance Discrimination.

Wu, Xiong, Yu, Lin, CVPR 2018, arXiv 1805.01978.

Idea: every image is a class of its own. The weights of the classifier are not learned: the weight of image j is V_j,
the unit vector the network gave it when it was last seen, kept in a memory bank.

    full softmax    L = -log P(i|v),  P(j|v) = exp(V_j . v / T) / Z,  Z the sum over all N images
    NCE             L = -log h(i) - sum over m noise images j of log(1 - h(j)),  h(j) = P(j|v) / (P(j|v) + m / N),
                    Z = N * mean exp(V_j . v / T) over the first batch's positives and noise, then frozen
    both            + proximal * |v_i - V_i|^2;  afterwards  V_i <- unit(bank_momentum * V_i + (1 - bank_momentum) * v_i)

The loss uses the bank as it was, else the positive would be the query itself. Noise is uniform with replacement over
all N images, so it may hit the positive, as in the paper.

Deviations: optionally BatchNorm (no scale, no shift) on the vector before it gets unit length. Features of a young network
all point the same way, so without it a vector differs from the older rows of the bank by its age more than by its image,
which takes the paper's 200 epochs to wear off. The bank starts with random unit vectors, not with uniform ones of mean
length 1. The similarities to all N images are computed for NCE too, and the noise picked from them, which is faster than
gathering vectors below about a million images. The 1e-7 that the released code adds to NCE's denominators is not needed
(the terms are log-sigmoids). Short trainings use AdamW: with SGD the features of CIFAR-10 hardly left their start.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_core.config import Count, Positive, Share
from ssl_core.engine import distributed
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.parts.heads import mlp
from ssl_core.parts.losses import similarities, unit
from ssl_core.parts.memory import MemoryBank
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class NPIDConfig:
    """The numbers of NPID."""

    dim: Count
    """Width of the vectors. Paper: 128."""
    temperature: Positive
    """Paper: 0.07 on ImageNet, 0.1 on CIFAR-10; short schedules: 0.2-0.5."""
    negatives: int
    """m noise images per query for NCE (paper: 4096 on ImageNet); 0 = the full softmax (paper, CIFAR-10)."""
    norm: bool
    """BatchNorm on the vectors. Paper: no; short schedules: yes."""
    bank_momentum: Share
    """Share of the old vector that stays in the bank. Paper: 0.5."""
    proximal: float
    """Weight of the pull towards the image's last vector. Paper: a lambda it does not state; released code: 0."""


def nce(similarity: Tensor, own: Tensor, noise: Tensor, log_z: Tensor, temperature: float) -> Tensor:
    """Noise-contrastive estimation, the mean over queries.

    Args:
        similarity: (B, N) dot products with the bank.
        own: (B,) id of each query's image.
        noise: (B, m) ids.
        log_z: () logarithm of the normalizer Z.
    """
    n, m = similarity.shape[1], noise.shape[1]
    ids = torch.cat([own[:, None], noise], dim=1)
    log_p = similarity.gather(1, ids) / temperature - log_z
    odds = log_p - math.log(m / n)  # h(j) = sigmoid(odds)
    return -(F.logsigmoid(odds[:, 0]) + F.logsigmoid(-odds[:, 1:]).sum(1)).mean()


def estimate_log_z(similarity: Tensor, own: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Logarithm of N times the mean of exp(similarity / T) over the positives and the noise of a batch, ()."""
    picked = similarity.gather(1, torch.cat([own[:, None], noise], dim=1)) / temperature
    return picked.double().exp().mean().log().to(similarity.dtype) + math.log(similarity.shape[1])


class NPID(Method):
    """Classify each image as itself against a memory bank of all images."""

    title = "Instance discrimination (NPID)"
    year = 2018
    family = "contrastive"
    paper = "arXiv 1805.01978"
    shows = "one augmented view of each image, which is to be told from all other images"
    Config = NPIDConfig
    log_z: Tensor
    has_z: Tensor

    def __init__(self, encoder: Encoder, config: NPIDConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        self.projector = mlp(encoder.dim, config.dim, last_norm="plain" if config.norm else "none")
        self.bank = MemoryBank(data.num_images, config.dim)
        self.register_buffer("log_z", torch.zeros(()))
        self.register_buffer("has_z", torch.zeros((), dtype=torch.bool))

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """One augmented image (B, C, H, W); for NCE also the noise ids (B, m)."""
        x = self.view(images, rng)
        return (x, rng.integers(self.data.num_images, self.config.negatives)) if self.config.negatives else (x,)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Full softmax or NCE against the old bank, then the bank takes the new vectors."""
        v = unit(self.projector(self.encoder(batch.views[0])))
        bank = self.bank.read()
        similarity = similarities(v, bank)
        if self.config.negatives:
            noise, temperature = batch.views[1], self.config.temperature
            estimate = estimate_log_z(similarity.detach(), batch.ids, noise, temperature)
            self.log_z.copy_(torch.where(self.has_z, self.log_z, distributed.mean(estimate.exp()).log()))
            self.has_z.fill_(True)
            loss = nce(similarity, batch.ids, noise, self.log_z, temperature)
        else:
            loss = F.cross_entropy(similarity / self.config.temperature, batch.ids)
        loss = loss + self.config.proximal * (v - bank[batch.ids]).square().sum(1).mean()
        self.bank.update(batch.ids, v.detach(), self.config.bank_momentum)
        return {"loss": loss}
