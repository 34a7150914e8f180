"""Counting: what is in the quarters of an image adds up to what is in the whole.

Noroozi, Pirsiavash, Favaro, "Representation Learning by Learning to Count", ICCV 2017, arXiv 1708.06734.

phi >= 0 counts d kinds of things; D halves an image x, T_1..T_4 are its quarters (all of one size), y is another image:

    s = phi(T_1 x) + phi(T_2 x) + phi(T_3 x) + phi(T_4 x)
    L = mean of |phi(D x) - s|^2 + max(0, M - |phi(D y) - s|^2)

Both norms are of the whole vector. The first term alone (``pull``) is 0 for phi = 0; the second (``hinge``) forbids that.
At that zero solution pull = 0 and hinge = M: both are logged, and ``zero_solution`` is an alarm (1 while it is so).

A network that tells halved images from quarters could answer a constant h or h / 4: the resampling filter is drawn per
image, and halves and quarters go through the encoder in one forward pass, so that BatchNorm has the same statistics for
both. Halves and quarters of an image are grey together or colored together.

Deviations from the paper: y is the neighbor of x in the batch, so that D y costs no encoding of its own (gradients reach
all six branches all the same); crops are moved by reflection padding, as small images have no pixels to spare; AdamW for
short trainings. Known to be weak downstream: evaluate an earlier block, too (the paper's best is conv3).
"""

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from ssl_core.config import ConfigError, Count, Share
from ssl_core.engine import distributed
from ssl_core.engine.augment import AugmentConfig, Filter, padded_crop, random_grayscale, resize, to_unit
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.parts.heads import mlp
from ssl_core.rng import Rng

FILTERS: tuple[Filter, ...] = get_args(Filter)
ZERO = 1e-3  # pull below this, with a hinge within this of the margin, is the zero solution


@dataclass(frozen=True, kw_only=True)
class CountingConfig:
    """The numbers of counting."""

    hidden: Count
    """Width of the hidden layers of phi. Paper: 4096; small images: 512."""
    dim: Count
    """d, the length of the count. Paper: 1000 (20 loses little); small images: 128."""
    margin: float
    """M. Paper: 10."""
    grayscale: Share
    """Share of the images turned grey. Paper: 0.67. Nothing to do for grey images."""
    padding: float
    """Reflected border before the random crop, as a share of the side. Paper: crops 224 of 256 px; small images: 0.125."""


def halve(x: Tensor, rng: Rng) -> Tensor:
    """(B, C, S, S) -> (B, C, S / 2, S / 2), each image by a filter of its own."""
    halves = torch.stack([resize(x, x.shape[-1] // 2, name) for name in FILTERS], dim=1)
    return halves[torch.arange(len(x), device=x.device), rng.integers(len(FILTERS))]


def quarters(x: Tensor) -> Tensor:
    """(B, C, S, S) -> (B, 4, C, S / 2, S / 2): upper left, upper right, lower left, lower right."""
    half = x.shape[-1] // 2
    return torch.stack([x[:, :, r : r + half, c : c + half] for r in (0, half) for c in (0, half)], dim=1)


def counting_terms(whole: Tensor, parts: Tensor, other: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """The two terms per image, (B,) each, of the counts (B, d) of x halved, (B, 4, d) of its quarters, (B, d) of y."""
    total = parts.sum(1)
    return (whole - total).square().sum(1), (margin - (other - total).square().sum(1)).clamp(min=0)


class Counting(Method):
    """Counts that add up."""

    title = "Learning to count"
    year = 2017
    family = "pretext"
    paper = "arXiv 1708.06734"
    own_views = "an image halved and its quarters, from shifted and mirrored images"
    shows = "the halved image and its four quarters: what is counted in the quarters adds up to the whole"
    Config = CountingConfig
    alarms = {"zero_solution": "it counts nothing at all, which costs no more than the margin; lower train.lr"}

    def __init__(self, encoder: Encoder, config: CountingConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        self.counter = mlp(encoder.dim, config.hidden, config.hidden, config.dim, norm=False, last_relu=True)

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """(B, 5, C, S / 2, S / 2): the image halved, then its four quarters."""
        even = images.shape[-1] // 2 * 2
        x = padded_crop(images, rng, round(self.config.padding * even), self.augment.flip)[..., :even, :even]
        x = random_grayscale(to_unit(x), rng, self.config.grayscale)
        both = torch.cat([halve(x, rng)[:, None], quarters(x)], dim=1)
        return (self.normalize(both),)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The two terms, their sum, and whether the counts are all zero."""
        (inputs,) = batch.views
        counts = self.counter(self.encoder(inputs.flatten(0, 1))).float().reshape(*inputs.shape[:2], -1)
        whole, parts = counts[:, 0], counts[:, 1:]
        everyone = distributed.gather(whole)
        if len(everyone) < 2:
            raise ConfigError("counting compares with another image: train.batch_size must be at least 2")
        others = everyone.roll(1, 0)[distributed.local_rows(len(whole))]
        pull, hinge = (term.mean() for term in counting_terms(whole, parts, others, self.config.margin))
        zero = (pull < ZERO) & (hinge > self.config.margin - ZERO)
        return {"loss": pull + hinge, "pull": pull.detach(), "hinge": hinge.detach(), "zero_solution": zero.float()}
