"""LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics.

Balestriero, LeCun, 2025, arXiv 2511.08544.

Idea: the views of an image predict each other, and the embeddings of all images are pushed towards an isotropic
Gaussian, which the paper shows to be the best distribution for unknown later tasks. The push (SIGReg) tests random
one-dimensional slices against a normal. No momentum copy, stopped gradient, predictor or schedule; one weight.

    L = (1 - w) * mean_v |z_v - mean of the large views|^2 / D + w * SIGReg
    SIGReg = N * integral over t of  |mean_n exp(i t a.z_n) - exp(-t^2 / 2)|^2 exp(-t^2 / 2),  mean over views and slices a

The integral (Epps-Pulley) runs from -3 to 3 by the trapezoidal rule; it is symmetric, so only t >= 0 is computed. The
slices are new in each step and the same on every process. The factor N makes w depend on the batch.

Deviations: a narrower projector and fewer slices, as the features are narrow; fewer small views, which have half the
side and not less: 10 px show nothing; twice the authors' starting rate for AdamW (5e-4; their minimal example has 2e-3),
because trainings are short, and a cosine to 0 instead of to a thousandth; no solarization and, as shipped, no blur.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_core.config import Count, Share
from ssl_core.engine import distributed
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.parts.heads import mlp
from ssl_core.parts.losses import similarities, wide
from ssl_core.parts.multicrop import Crops, encode_crops, multi_crop
from ssl_core.rng import Rng

KNOTS, LAST = 17, 3.0  # of the integral, as in the authors' code


@dataclass(frozen=True, kw_only=True)
class LeJEPAConfig:
    """The numbers of LeJEPA."""

    hidden: Count
    """Width of the projector's two hidden layers. Paper: 2048; small images: 512-2048."""
    dim: Count
    """Width of the projection. Paper: 16-512; small images: 64-128."""
    weight: Share
    """w of SIGReg. Paper: 0.05, 0.01-0.1 work; on CIFAR-10 about 0.01 for 256 images per step."""
    slices: Count
    """Random directions per step. Paper: 1024, minimal version 256."""
    crops: Crops
    """The small views."""


def sigreg(z: Tensor, slices: Tensor) -> Tensor:
    """Distance of (V, N, D) from an isotropic normal along unit ``slices`` (S, D), the mean over V and S.

    About 1.05 for N independent normal rows, whatever N; 0.40 * N when all rows are zero.
    """
    t = torch.linspace(0, LAST, KNOTS, dtype=z.dtype, device=z.device)
    phi = torch.exp(-t.square() / 2)
    step = torch.full_like(t, 2 * LAST / (KNOTS - 1))
    step[0] /= 2  # one by one: a list of places would be uploaded, and a GPU would wait for it
    step[-1] /= 2
    views, n, _ = z.shape
    angles = similarities(z.reshape(views * n, -1), slices).reshape(views, n, -1, 1) * t  # (V, N, S, knots)
    error = (angles.cos().mean(1) - phi).square() + angles.sin().mean(1).square()
    return n * (error * (phi * step)).sum(-1).mean()  # no matrix product: autocast would round it


class LeJEPA(Method):
    """Equal projections of all views, distributed like a standard normal over the images."""

    title = "LeJEPA"
    year = 2025
    family = "non-contrastive"
    paper = "arXiv 2511.08544"
    shows = "two large views, then the small ones: each predicts the mean of the large ones"
    Config = LeJEPAConfig

    def __init__(self, encoder: Encoder, config: LeJEPAConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        self.projector = mlp(encoder.dim, config.hidden, config.hidden, config.dim)

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Two large views (B, C, S, S), the small ones, and the slices (S, D), unit vectors."""
        crops = multi_crop(self, images, rng, self.config.crops)
        return *crops, F.normalize(rng.shared_normal(self.config.slices, self.config.dim))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Prediction and distribution, over the batch of all processes."""
        *views, slices = batch.views
        z = wide(self.projector(encode_crops(self.encoder, views)))
        z = torch.stack([distributed.gather(part) for part in z.chunk(len(views))])  # (V, N, D)
        invariance, gaussian = (z - z[:2].mean(0)).square().mean(), sigreg(z, slices)
        weight = self.config.weight
        return {"loss": (1 - weight) * invariance + weight * gaussian, "invariance": invariance, "sigreg": gaussian}
