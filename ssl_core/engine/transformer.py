"""What a Vision Transformer is built from: its layer, the codes of its positions, and the draw of what a layer drops."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_core.config import Rule
from ssl_core.engine import distributed
from ssl_core.rng import Rng

DROPS = 4  # key of the draws


def sincos_positions(side: int, width: int, grid: int | None = None, device: torch.device | None = None) -> Tensor:
    """Fixed 2-d sine-cosine position codes (side * side, width) (MAE, arXiv 2111.06377, appendix A).

    Args:
        side: patches per side of the image at hand.
        grid: patches per side of the images the codes are made for; ``side`` by default. A smaller or larger image is
            stretched over that grid (as DINO interpolates its positions), so that a network trained on small views
            meets the same range of positions in whole images.
        device: where they are computed: a GPU would wait for an upload.
    """
    omega = 10000.0 ** (-torch.arange(width // 4, device=device) / (width / 4))
    at = (torch.arange(side, device=device) + 0.5) * ((grid or side) / side) - 0.5
    y, x = torch.meshgrid(at, at, indexing="ij")
    angles = torch.cat([axis.reshape(-1, 1) * omega for axis in (x, y)], dim=1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TransformerLayer(nn.TransformerEncoderLayer):
    """A pre-norm transformer layer with heads of 64 (or 32 below a width of 128), GELU and no dropout."""

    def __init__(self, width: int):
        super().__init__(width, self.heads(width), 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)

    @staticmethod
    def heads(width: int) -> int:
        """How many heads share so many channels."""
        return max(1, width // (64 if width >= 128 else 32))

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Tokens (B, T, D) to the same shape; ``kept`` (B, 2, 1, 1) multiplies what its two residual branches add."""
        if kept is None:
            x = super().forward(x)
        else:
            y = self.norm1(x)
            x = x + kept[:, 0] * self.self_attn(y, y, y, need_weights=False)[0]
            x = x + kept[:, 1] * self.linear2(F.gelu(self.linear1(self.norm2(x))))
        return x


TOKEN_WIDTH = Rule(
    "a multiple of 4 and of the number of heads, one for each 64 channels (32 below 128), such as 96, 192 or 384",
    lambda v: v >= 4 and not v % 4 and not v % TransformerLayer.heads(int(v)),
)
"""Of a token: its heads and the four parts of its position code are equally wide."""


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., ECCV 2016, arXiv 1603.09382): residual branches left out in training, image by image.

    The rate grows linearly from 0 at the first layer to ``rate`` at the last. What is dropped is a function of the number
    of forward passes so far, a buffer: no generator state, and a resumed training goes on exactly.
    """

    rates: Tensor
    passes: Tensor

    def __init__(self, rate: float, depth: int):
        super().__init__()
        self.register_buffer("rates", torch.linspace(0.0, rate, depth), persistent=False)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, count: int) -> Tensor:
        """(depth, count, 2, 1, 1): 0 where a branch of an image is dropped, else 1 / (1 - rate)."""
        each = torch.arange(count, device=self.passes.device) * distributed.world_size() + distributed.rank()
        u, rates = Rng(each + (self.passes << 32), DROPS).uniform(len(self.rates), 2), self.rates[:, None]
        self.passes += 1
        return ((u >= rates) / (1.0 - rates)).transpose(0, 1)[..., None, None]
