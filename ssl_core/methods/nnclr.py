"""NNCLR: With a Little Help from My Friends, Nearest-Neighbor Contrastive Learning of Visual Representations.

Dwibedi, Aytar, Tompson, Sermanet, Zisserman, ICCV 2021, arXiv 2104.14548.

Idea: the positive is not the other view itself but its nearest neighbor among the recent projections of other images:
more different than any augmentation could make it, and often of the same kind.

    L = 1/2 [ l(NN(z1), p2) + l(NN(z2), p1) ],  p = predictor(z),  z = unit(projector(encoder(x)))
    l(n, p) = mean_i -log( exp(n_i . p_i / T) / sum_k exp(n_i . p_k / T) ),  NN(z) = the nearest z in the queue

The sum runs over the predictions of one view of the batch: views of the same side are no negatives. The queue takes
the first view's projections after the search, so no image can find itself of this step.

Deviations: AdamW instead of LARS (batches of hundreds, short trainings); narrower heads and a two-layer projector, as the
features are narrow; a queue shorter than the data set, so that an image seldom finds its own projection of the last epoch.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssl_core.config import Count, Positive
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.parts.heads import mlp
from ssl_core.parts.losses import info_nce, similarities, unit
from ssl_core.parts.memory import Queue, check_queue, fitting_queue
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class NNCLRConfig:
    """The numbers of NNCLR."""

    layers: Count
    """Linear layers of the projector. Paper: 3; CIFAR-10 recipes: 2."""
    hidden: Count
    """Width of the projector's hidden layers. Paper: 2048; small images: 256-2048."""
    dim: Count
    """Width of projection and prediction. Paper: 256; small images: 128-256."""
    predictor_hidden: Count
    """Width of the predictor's hidden layer. Paper: 4096; small images: 256-4096."""
    temperature: Positive
    """Paper: 0.1; CIFAR-10 recipes: 0.2-0.5."""
    queue: int
    """Number of projections to search, a multiple of the batch. Paper: 98304; small images: a tenth of the data set."""


@torch.no_grad()
def nearest(z: Tensor, support: Tensor) -> Tensor:
    """For each row of z (B, D) the most similar of the unit vectors ``support`` (K, D), the first among equals."""
    return support[similarities(unit(z), support).argmax(1)]


class NNCLR(Method):
    """Contrast the nearest neighbor of one view with the predictions of the other."""

    title = "NNCLR"
    year = 2021
    family = "contrastive"
    paper = "arXiv 2104.14548"
    shows = "two augmented views of each image: one is to be like the nearest neighbor of the other"
    Config = NNCLRConfig

    def __init__(self, encoder: Encoder, config: NNCLRConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        check_queue("method.nnclr", config.queue, data.num_images)
        self.projector = mlp(encoder.dim, *[config.hidden] * (config.layers - 1), config.dim, last_norm="affine")
        self.predictor = mlp(config.dim, config.predictor_hidden, config.dim)
        self.queue = Queue(config.queue, config.dim)

    @classmethod
    def fitted(cls, config: NNCLRConfig, batch_size: int, num_images: int) -> NNCLRConfig:
        """A queue that the images can fill."""
        return replace(config, queue=fitting_queue(config.queue, batch_size, num_images))

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Two augmented images, each (B, C, H, W)."""
        return self.view(images, rng), self.view(images, rng)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Both directions; then the first view's projections enter the queue."""
        z1, z2 = (self.projector(self.encoder(x)) for x in batch.views)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        support, temperature = self.queue.read(), self.config.temperature
        first, second = (info_nce(nearest(z, support), p, temperature) for z, p in ((z1, p2), (z2, p1)))
        self.queue.push(unit(z1))
        return {"loss": 0.5 * (first + second)}
