"""PIRL: Self-Supervised Learning of Pretext-Invariant Representations.

Misra, van der Maaten, CVPR 2020, arXiv 1912.01991.

Idea: instead of predicting how an image was cut and shuffled (Jigsaw), be invariant to it. The memory-bank vector m_I of
an image must be found both from the image and from its shuffled tiles, among the vectors of other images.

    L = weight * L(m_I, g(tiles)) + (1 - weight) * L(m_I, f(image))
    ce     L(m, a) = -log h(m_I, a)                             h(m, a) = exp(m . a / T) / sum over m_I and negatives
    nce    L(m, a) = -log h(m_I, a) - sum over negatives of log(1 - h(m', a))
    m_I <- unit(bank_momentum * m_I + (1 - bank_momentum) * f(image))          after the loss

f is one linear layer on the features of the image; g one linear layer on those of each tile, concatenated in shuffled
order, and a second one on the whole. An image is never drawn as its own negative.

Deviations: the grid is 2 x 2 for small images, where nine tiles would have a handful of pixels; negatives are all other
images where the data set is small, so nothing is drawn; the bank starts random; the color of the tiles is changed per
image and not per tile, so that one pass changes it; optionally BatchNorm (no scale, no shift) on both vectors, because
features of a young network all point the same way and the age of a row in the bank would outweigh its image; AdamW in
short trainings, where SGD leaves the features near their start.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_core.config import ASCENDING, Count, Fraction, Positive, Share
from ssl_core.engine.augment import AugmentConfig, color_jitter, random_grayscale, resized_crop
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.parts.heads import mlp
from ssl_core.parts.losses import similarities, unit
from ssl_core.parts.memory import MemoryBank
from ssl_core.parts.patches import grid_geometry, tiles
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class PIRLConfig:
    """The numbers of PIRL."""

    grid: Count
    """Tiles per side. Paper: 3; up to about 64 px: 2."""
    tile_scale: Annotated[tuple[Fraction, Fraction], ASCENDING]
    """Share of the image's area that is cut into tiles. Paper: 0.6 to 1."""
    dim: Count
    """Width of the vectors. Paper: 128."""
    temperature: Positive
    """Paper: 0.07; released MLP variant: 0.1; short schedules: 0.2-0.5."""
    weight: Share
    """Share of the tiles' loss (the paper's lambda): 0.5."""
    form: Literal["ce", "nce"]
    """``nce``: the paper's; ``ce``: that of the later released configurations, no worse there."""
    negatives: int
    """Drawn per image. Paper: 32000; 0 = all other images."""
    norm: bool
    """BatchNorm on both vectors before they get unit length. Paper: no; short schedules: yes."""
    bank_momentum: Share
    """Share of the old vector that stays in the bank. Paper: 0.5."""


def bank_loss(logits: Tensor, own: Tensor, form: str) -> Tensor:
    """The paper's noise-contrastive loss or its cross-entropy part, the mean over rows.

    Args:
        logits: (B, K) similarities divided by the temperature.
        own: (B,) column of the positive.
    """
    log_h = F.log_softmax(logits, dim=1)
    loss = F.nll_loss(log_h, own)
    if form == "nce":
        others = log_h.exp().scatter(1, own[:, None], 0.0).clamp(max=1.0 - 1e-6)
        loss = loss - torch.log1p(-others).sum(1).mean()
    return loss


class PIRL(Method):
    """Find an image's memory-bank vector from the image and from its shuffled tiles."""

    title = "PIRL"
    year = 2019
    family = "contrastive"
    paper = "arXiv 1912.01991"
    own_views = "one common view, and the shuffled tiles of another with a milder crop"
    shows = "an augmented view, and the shuffled tiles of another one, which are to be alike"
    Config = PIRLConfig

    def __init__(self, encoder: Encoder, config: PIRLConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        grid_geometry(data.image_size, config.grid)  # refuses a grid that is too fine
        last_norm: Literal["plain", "none"] = "plain" if config.norm else "none"
        self.image_head = mlp(encoder.dim, config.dim, last_norm=last_norm)
        self.tile_head = nn.Linear(encoder.dim, config.dim)
        self.tiles_head = mlp(config.grid**2 * config.dim, config.dim, last_norm=last_norm)
        self.bank = MemoryBank(data.num_images, config.dim)

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """An augmented image (B, C, H, W), shuffled tiles (B, T, C, t, t) and, if drawn, negative ids (B, m)."""
        config, data = self.config, self.data
        x = self.view(images, rng)
        crop = resized_crop(images, rng, config.tile_scale, data.image_size, self.augment.flip)
        crop = random_grayscale(color_jitter(crop, rng, self.augment), rng, self.augment.grayscale)
        ordered = self.normalize(tiles(crop, rng, config.grid))
        rows = torch.arange(len(images), device=images.device)[:, None]
        shuffled = ordered[rows, rng.permutation(config.grid**2)]
        if not config.negatives:
            return x, shuffled
        step = 1 + rng.integers(data.num_images - 1, config.negatives)
        return x, shuffled, (rng.ids[:, None] + step) % data.num_images

    def embed_image(self, x: Tensor) -> Tensor:
        """f: unit vectors (B, D)."""
        return unit(self.image_head(self.encoder(x)))

    def embed_tiles(self, x: Tensor) -> Tensor:
        """g: unit vectors (B, D) of tiles (B, T, C, t, t); one forward pass, so that all tiles share batch statistics."""
        each = self.tile_head(self.encoder(x.flatten(0, 1)))
        return unit(self.tiles_head(each.reshape(len(x), -1)))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted sum of the two losses against the old bank, then the bank takes the images' new vectors."""
        config, bank = self.config, self.bank.read()
        image, shuffled = self.embed_image(batch.views[0]), self.embed_tiles(batch.views[1])
        parts = []
        for vectors in (shuffled, image):
            logits, own = similarities(vectors, bank) / config.temperature, batch.ids
            if config.negatives:
                logits, own = logits.gather(1, torch.cat([own[:, None], batch.views[2]], dim=1)), torch.zeros_like(own)
            parts.append(bank_loss(logits, own, config.form))
        self.bank.update(batch.ids, image.detach(), config.bank_momentum)
        loss = config.weight * parts[0] + (1.0 - config.weight) * parts[1]
        return {"loss": loss, "loss_tiles": parts[0].detach(), "loss_image": parts[1].detach()}
