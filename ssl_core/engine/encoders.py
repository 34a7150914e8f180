"""Encoders: what every method trains and every user takes home.

One interface for all: ``blocks(x)`` gives the feature maps after each stage, ``forward(x)`` the pooled last one (B, D).
The stem follows the image size, as the published small-image recipes do: a 3x3 stride-1 convolution up to 36 px, the
same with a max-pool up to 112 px, the 7x7 stride-2 ImageNet stem above.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_core.config import BelowOne, ConfigError, Count, Rule, unknown_name
from ssl_core.engine.transformer import TOKEN_WIDTH, DropPath, TransformerLayer, sincos_positions

NAMES = ("small", "resnet18", "resnet34", "resnet50", "vit", "pixels")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Which network to train."""

    name: str
    """``small``, ``resnet18``, ``resnet34``, ``resnet50``, ``vit``, ``pixels``, or ``timm/NAME``."""
    width: Count
    """Channels of the first stage of ``small`` (64 in a ResNet-18), token width of ``vit``."""
    depth: Count
    """Residual blocks per stage of ``small``; transformer layers of ``vit``."""
    patch_size: Count
    """Side of a ``vit`` patch in pixels (4 at 32 px, 16 at 224 px)."""
    norm: Literal["batch", "group"]
    """Normalization layers of the ResNets. ``group`` where batch statistics would leak the answer (CPC)."""
    drop_path: BelowOne = 0.0
    """Share of a ``vit``'s residual branches dropped in training, growing linearly to this at the last layer. DINO: 0.1.
    This field and those below have defaults because encoders saved before them do not name them."""
    feature: Literal["mean", "class"] = "mean"
    """What stands for the image in a transformer: the ``mean`` of its patches' tokens, or the ``class`` token (DINO)."""
    input_size: Annotated[int, Rule("from 8 to 1024", lambda v: 8 <= v <= 1024)] | None = None
    """Side to which a ``timm/`` network or a ResNet enlarges an image of the data set, a view in proportion."""
    weights: str | None = None
    """Where its training starts: ``tasks.pretrain.weights`` says what may stand here; None: at random."""

    def __post_init__(self) -> None:
        if self.name.startswith("torchvision/"):
            raise ConfigError(f"encoder.name: {self.name!r} is gone; timm has its models: timm/{self.name.partition('/')[2]}")
        if self.name not in NAMES and not self.name.startswith("timm/"):
            raise ConfigError(unknown_name(f"encoder.name: {self.name!r}", self.name, [*NAMES, "timm/NAME"]))
        if self.input_size and not self.name.startswith(("timm/", "resnet")):
            raise ConfigError(f"encoder.input_size is for timm/NAME and resnet18 to 50; {self.name} sees images as they are")
        if self.name == "vit" and not TOKEN_WIDTH.holds(self.width):
            raise ConfigError(f"encoder.width is {self.width}; that of a vit must be {TOKEN_WIDTH.words}")


class Encoder(nn.Module):
    """Images (B, C, H, W) to features (B, ``dim``)."""

    dim: int

    @abstractmethod
    def blocks(self, x: Tensor) -> list[Tensor]:
        """Outputs of the stages, first to last, each (B, C_i, h_i, w_i); the last has C = ``dim``."""

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, ``dim``)."""
        return pool(self.blocks(x)[-1])


def enlarge(x: Tensor, zoom: float, multiple: int = 1) -> Tensor:
    """Images (B, C, H, W) with ``zoom`` times the side, rounded to a ``multiple``."""
    size = [max(1, round(side * zoom / multiple)) * multiple for side in x.shape[-2:]]
    if size == list(x.shape[-2:]):
        return x
    return F.interpolate(x, size, mode="bilinear", antialias=zoom < 1)


def pool(maps: Tensor) -> Tensor:
    """Global average over the positions of (B, C, h, w), in float32 -> (B, C)."""
    return maps.float().mean((2, 3))


class GroupNorm(nn.GroupNorm):
    """Group normalization in float32: exacter, and on a CPU, casts included, two and a half times as fast as in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (None if p is None else p.float() for p in (self.weight, self.bias))
        return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)


