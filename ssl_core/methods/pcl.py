"""PCL: Prototypical Contrastive Learning of Unsupervised Representations.

Li, Zhou, Xiong, Hoi, ICLR 2021, arXiv 2005.04966.

Idea: expectation-maximization. E-step, at the end of a warm-up and before each later epoch: k-means of the momentum
encoder's vectors of all images, at several granularities. M-step: besides MoCo's InfoNCE each query is drawn to the
centroid of its cluster.

    L = InfoNCE(q, k, queue; T) + weight * mean over granularities of -log( exp(q . c_s / phi_s) / sum_j exp(q . c_j / phi_j) )
    phi = sum over the Z members of |v - c| / (Z * log(Z + smoothing)), then scaled to mean T

c_s is the unit centroid of the query's cluster; phi, its concentration, is a temperature per cluster, taken with the
centroid before normalization; clusters of one take the largest phi, and all are clipped to their 10th to 90th percentiles.
As in MoCo, BatchNorm statistics are over parts of the batch, with the keys shuffled.

Deviations: all other prototypes are the negatives instead of a sample of 16000, since there are few clusters, so nothing
is drawn; k-means is this project's own, deterministic one, keyed by the epoch; the prototype term has a weight; AdamW.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ssl_core.clustering import kmeans
from ssl_core.config import BelowOne, ConfigError, Count, Positive, Share
from ssl_core.engine import distributed
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Embed, Method
from ssl_core.parts.heads import mlp
from ssl_core.parts.losses import info_nce, unit
from ssl_core.parts.memory import Queue, check_queue, fitting_queue, momentum_copy, shuffled_keys, update_momentum
from ssl_core.parts.normalization import split_batch_norm
from ssl_core.parts.prototypes import concentration, proto_nce, scaled
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class PCLConfig:
    """The numbers of PCL."""

    hidden: Count
    """Width of the projector's hidden layer. Paper: that of the features, 2048."""
    dim: Count
    """Width of queries, keys and prototypes. Paper: 128."""
    temperature: Positive
    """T. Paper: 0.1; released code: 0.2."""
    momentum: Share
    """Of the momentum encoder. Paper: 0.999; below 1000 steps: 0.95-0.99."""
    queue: int
    """Number of keys, a multiple of the batch. Paper: 16384; small images: 1024-4096, no more than images."""
    splits: Count
    """Parts of the batch with BatchNorm statistics of their own; 1 = plain BatchNorm."""
    clusters: tuple[Count, ...]
    """Clusters per granularity. Paper: 25000, 50000 and 100000; 10k-50k images: 100 to 1000."""
    iterations: Count
    """Of k-means. Paper: 20; below 50,000 images: 10."""
    warmup: BelowOne
    """Share of the training before the first clustering. Paper: 20 of 200 epochs; short trainings: 0.2."""
    weight: float
    """Of the prototype term. Paper: 1."""
    smoothing: float
    """The paper's alpha, which keeps small clusters from getting extreme concentrations: 10."""


class PCL(Method):
    """MoCo's contrast with a queue, and a second one with the centroids of clusters."""

    title = "Prototypical contrastive learning"
    year = 2020
    family = "clustering"
    paper = "arXiv 2005.04966"
    shows = "two augmented views of each image, the query and its key; the key's cluster counts too"
    about_loss = "it jumps when clustering starts, after method.pcl.warmup of the training: the clusters' loss is added then"
    Config = PCLConfig
    prototypes: Tensor
    phi: Tensor
    assignment: Tensor
    clustered: Tensor

    def __init__(self, encoder: Encoder, config: PCLConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        check_queue("method.pcl", config.queue, data.num_images)
        if not config.clusters or not 1 <= min(config.clusters) <= max(config.clusters) <= data.num_images:
            raise ConfigError(f"method.pcl.clusters is {config.clusters}; each must be from 1 to {data.num_images}, the images")
        split_batch_norm(encoder, config.splits)
        self.projector = mlp(encoder.dim, config.hidden, config.dim, norm=False)
        self.momentum_encoder = momentum_copy(nn.Sequential(encoder, self.projector))
        self.queue = Queue(config.queue, config.dim)
        self.register_buffer("prototypes", torch.zeros(sum(config.clusters), config.dim))  # of all granularities
        self.register_buffer("phi", torch.ones(sum(config.clusters)))
        self.register_buffer("assignment", torch.zeros(len(config.clusters), data.num_images, dtype=torch.int64))
        self.register_buffer("clustered", torch.zeros((), dtype=torch.bool))

    @classmethod
    def largest_batch(cls, config: PCLConfig, num_images: int) -> int:
        """Equal parts of the batch."""
        return num_images // config.splits * config.splits

    @classmethod
    def fitted(cls, config: PCLConfig, batch_size: int, num_images: int) -> PCLConfig:
        """A queue that the images can fill, and clusters of two images on average at least: one alone says nothing more."""
        clusters, most = config.clusters, max(1, num_images // 2)
        if max(clusters, default=0) > most:
            clusters = tuple(dict.fromkeys(min(count, most) for count in clusters))
        return replace(config, queue=fitting_queue(config.queue, batch_size, num_images), clusters=clusters)

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Two augmented images, each (B, C, H, W), and a random number per image (B,): sorted by it, the keys are shuffled."""
        return self.view(images, rng), self.view(images, rng), rng.uniform()

    @property
    def epoch_work_from(self) -> float:
        """Before the warm-up's end it is MoCo."""
        warmup: float = self.config.warmup
        return warmup

    @torch.no_grad()
    def before_epoch(self, epoch: int, embed: Embed) -> None:
        """The E-step: cluster the momentum encoder's vectors of all images."""
        x, prototypes, phi = unit(embed(self.momentum_encoder)), [], []
        for level, k in enumerate(self.config.clusters):
            centroids, assignment = kmeans(x, k, self.config.iterations, epoch, level)
            prototypes.append(unit(centroids))
            phi.append(scaled(concentration(x, centroids, assignment, self.config.smoothing), self.config.temperature))
            self.assignment[level].copy_(assignment)
        self.prototypes.copy_(torch.cat(prototypes))
        self.phi.copy_(torch.cat(phi))
        self.clustered.fill_(True)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """InfoNCE and, once there are clusters, the prototype term; then the keys enter the queue."""
        x1, x2, shuffle = batch.views
        order = torch.argsort(distributed.gather_keys(shuffle), stable=True)
        q = unit(self.projector(self.encoder(x1)))
        keys = shuffled_keys(self.momentum_encoder, x2, order)
        info = info_nce(q, keys, self.config.temperature, self.queue.read())
        self.queue.push(keys)
        sizes = list(self.config.clusters)
        levels = zip(self.prototypes.split_with_sizes(sizes), self.phi.split_with_sizes(sizes), self.assignment, strict=True)
        terms = [proto_nce(q, prototypes, phi, assignment[batch.ids]) for prototypes, phi, assignment in levels]
        proto = torch.where(self.clustered, torch.stack(terms).mean(), 0.0)
        return {"loss": info + self.config.weight * proto, "loss_info": info.detach(), "loss_proto": proto.detach()}

    def after_step(self, progress: float) -> None:
        """Move the momentum encoder."""
        update_momentum(self.momentum_encoder, nn.Sequential(self.encoder, self.projector), self.config.momentum)
