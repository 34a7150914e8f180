"""CPC: Contrastive Predictive Coding. What lies some rows below what has been seen?

van den Oord, Li, Vinyals, arXiv 1807.03748 (2018); the context network of Henaff et al., ICML 2020, arXiv 1905.09272.

An image is cut into a grid of overlapping patches; the encoder sees each by itself: latents z_rc. A causal network sums up
row r and those above it in a context c_rc, from which a linear map W_k predicts the latent k rows below. It has to be
found among the latents of all positions of all images in the batch (u: a linear map of z to the same width):

    L_k = mean over images and positions of -log( exp(0.1 W_k c_rc . u_(r+k)c) / sum over all u of exp(0.1 W_k c_rc . u) )
    L   = mean over k of L_k;       ln(number of u) - L_k is a lower bound of the mutual information

Patches of the same image are the hard negatives. Patches overlap by half, so the next row shares pixels with this one:
predictions begin at the second. Color is jittered patch by patch (version 2), or it alone would tell the images apart.
BatchNorm would leak the answer between the patches of an image: an encoder with it is refused (params:
``method.cpc.encoder: {norm: group}``), and the networks here have no normalization.

Deviations from the paper: one direction (downwards); a small context network; the pipeline's encoder on each patch, while
evaluation gives it the whole image, as version 2 does.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_core.config import ConfigError, Count
from ssl_core.engine import distributed
from ssl_core.engine.augment import AugmentConfig, color_jitter, padded_crop, random_crop, random_grayscale
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.parts.losses import is_top1, similarities
from ssl_core.parts.patches import overlapping_patches
from ssl_core.rng import Rng

LOGIT_SCALE = 0.1  # as in version 2's listing: keeps the first softmax soft


@dataclass(frozen=True, kw_only=True)
class CPCConfig:
    """The numbers of CPC."""

    grid: Count
    """Patches per side; they overlap by half. Paper: 7 (64 px patches of 256 px); 4 at 28 and 32 px."""
    padding: float
    """Reflected border before the random shift, as a share of the side. Paper: crops of 256 from 300 px; small: 0.125."""
    first_step: Count
    """Nearest row that is predicted. Paper: 1 or, version 2, beyond 2; 2 is the first without a common pixel."""
    steps: Count
    """How many rows, from there on. Paper: 5; version 2: 3; grid 4: 2."""
    context_blocks: Count
    """Residual blocks of the context network; each sees one row further up. Version 2: 5."""
    context_hidden: Count
    """Channels inside a block. Version 2: 256; small images: 64."""
    dim: Count
    """Width in which prediction and latent are compared. Version 2: 64."""


def patch_geometry(image_size: int, grid: int) -> tuple[int, int, int]:
    """(crop, patch, stride) in pixels: ``grid`` patches a side, half overlapping; 32 px and grid 7 give (32, 8, 4).

    Raises:
        ValueError: patches of less than four pixels.
    """
    stride = image_size // (grid + 1)
    if stride < 2:
        raise ConfigError(f"method.cpc.grid: {grid} x {grid} half-overlapping patches are too many for {image_size} px images")
    return stride * (grid + 1), 2 * stride, stride


class CausalBlock(nn.Module):
    """A residual block on (B, D, rows, columns) that looks one row up and one column left and right, never down."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.reduce = nn.Conv2d(width, hidden, 1)
        self.across = nn.Conv2d(hidden, hidden, (1, 3), padding=(0, 1))
        self.down = nn.Conv2d(hidden, hidden, (2, 1))
        self.expand = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.across(F.relu(self.reduce(x)))
        y = self.down(F.pad(y, (0, 0, 1, 0)))  # a row of zeros on top: output row r is made of rows r - 1 and r
        change: Tensor = self.expand(F.relu(y))
        return x + change


class CPC(Method):
    """Find the patch some rows further down among all patches of the batch."""

    title = "Contrastive predictive coding"
    year = 2018
    family = "contrastive"
    paper = "arXiv 1807.03748"
    own_views = "overlapping patches of shifted and mirrored images, the color jitter drawn for each patch"
    shows = "overlapping patches, each with its own colors: from the upper rows the method tells the lower ones"
    Config = CPCConfig

    def __init__(self, encoder: Encoder, config: CPCConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        if any(isinstance(m, _BatchNorm) for m in encoder.modules()):
            raise ConfigError("method.cpc needs an encoder without BatchNorm, which leaks the answer: encoder.norm group")
        self.crop, self.patch, self.stride = patch_geometry(data.image_size, config.grid)
        self.ahead = range(config.first_step, config.first_step + config.steps)
        if self.ahead[-1] >= config.grid:
            raise ConfigError(f"method.cpc: predicting {self.ahead[-1]} rows ahead needs more than {config.grid} rows")
        self.context = nn.Sequential(*(CausalBlock(encoder.dim, config.context_hidden) for _ in range(config.context_blocks)))
        self.target = nn.Linear(encoder.dim, config.dim, bias=False)  # a bias would cancel in the softmax
        self.predictors = nn.ModuleList(nn.Linear(encoder.dim, config.dim, bias=False) for _ in self.ahead)

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """(B, rows, columns, C, p, p): the overlapping patches of a shifted and flipped image, each jittered by itself."""
        x = padded_crop(images, rng, round(self.config.padding * images.shape[-1]), self.augment.flip)
        cut = overlapping_patches(random_crop(x, rng, self.crop, 0.0), self.patch, self.stride)
        each = rng.each(self.config.grid**2)
        x = random_grayscale(color_jitter(cut.flatten(0, 2), each, self.augment), each, self.augment.grayscale)
        return (self.normalize(x).reshape(cut.shape),)

    def latents(self, patches: Tensor) -> Tensor:
        """(B, rows, columns, C, p, p) -> (B, rows, columns, D), each from its own patch alone."""
        features: Tensor = self.encoder(patches.flatten(0, 2))
        return features.reshape(*patches.shape[:3], -1)

    def contexts(self, latents: Tensor) -> Tensor:
        """(B, rows, columns, D) -> the same shape; row r depends on rows r - blocks .. r."""
        return F.relu(self.context(latents.movedim(3, 1))).movedim(1, 3)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """InfoNCE over every position of every image, the mean over the steps, and the share that is found."""
        latents = self.latents(batch.views[0])
        contexts, (b, rows, columns) = self.contexts(latents), latents.shape[:3]
        candidates = distributed.gather(self.target(latents).float()).flatten(0, 2)  # index (b * rows + r) * columns + c
        index = torch.arange(len(candidates), device=candidates.device).reshape(-1, rows, columns)[distributed.local_rows(b)]
        losses, hits = [], []
        for k, predictor in zip(self.ahead, self.predictors, strict=True):
            predictions = predictor(contexts[:, : rows - k]).float().flatten(0, 2)
            logits = similarities(LOGIT_SCALE * predictions, candidates)
            labels = index[:, k:].flatten()
            losses.append(F.cross_entropy(logits, labels))
            hits.append(is_top1(logits, labels).mean())
        chance = candidates.new_full((), 1 / len(candidates))
        return {"loss": torch.stack(losses).mean(), "accuracy": torch.stack(hits).mean(), "chance": chance}