def _norm(kind: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else GroupNorm(math.gcd(8, channels), channels)


class Conv3x3(nn.Conv2d):
    """A padded 3x3 convolution that uses its centre tap alone on a 1x1 input, where the others see only padding.

    Nine times less work, and it avoids oneDNN's bfloat16 backward pass of a strided one, which reads memory it never wrote
    (torch 2.14, 96 to 192 channels: other gradients at every call, NaN in some).
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] == (1, 1):
            return F.conv2d(x, self.weight[:, :, 1:2, 1:2], self.bias, groups=self.groups)
        return super().forward(x)


def guard_tiny_inputs(module: nn.Module) -> None:
    """Make every plain padded 3x3 convolution of ``module`` a ``Conv3x3``; names and weights stay."""
    for conv in module.modules():
        if type(conv) is nn.Conv2d and (conv.kernel_size, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1)):
            conv.__class__ = Conv3x3


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016, arXiv 1512.03385), last norm starting at zero."""

    def __init__(self, c_in: int, c_out: int, stride: int, norm: str):
        super().__init__()
        self.conv1 = Conv3x3(c_in, c_out, 3, stride, 1, bias=False)
        self.norm1 = _norm(norm, c_out)
        self.conv2 = Conv3x3(c_out, c_out, 3, 1, 1, bias=False)
        self.norm2 = _norm(norm, c_out)
        nn.init.zeros_(self.norm2.weight)  # type: ignore[arg-type]
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            # Averaging instead of skipping pixels (ResNet-D, arXiv 1812.01187). It also avoids the strided 1x1 convolution,
            # whose float32 channels_last backward corrupts memory on CPUs (torch 2.14, 8 -> 16 channels at 48 px).
            shrink = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False) if stride != 1 else nn.Identity()
            self.shortcut = nn.Sequential(shrink, nn.Conv2d(c_in, c_out, 1, bias=False), _norm(norm, c_out))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x), inplace=True)


