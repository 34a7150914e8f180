"""Exemplar-CNN: every seed image is a class of its own.

Dosovitskiy, Fischer, Springenberg, Riedmiller, Brox, PAMI 2016, arXiv 1406.6909 (NIPS 2014).

Strongly transformed copies T(x_i) of seed image i are the members of surrogate class i; an ordinary classifier over the
seeds, thrown away afterwards, makes the features f blind to the transformations and alert to everything else:

    L = mean over seeds i in the batch and their copies T of CE(W norm(f(T(x_i))) + b, class of i)

T composes, with magnitudes drawn per copy: shift, scale and rotation; contrast along each principal axis of color;
saturation and value; hue. Seeds are drawn before the first epoch in proportion to their gradient energy, so a flat image is
never one. Images beyond ``seeds`` or their ``seed_share`` are left out: of too many, some are near copies of one thing.

Deviations from the paper: whole images as seeds, copies made anew in every epoch; the principal axes of natural images, to need
no pass over the data; no dropout. The classifier starts at zero, learns faster than the encoder and sees standardized features
(``norm``): a class met once an epoch would stay at ln(seeds) in a short training.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_core.config import ASCENDING, Count, Fraction, Positive
from ssl_core.engine import distributed
from ssl_core.engine.augment import AugmentConfig, change_contrast, change_saturation_value, color_jitter, to_unit, warp
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Embed, Method
from ssl_core.parts.losses import is_top1
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class ExemplarConfig:
    """The numbers of Exemplar-CNN."""

    seeds: Count
    """Most surrogate classes. Paper: 8000 is best, 16000 is worse."""
    seed_share: Fraction
    """Largest share of the images that are seeds; a step costs as much, whatever their number. Paper: 1; short trainings: 0.05,
    so that each seed is met often enough to be told from the others."""
    copies: Count
    """Transformed copies of a seed in each step. Paper: about 100 over the training; short trainings: 4."""
    translate: float
    """Shift within +- this share of the side. Paper: 0.2."""
    scale: Annotated[tuple[float, float], ASCENDING]
    """Magnification. Paper: 0.7 to 1.4."""
    degrees: float
    """Rotation within +- this. Paper: 20."""
    contrast: Annotated[tuple[float, float], ASCENDING]
    """Factor along each color axis. Paper: 0.5 to 2."""
    power: Annotated[tuple[float, float], ASCENDING]
    """Exponent of saturation and value, log-uniform. Paper: 0.25 to 4; short trainings: 0.5 to 2."""
    factor: Annotated[tuple[float, float], ASCENDING]
    """Factor on saturation and value. Paper: 0.7 to 1.4."""
    offset: float
    """Added to saturation and value, within +- this. Paper: 0.1."""
    hue: float
    """Shift of hue within +- this share of the circle. Paper: 0.1."""
    classifier_lr: Positive
    """Learning rate of the classifier in multiples of the encoder's. Paper: 1; short trainings: 2."""


class GradientEnergy(nn.Module):
    """(B, C, H, W) -> (B, 1) mean squared difference of neighboring pixels: how much there is to see."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.diff(dim=2).square().mean((1, 2, 3)) + x.diff(dim=3).square().mean((1, 2, 3)))[:, None]


def draw_seeds(energy: Tensor, count: int, key: int) -> Tensor:
    """(N,) class of each image, or -1: ``count`` images drawn without replacement, in proportion to ``energy`` (N,).

    Exponential keys (Efraimidis, Spirakis, 2006): the largest log(u) / energy win. Fewer seeds when fewer have energy.
    """
    ids = torch.arange(len(energy), device=energy.device)
    keys = Rng(ids, key).uniform().clamp(min=2.0**-25).log() / energy
    seeds = keys.topk(min(count, int((energy > 0).sum()))).indices.sort().values
    classes = torch.full_like(ids, -1)
    classes[seeds] = torch.arange(len(seeds), device=ids.device)
    return classes


class Exemplar(Method):
    """Classification of transformed images among all seed images."""

    title = "Exemplar-CNN"
    year = 2014
    family = "pretext"
    paper = "arXiv 1406.6909"
    own_views = "strong shifts, scalings, rotations and color changes of whole images"
    shows = "copies of each image, strongly changed: the method tells of which image a copy is"
    Config = ExemplarConfig
    classes: Tensor
    draw: Tensor

    def __init__(self, encoder: Encoder, config: ExemplarConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        count = min(config.seeds, data.num_images, max(2, round(config.seed_share * data.num_images)))
        ids = torch.arange(data.num_images)
        self.register_buffer("classes", torch.where(ids < count, ids, -1))  # until the seeds are drawn
        self.norm = nn.BatchNorm1d(encoder.dim, affine=False)
        self.classifier = nn.Linear(encoder.dim, count)
        for parameter in self.classifier.parameters():
            nn.init.zeros_(parameter)
        self.hue = replace(augment, jitter=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=config.hue)
        self.register_buffer("draw", torch.randint(2**31, ()))  # as the weights: by the training's seed

    def before_epoch(self, epoch: int, embed: Embed) -> None:
        """Draw the seeds, once."""
        if epoch == 0:
            self.classes.copy_(draw_seeds(embed(GradientEnergy())[:, 0], self.classifier.out_features, int(self.draw)))

    def chosen(self, ids: Tensor) -> Tensor:
        """Rows (n,) of this process's batch to train on: its seeds, and others if there are too few.

        n is how many seeds a batch has on average, so that every step has the same shape; of each process, of its own rows.
        """
        count = math.ceil(len(ids) * self.classifier.out_features / self.data.num_images)
        return (self.classes[ids] < 0).to(torch.uint8).argsort(stable=True)[:count]

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """(n, copies, C, S, S): transformed copies of the batch's seeds, n as many images as a batch has on average."""
        chosen = self.chosen(rng.ids)
        x, c = to_unit(images[chosen]), self.config
        rng, copies = Rng(rng.ids[chosen], *rng.parts), []
        for _ in range(c.copies):
            copy = change_contrast(warp(x, rng, c.degrees, c.scale, c.translate), rng, c.contrast)
            copy = change_saturation_value(copy, rng, c.power, c.factor, c.offset)
            copies.append(self.normalize(color_jitter(copy, rng, self.hue)))
        return (torch.stack(copies, dim=1),)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy over the seeds' classes, and the share that is right; images that are no seeds count nothing."""
        (copies,) = batch.views
        classes = self.classes[batch.ids[self.chosen(batch.ids)]].repeat_interleave(copies.shape[1])
        logits = self.classifier(self.norm(self.encoder(copies.flatten(0, 1)))).float()
        is_seed = (classes >= 0).float()
        each = F.cross_entropy(logits, classes.clamp(min=0), reduction="none")
        right = is_top1(logits, classes.clamp(min=0))
        loss, accuracy = distributed.masked_mean(each, is_seed), distributed.masked_mean(right, is_seed)
        return {"loss": loss, "accuracy": accuracy, "chance": logits.new_full((), 1 / logits.shape[1])}

    def param_groups(self) -> list[dict[str, Any]]:
        """The classifier learns at a rate of its own."""
        fast = {"params": list(self.classifier.parameters()), "lr_scale": self.config.classifier_lr}
        return [{"params": list(self.encoder.parameters())}, fast]
