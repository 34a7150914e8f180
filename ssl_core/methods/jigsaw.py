"""Jigsaw puzzle: in which of P orders were the tiles laid?

Noroozi, Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles", ECCV 2016, arXiv 1603.09246.

The tiles x_0..x_T-1 of a grid are shuffled by permutation p of a fixed set; the network encodes each tile by itself
(features f, small embedding e) and only then looks at all together, slot by slot:

    L = mean of CE(g(e(f(x_P[p][0])), ..., e(f(x_P[p][T-1]))), p)

The permutations of the set are far apart, or two similar tiles swapped would make two of them look alike. The set is a
buffer: it belongs to the classifier and travels with the checkpoint. Guards against answers that need no objects: gaps and
random places (few lines to continue), each tile standardized (no brightness), a share of the images grey and the color
channels shifted against one another (no chromatic aberration to measure).

Deviations from the paper: the next permutation of the set is the one whose smallest Hamming distance to the others is largest,
not their sum; several permutations of an image in each step. Tiles are encoded one by one, so shuffling
their embeddings is shuffling the tiles, and a second puzzle costs no second encoding. At 32 px a 2 x 2 grid with all 24
permutations keeps tiles of 12 px; tiles below 8 px hold little to recognize.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_core.config import Count, Share
from ssl_core.engine.augment import AugmentConfig, padded_crop, random_grayscale, resize, standardize, to_unit
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.parts.heads import mlp
from ssl_core.parts.losses import is_top1
from ssl_core.parts.patches import permutation_set, tiles
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class JigsawConfig:
    """The numbers of the jigsaw puzzle."""

    grid: Count
    """Tiles per side. Paper: 3; images below 64 px: 2 or 3."""
    tile_size: Count
    """Smaller tiles are enlarged to this side, so that an encoder with a stride can digest them. Paper: 0; small images: 16."""
    permutations: Count
    """Size of the set. Paper: 1000 (100 is as good in later studies); grid 2: all 24."""
    puzzles: Count
    """Permutations of each image in a step. Paper: 1; short trainings: 2."""
    grayscale: Share
    """Share of the images turned grey. Paper: 0.3; later studies: 0.66. Nothing to do for grey images."""
    channel_shift: int
    """Largest shift of a color channel in pixels. Paper: 2 with 64 px tiles; small images: 1."""
    tile_dim: Count
    """Width of the embedding of a tile. Paper: 512 (fc6); small images: 128."""
    hidden: Count
    """Width of the layer that sees all tiles. Paper: 4096 (fc7); small images: 256-512."""


def shift_channels(x: Tensor, rng: Rng, pixels: int) -> Tensor:
    """Each color channel of (B, C, H, W) moved by up to ``pixels`` on both axes, mirrored at the edges; without color none."""
    if x.shape[1] != 3 or pixels == 0:
        return x
    return torch.cat([padded_crop(channel, rng, pixels, 0.0) for channel in x.chunk(x.shape[1], dim=1)], dim=1)


class Jigsaw(Method):
    """Classification of the permutation of an image's tiles."""

    title = "Jigsaw puzzle"
    year = 2016
    family = "pretext"
    paper = "arXiv 1603.09246"
    own_views = "standardized tiles of a grid, from mirrored but uncropped images"
    shows = "the tiles in their true order, before they are shuffled: the method tells the order"
    Config = JigsawConfig
    permutations: Tensor

    def __init__(self, encoder: Encoder, config: JigsawConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        count = config.grid**2
        self.register_buffer("permutations", permutation_set(count, config.permutations))
        self.embed = mlp(encoder.dim, config.tile_dim, last_norm="affine", last_relu=True)
        self.classifier = mlp(count * config.tile_dim, config.hidden, config.permutations)

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """(B, T, C, t, t) standardized tiles in their true order, and (B, puzzles) indices into the set."""
        x = to_unit(padded_crop(images, rng, 0, self.augment.flip))
        x = random_grayscale(shift_channels(x, rng, self.config.channel_shift), rng, self.config.grayscale)
        cut = tiles(x, rng, self.config.grid)
        if cut.shape[-1] < self.config.tile_size:
            cut = torch.stack([resize(tile, self.config.tile_size) for tile in cut.unbind(1)], dim=1)
        return standardize(cut), rng.integers(self.config.permutations, self.config.puzzles)

    def embeddings(self, cut: Tensor) -> Tensor:
        """(B, T, C, t, t) -> (B, T, tile_dim); each tile is seen alone (but for BatchNorm's statistics in training)."""
        embedded: Tensor = self.embed(self.encoder(cut.flatten(0, 1)))
        return embedded.reshape(*cut.shape[:2], -1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy over the puzzles, and the share that is solved (chance: 1 / permutations)."""
        cut, index = batch.views
        tiles_of = self.embeddings(cut)
        rows = torch.arange(len(cut), device=cut.device)[:, None, None]
        shuffled = tiles_of[rows, self.permutations[index]]  # (B, puzzles, T, tile_dim): slot j holds tile P[p][j]
        logits = self.classifier(shuffled.flatten(2).flatten(0, 1)).float()
        labels = index.flatten()
        chance = logits.new_full((), 1 / logits.shape[1])
        return {"loss": F.cross_entropy(logits, labels), "accuracy": is_top1(logits, labels).mean(), "chance": chance}
