"""Context prediction: where does this tile lie relative to that one?

Doersch, Gupta, Efros, "Unsupervised Visual Representation Learning by Context Prediction", ICCV 2015, arXiv 1505.05192.

Tiles are cut from a grid; of two neighbors a and b the network, which encodes each by itself with features f, says which
of the 8 directions y leads from a to b:

    L = mean over neighbors (a, b) of CE(g(f(a), f(b)), y)         y = 0..7: up-left, up, up-right, left, right, ..., down-right

Guards against answers that need no objects. Tiles have gaps and a random place in their cell (few lines to continue, no
fixed pixel distance). Lenses shift green against red and blue towards the rim, so color alignment tells the absolute
position: two of three channels of each tile become noise (``drop``), or the green-magenta axis is projected away
(``project``). Some tiles are reduced to 100 pixels and enlarged again. Each tile is standardized, so that brightness
tells nothing. The hidden layer has BatchNorm without scale and shift, with which the network could silence it and get
stuck.

Deviations from the paper: all neighbors of a grid in one step, as each tile costs one encoding however many pairs it is
in; gaps as in the jigsaw puzzle, a third of a tile on average and now and then none (paper: about half, and always some); one
hidden layer; no dropout (the loss draws no random number). Evaluate an earlier block, too: the last one
specializes on the task.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_core.config import Count, Rule, Share
from ssl_core.engine.augment import AugmentConfig, drop_channels, padded_crop, resize, standardize, to_unit
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.parts.heads import mlp
from ssl_core.parts.losses import is_top1
from ssl_core.parts.patches import tiles
from ssl_core.rng import Rng

OFFSETS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))  # (rows down, columns right) of each y
PIXELATED = 10  # side of a tile of 100 pixels


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """The numbers of context prediction."""

    grid: Annotated[int, Rule("a whole number of at least 2", lambda v: v >= 2)]
    """Tiles per side. Paper: a grid as large as the image allows, of 96 px tiles; 3; images below 64 px: 2 or 3."""
    tile_size: Count
    """Smaller tiles are enlarged to this side, so that an encoder with a stride can digest them. Paper: 0; small images: 16."""
    color: Literal["drop", "project", "none"]
    """Guard against chromatic aberration. Paper: either of the first two. Nothing to do for grey images."""
    color_noise: float
    """Noise in dropped channels, in standard deviations of the kept one. Paper: 0.01."""
    pixelate: Share
    """Share of the tiles reduced to 100 pixels. Paper: 1/3. Tiles of at most 10 px stay as they are."""
    hidden: Count
    """Width of the hidden layer. Paper: 4096; small images: 256-512."""


def neighbor_pairs(grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """All ordered pairs of neighboring tiles: (P,) index of the first, of the second, and direction y of the second."""
    at = range(grid)
    pairs = [
        (r * grid + c, (r + dr) * grid + c + dc, y)
        for r in at
        for c in at
        for y, (dr, dc) in enumerate(OFFSETS)
        if r + dr in at and c + dc in at
    ]
    first, second, direction = torch.tensor(pairs).T.contiguous()
    return first, second, direction


def project_colors(x: Tensor) -> Tensor:
    """Remove the green-magenta component of (..., 3, h, w): pixels times I - a'a / aa', a = (-1, 2, -1). Others stay."""
    if x.shape[-3] != 3:
        return x
    red, green, blue = x.unbind(-3)
    along = (2 * green - red - blue) / 6
    return torch.stack([red + along, green - 2 * along, blue + along], dim=-3)


class Context(Method):
    """Eight-way classification of the direction between two tiles."""

    title = "Context prediction"
    year = 2015
    family = "pretext"
    paper = "arXiv 1505.05192"
    own_views = "standardized tiles of a grid, from mirrored but uncropped images"
    shows = "the tiles of a grid, colors changed: from a pair of them the method tells where one lies of the other"
    Config = ContextConfig
    first: Tensor
    second: Tensor
    direction: Tensor
    chance: Tensor

    def __init__(self, encoder: Encoder, config: ContextConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        self.hidden = mlp(2 * encoder.dim, config.hidden, last_norm="plain", last_relu=True)
        self.classifier = nn.Linear(config.hidden, len(OFFSETS))
        for name, values in zip(("first", "second", "direction"), neighbor_pairs(config.grid), strict=True):
            self.register_buffer(name, values, persistent=False)
        most = self.direction.bincount().max() / len(self.direction)  # here: a GPU waits for a count
        self.register_buffer("chance", most, persistent=False)

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """(B, T, C, t, t): the standardized tiles of a grid, row by row."""
        x = padded_crop(images, rng, 0, self.augment.flip)
        cut = self._pixelate(to_unit(tiles(x, rng, self.config.grid)), rng)
        if self.config.color == "drop":
            cut = drop_channels(cut, rng, self.config.color_noise)
        elif self.config.color == "project":
            cut = project_colors(cut)
        if cut.shape[-1] < self.config.tile_size:
            cut = torch.stack([resize(tile, self.config.tile_size) for tile in cut.unbind(1)], dim=1)
        return (standardize(cut),)

    def _pixelate(self, cut: Tensor, rng: Rng) -> Tensor:
        """Take the fine detail from a share of the tiles (B, T, C, t, t)."""
        if self.config.pixelate == 0 or cut.shape[-1] <= PIXELATED:
            return cut
        coarse = resize(resize(cut.flatten(0, 1), PIXELATED, "area"), cut.shape[-1]).reshape(cut.shape)
        return torch.where(rng.bernoulli(self.config.pixelate, cut.shape[1], 1, 1, 1), coarse, cut)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy over all pairs, and the share that is right (chance: that of the most frequent direction, 1/6 at grid
        2, .15 at grid 3).
        """
        (cut,) = batch.views
        features = self.encoder(cut.flatten(0, 1)).reshape(*cut.shape[:2], -1)
        pairs = torch.cat([features[:, self.first], features[:, self.second]], dim=2).flatten(0, 1)
        logits = self.classifier(self.hidden(pairs)).float()
        direction = self.direction.repeat(len(cut))
        right = is_top1(logits, direction).mean()
        return {"loss": F.cross_entropy(logits, direction), "accuracy": right, "chance": self.chance}
