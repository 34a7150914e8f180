"""SwAV: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments.

Caron, Misra, Mairal, Goyal, Bojanowski, Joulin, NeurIPS 2020, arXiv 2006.09882.

Idea: clustering online. Each large view is assigned to prototypes such that all prototypes are used equally over the
batch (its code); every other view of the image, the small ones too, has to predict that code.

    s = unit(projector(encoder(x))) . prototypes,  q = Sinkhorn(exp(s / eps)), no gradient
    L = mean over large views i and views j != i of  -sum_k q_i[k] log softmax(s_j / T)[k]

Sinkhorn: a few rounds of giving every prototype the same mass, then every image a mass of 1. A queue of older
projections per large view makes the batch that is balanced larger; it is used once it is full. The prototypes are unit
vectors, made so again after each step, and wait in the first part of the training.

Deviations: AdamW instead of LARS (batches of hundreds, short trainings); small views of half the side, since smaller
ones of a small image show nothing; the queue fills from the first step, so that it is full when it is due.
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
from ssl_core.parts.memory import Queue, check_queue, fitting_queue, random_unit
from ssl_core.parts.multicrop import Crops, encode_crops, multi_crop
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class SwAVConfig:
    """The numbers of SwAV."""

    hidden: Count
    """Width of the projector's hidden layer. Paper: 2048; small images: 256-2048."""
    dim: Count
    """Width of the projection. Paper: 128."""
    prototypes: Count
    """Number of prototypes. Paper: 3000; CIFAR-10 recipes: 512-3000; 10,000 images: 256; less than queue and batch."""
    epsilon: Positive
    """Softness of the codes. Paper: 0.05; large values make all codes equal."""
    iterations: Count
    """Rounds of Sinkhorn. Paper: 3."""
    temperature: Positive
    """T of the predictions. Paper: 0.1."""
    queue: int
    """Older projections per large view, a multiple of the batch; 0 = none. Paper: 3840; 10,000 images: 1024."""
    queue_start: Share
    """Share of the training before the queue is used. Paper: 15 of 200 epochs; short trainings: 0.25."""
    freeze: Share
    """Share of the training in which the prototypes wait. Paper: 1 of 200 epochs; short trainings: 0.05."""
    crops: Crops
    """The small views."""


def sinkhorn(scores: Tensor, epsilon: float, iterations: int, weight: Tensor) -> Tensor:
    """Codes (N, K) of scores (N, K): each row sums to 1, each column to about the same.

    Args:
        weight: (N,), 1 for a row that counts when prototypes are shared out evenly. One of 0 gets a code and takes no share.
    """
    log_q, log_weight = scores / epsilon, weight.log()[:, None]  # logarithms: exp(1 / epsilon) may overflow
    for _ in range(iterations):
        log_q = log_q - torch.logsumexp(log_q + log_weight, 0)
        log_q = log_q - torch.logsumexp(log_q, 1, keepdim=True)
    return log_q.exp()


class SwAV(Method):
    """Predict the balanced cluster assignment of one view from the others."""

    title = "SwAV"
    year = 2020
    family = "clustering"
    paper = "arXiv 2006.09882"
    shows = "two large views, then the small ones: all of an image belong to one cluster"
    Config = SwAVConfig

    def __init__(self, encoder: Encoder, config: SwAVConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        self.projector = mlp(encoder.dim, config.hidden, config.dim)
        self.prototypes = nn.Parameter(random_unit(config.prototypes, config.dim))
        queues = [Queue(config.queue, config.dim) for _ in range(2 if config.queue else 0)]
        for queue in queues:
            check_queue("method.swav", config.queue, data.num_images)
            queue.keys.zero_()  # a queue is full when no key is zero
        self.queues = nn.ModuleList(queues)

    @classmethod
    def fitted(cls, config: SwAVConfig, batch_size: int, num_images: int) -> SwAVConfig:
        """A queue that the images can fill."""
        return replace(config, queue=fitting_queue(config.queue, batch_size, num_images))

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Two large views (B, C, S, S), then the small ones."""
        return multi_crop(self, images, rng, self.config.crops)

    @torch.no_grad()
    def codes(self, view: int, z: Tensor, scores: Tensor, progress: float) -> Tensor:
        """Codes (B, K) of a large view's unit projections (B, D) and scores (B, K); then z enters the view's queue."""
        everyone = distributed.gather_keys(scores)
        weight = everyone.new_ones(len(everyone))
        if self.queues:
            older: Tensor = self.queues[view].read()  # type: ignore[operator]
            used = older.any(1).all() & (progress >= self.config.queue_start)
            everyone = torch.cat([everyone, similarities(older, self.prototypes)])
            weight = torch.cat([weight, used.to(weight).expand(len(older))])
            self.queues[view].push(z)  # type: ignore[operator]
        codes = sinkhorn(everyone, self.config.epsilon, self.config.iterations, weight)
        return codes[distributed.local_rows(len(z))]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Swapped prediction over all pairs of a large and another view."""
        count = len(batch.views)
        z = unit(self.projector(encode_crops(self.encoder, batch.views)))
        prototypes = held(self.prototypes, batch.progress < self.config.freeze)
        scores = similarities(z, prototypes).chunk(count)
        codes = [self.codes(i, z.chunk(count)[i], scores[i], batch.progress) for i in range(2)]
        return {"loss": cross_view_entropy(codes, [s / self.config.temperature for s in scores])}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Make the prototypes unit vectors."""
        self.prototypes.copy_(unit(self.prototypes))
