"""MAE: Masked Autoencoders Are Scalable Vision Learners.

He, Chen, Xie, Li, Dollar, Girshick, CVPR 2022, arXiv 2111.06377.

Idea: hide most patches of an image, encode the few visible ones with a Vision Transformer that never sees a mask token,
and let a small decoder reconstruct the pixels of the hidden ones.

    L = mean over hidden patches and their pixels of (prediction - target)^2
    target = (patch - mean) / sqrt(var + 1e-6) of the patch's own pixels (var with n - 1)

Which patches are hidden is drawn anew for each image and step. Mask tokens get their position in the decoder.

Deviations: a narrow and shallow encoder and decoder with patches of 4 px, for small images and short trainings; plain
features for kNN and the linear probe, where MAE is known to be weak (the paper's strength is fine-tuning, section 4.3).
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_core.config import ConfigError, Count, Share
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import Encoder, VisionTransformer
from ssl_core.engine.method import Batch, DataInfo, Method
from ssl_core.engine.transformer import TOKEN_WIDTH, TransformerLayer, sincos_positions
from ssl_core.rng import Rng


@dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """The numbers of MAE."""

    mask: Share
    """Share of the patches hidden. Paper: 0.75."""
    width: Annotated[int, TOKEN_WIDTH]
    """Token width of the decoder. Paper: 512; small images: 64-192."""
    depth: Count
    """Layers of the decoder. Paper: 8; small images: 1-4."""
    normalize: bool
    """Whether targets are normalized per patch. Paper: better with."""


def patchify(x: Tensor, size: int) -> Tensor:
    """(B, C, H, W) -> (B, T, size * size * C), patches row by row as the encoder's tokens are."""
    return F.unfold(x, size, stride=size).transpose(1, 2)


def normalized(patches: Tensor) -> Tensor:
    """Each patch of (..., P) with mean 0 and unbiased variance 1."""
    var, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / torch.sqrt(var + 1e-6)


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` (B, M) of tokens (B, T, D), image by image."""
    return torch.gather(tokens, 1, index[..., None].expand(-1, -1, tokens.shape[-1]))


class MAE(Method):
    """Reconstruct the hidden patches from the visible ones."""

    title = "Masked autoencoder (ViT)"
    year = 2021
    family = "reconstruction"
    paper = "arXiv 2111.06377"
    shows = "the augmented image: most of its patches are hidden, and the method paints them"
    Config = MAEConfig
    encoder: VisionTransformer

    def __init__(self, encoder: Encoder, config: MAEConfig, augment: AugmentConfig, data: DataInfo):
        super().__init__(encoder, config, augment, data)
        if not isinstance(encoder, VisionTransformer):
            raise ConfigError("method.mae needs an encoder that takes single patches: encoder.name vit")
        side = augment.view_side(data.image_size)
        if side % encoder.patch_size:
            size = f"a view of {side} px (augment.view_share)"
            raise ConfigError(f"method.mae: {size} must be a multiple of encoder.patch_size {encoder.patch_size}")
        self.tokens = (side // encoder.patch_size) ** 2
        self.kept = int(self.tokens * (1 - config.mask))
        if not 0 < self.kept < self.tokens:
            raise ConfigError(f"method.mae.mask is {config.mask}; it must hide some and leave some of {self.tokens} patches")
        self.embed = nn.Linear(encoder.dim, config.width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
        self.decoder = nn.Sequential(*(TransformerLayer(config.width) for _ in range(config.depth)), nn.LayerNorm(config.width))
        self.head = nn.Linear(config.width, encoder.patch_size**2 * data.channels)

    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """An augmented image (B, C, S, S) and a random order of its patches (B, T): the first are visible."""
        x = self.view(images, rng)
        return x, rng.permutation(self.tokens)

    def predict(self, x: Tensor, order: Tensor) -> Tensor:
        """Pixels (B, T - kept, P) of the hidden patches, in the order of ``order``."""
        latent = self.embed(self.encoder.tokens(x, order[:, : self.kept])[-1])
        cls, visible = latent[:, :1], latent[:, 1:]
        masks = self.mask_token.to(latent.dtype).expand(len(x), self.tokens - self.kept, -1)
        positions = sincos_positions(int(self.tokens**0.5), latent.shape[-1], device=latent.device).to(latent)
        # In the shuffled order: attention does not mind, and the hidden ones are the last.
        patches = torch.cat([visible, masks], dim=1) + positions[order]
        return self.head(self.decoder(torch.cat([cls, patches], dim=1))[:, 1 + self.kept :])  # type: ignore[no-any-return]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error on the hidden patches alone: about 1 for a prediction of each patch's mean."""
        x, order = batch.views
        target = pick(patchify(x, self.encoder.patch_size), order[:, self.kept :])
        return {"loss": F.mse_loss(self.predict(x, order).float(), normalized(target) if self.config.normalize else target)}
