"""Rotation (RotNet): which way up is the image?

Gidaris, Singh, Komodakis, "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018,
arXiv 1803.07728.

Every image enters the batch in its four orientations y = 0..3 (y quarter turns counter-clockwise); a linear classifier g
on the features f names the orientation:

    L = mean over images and y of CE(g(f(rot(x, y))), y)

To tell it, the encoder must know objects and their parts. Rotations are transposes and flips of pixels (no interpolation,
no border: nothing but content gives them away), the crop and the flip come before them, and the four copies share one
forward pass, so that BatchNorm sees them mixed.

Deviations from the paper: the pipeline's encoder instead of a NIN, to compare methods and not networks; a linear
classifier on its pooled last block; reflected borders instead of black ones, which would tell nothing but look odd.
In short trainings the common random views are turned, not images that are shifted by four pixels: they show less of an
object, so more of it has to be known, and their smaller side lets more images pass.
That block specializes on the task; the paper, too, takes its features from an earlier one, so let the evaluation choose
among blocks (``evaluate.layers``). Useless where orientation means nothing (satellite images, cells, textures).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_core.engine.augment import AugmentConfig, padded_crop
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.parts.losses import is_top1
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class RotationConfig:
    """The numbers of rotation prediction."""

    padding: float | None
    """Reflected border before the random crop, as a share of the side, the colors as they are. Paper: 4 of 32 px, 0.125.
    Short schedules: null, the common views, which are smaller and make the task harder."""


class Rotation(Method):
    """Four-way classification of the orientation."""

    title = "RotNet"
    year = 2018
    family = "pretext"
    paper = "arXiv 1803.07728"
    own_views = "the image in its four rotations"
    shows = "the image turned by 0, 90, 180 and 270 degrees: the method tells by how much"
    Config = RotationConfig

    def __init__(self, encoder: Encoder, config: RotationConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        self.classifier = nn.Linear(encoder.dim, 4)

    def seen(self, images: Tensor) -> Tensor:
        """As they are stored where the common view crops them."""
        return images if self.config.padding is None else self.whole(images)

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """(B, 4, C, S, S): the image turned by 0, 90, 180 and 270 degrees."""
        if self.config.padding is None:
            x = self.view(images, rng)
        else:
            padding = round(self.config.padding * images.shape[-1])
            x = self.normalize(padded_crop(images, rng, padding, self.augment.flip))
        return (torch.stack([torch.rot90(x, turns, (2, 3)) for turns in range(4)], dim=1),)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy over the four orientations, and the share that is right (chance: 0.25)."""
        (turned,) = batch.views
        turns = torch.arange(4, device=turned.device).repeat(len(turned))
        logits = self.classifier(self.encoder(turned.flatten(0, 1))).float()
        chance = logits.new_full((), 1 / logits.shape[1])
        return {"loss": F.cross_entropy(logits, turns), "accuracy": is_top1(logits, turns).mean(), "chance": chance}