class SmallResNet(Encoder):
    """A narrow ResNet for CPUs: stem of stride 2, stages of ``width * (1, 2, 4, 8)`` channels, strides (1, 2, 2, 2)."""

    def __init__(self, config: EncoderConfig, channels: int):
        super().__init__()
        w, norm = config.width, config.norm
        self.stem = nn.Sequential(nn.Conv2d(channels, w, 3, 2, 1, bias=False), _norm(norm, w), nn.ReLU(inplace=True))
        stages, c_in = [], w
        for i, stride in enumerate((1, 2, 2, 2)):
            c_out = w * 2**i
            blocks = [BasicBlock(c_in if j == 0 else c_out, c_out, stride if j == 0 else 1, norm) for j in range(config.depth)]
            stages.append(nn.Sequential(*blocks))
            c_in = c_out
        self.stages = nn.ModuleList(stages)
        self.dim = c_in

    def blocks(self, x: Tensor) -> list[Tensor]:
        maps, x = [], self.stem(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class ResNet(Encoder):
    """torchvision's ResNet without its classifier; state-dict names are torchvision's own."""

    def __init__(self, config: EncoderConfig, channels: int, image_size: int):
        super().__init__()
        import torchvision  # half of the start-up time of a stage that does not need it

        norm = None if config.norm == "batch" else (lambda c: GroupNorm(32, c))
        net = torchvision.models.get_model(config.name, weights=None, zero_init_residual=True, norm_layer=norm)
        self.zoom = (config.input_size or image_size) / image_size
        image_size = config.input_size or image_size
        if image_size <= 112:
            net.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        elif channels != 3:
            net.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        guard_tiny_inputs(net)
        self.pooled_stem = image_size > 36
        self.dim = net.fc.in_features
        for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(name, getattr(net, name))

    def blocks(self, x: Tensor) -> list[Tensor]:
        x = F.relu(self.get_submodule("bn1")(self.get_submodule("conv1")(enlarge(x, self.zoom))), inplace=True)
        if self.pooled_stem:
            x = F.max_pool2d(x, 3, 2, 1)
        maps = []
        for number in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{number}")(x)
            maps.append(x)
        return maps


class VisionTransformer(Encoder):
    """A plain pre-norm ViT (arXiv 2010.11929) with a class token and fixed positions; features are the mean or class token.

    ``tokens`` accepts any subset of the patches (MAE) and any image side that is a multiple of the patch (multi-crop).
    Deviations from DINO's and MAE's: PyTorch's starting weights, and 1e-5 instead of 1e-6 in the LayerNorms.
    """

    def __init__(self, config: EncoderConfig, channels: int, image_size: int):
        super().__init__()
        self.dim, self.patch_size, self.feature = config.width, config.patch_size, config.feature
        self.grid = image_size // self.patch_size
        self.embed = nn.Conv2d(channels, self.dim, self.patch_size, self.patch_size)
        self.cls = nn.Parameter(torch.randn(1, 1, self.dim) * 0.02)
        self.layers = nn.ModuleList(TransformerLayer(self.dim) for _ in range(config.depth))
        self.norm = nn.LayerNorm(self.dim)
        self.drop_path = DropPath(config.drop_path, config.depth) if config.drop_path else None

    def tokens(self, x: Tensor, keep: Tensor | None = None) -> list[Tensor]:
        """Token sequences (B, 1 + T, D) after each layer, normalized at the last; ``keep`` (B, T) selects patches."""
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = tokens + sincos_positions(x.shape[-1] // self.patch_size, self.dim, self.grid, x.device).to(tokens)
        if keep is not None:
            tokens = torch.gather(tokens, 1, keep[..., None].expand(-1, -1, self.dim))
        tokens = torch.cat([self.cls.to(tokens.dtype).expand(x.shape[0], -1, -1), tokens], dim=1)
        outputs = []
        dropping = self.drop_path is not None and self.training
        kept = self.drop_path(len(x)).to(tokens) if dropping else [None] * len(self.layers)  # type: ignore[misc]
        for layer, own in zip(self.layers, kept, strict=True):
            tokens = layer(tokens, own)
            outputs.append(tokens)
        outputs[-1] = self.norm(tokens)
        return outputs

    def blocks(self, x: Tensor) -> list[Tensor]:
        if self.feature == "class":
            return [t[:, 0, :, None, None] for t in self.tokens(x)]
        side = x.shape[-1] // self.patch_size
        return [t[:, 1:].transpose(1, 2).reshape(x.shape[0], self.dim, side, side) for t in self.tokens(x)]


class Pixels(Encoder):
    """The image itself as features: the baseline ``raw_pixels``."""

    def __init__(self, channels: int, image_size: int):
        super().__init__()
        self.dim = channels * image_size * image_size

    def blocks(self, x: Tensor) -> list[Tensor]:
        return [x.flatten(1)[:, :, None, None]]


def check_patches(config: EncoderConfig, image_size: int) -> None:
    """Refuse patches that do not fill an image; nothing but a ViT has them.

    Raises:
        ConfigError: they do not.
    """
    if config.name == "vit" and image_size % config.patch_size:
        raise ConfigError(f"encoder vit: patch_size {config.patch_size} must divide the image size {image_size}")


def build(config: EncoderConfig, channels: int, image_size: int, seed: int) -> Encoder:
    """Make an encoder with weights that depend on ``seed`` alone.

    Raises:
        ConfigError: an unknown model of timm, or a patch size or stride that does not fit the image.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.name == "small":
            return SmallResNet(config, channels)
        if config.name in ("resnet18", "resnet34", "resnet50"):
            return ResNet(config, channels, image_size)
        if config.name == "vit":
            check_patches(config, image_size)
            return VisionTransformer(config, channels, image_size)
        if config.name == "pixels":
            return Pixels(channels, image_size)
        from ssl_core.engine import timm_encoder  # timm takes seconds to import

        timm_encoder.check(config.name)
        encoder = timm_encoder.Timm(config, channels, image_size)
        guard_tiny_inputs(encoder)
        return encoder


def open_residuals(encoder: Encoder) -> Encoder:
    """Let every residual branch count: a norm that starts at zero, which helps training, starts at one. In place.

    A network that is never trained would otherwise be its stem and its shortcuts.
    """
    for module in encoder.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() == 1 and not weight.any():
            nn.init.ones_(weight)
    return encoder


def num_parameters(module: nn.Module) -> int:
    """Number of values in the parameters."""
    return sum(p.numel() for p in module.parameters())


def description(config: EncoderConfig, channels: int, image_size: int) -> dict[str, Any]:
    """What ``build`` needs, as plain values, to be stored beside the weights."""
    return {"config": dict(vars(config)), "channels": channels, "image_size": image_size}
