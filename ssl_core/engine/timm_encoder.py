"""Encoders by their names in timm, the field's library of image networks: ``timm/NAME``, with convolutions or attention."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from ssl_core.config import ConfigError, nearest
from ssl_core.engine.encoders import Encoder, EncoderConfig, enlarge


class Timm(Encoder):
    """A network of timm without its classifier. Names of its weights are timm's own, below ``net``.

    ``blocks`` gives timm's stages (of a transformer: its layers, the last one normalized), and then the convolution that
    some networks widen their features with, the last thing before pooling.
    Another number of channels than 3 gets a first convolution of its own, and images of another size get position codes of
    their own. Dropout and stochastic depth are off: what is random in a training here is keyed, and theirs is not.
    """

    def __init__(self, config: EncoderConfig, channels: int, image_size: int):
        super().__init__()
        size = config.input_size or image_size
        self.zoom = size / image_size
        self.net: Any = _timm_network(config.name.removeprefix("timm/"), channels, size)
        self.multiple = _patch_size(self.net)
        self.by_token = config.feature == "class"
        if self.by_token and not getattr(self.net, "has_class_token", False):
            raise ConfigError(f"encoder.feature: {config.name} has no class token; use mean")
        self.net.eval()
        with torch.no_grad():
            self.dim = self.blocks(torch.zeros(1, channels, image_size, image_size))[-1].shape[1]
        self.net.train()

    def blocks(self, x: Tensor) -> list[Tensor]:
        x = enlarge(x, self.zoom, self.multiple)
        if self.by_token:
            _, both = self.net.forward_intermediates(x, norm=True, return_prefix_tokens=True)
            return [prefix[:, 0, :, None, None] for _, prefix in both]
        last, maps = self.net.forward_intermediates(x, norm=True)
        wider = last.ndim == 4 and last.shape[1] == self.net.num_features != maps[-1].shape[1]
        return [*maps, last] if wider else list(maps)


def _timm_network(name: str, channels: int, size: int) -> Any:
    """timm's network ``name`` with random weights, for images (B, ``channels``, ``size``, ``size``)."""
    net = _made(name, num_classes=0, in_chans=channels, img_size=size)
    if not hasattr(net, "forward_intermediates"):
        raise ConfigError(f"encoder.name: timm/{name} gives no feature maps; use another network")
    stride = max([stage["reduction"] for stage in getattr(net, "feature_info", [])], default=1)
    if size < stride:
        raise ConfigError(
            f"images of {size} px are smaller than the {stride} px that one output of timm/{name} is for;"
            " set encoder.input_size (most networks of timm were trained at 224)"
        )
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    return net


def _made(name: str, img_size: int, **options: Any) -> Any:
    """The network, told the size of its images where it depends on it, as transformers do."""
    import timm

    about = timm.get_pretrained_cfg(name)
    if about and about.fixed_input_size:
        for sized in (dict[str, Any](dynamic_img_size=True), dict[str, Any]()):
            with contextlib.suppress(TypeError):  # it does not take one of these
                return timm.create_model(name, **options, **sized, img_size=img_size)
    return timm.create_model(name, **options)


def _patch_size(net: Any) -> int:
    """Side of a transformer's patch; 1 for a network that takes any size."""
    size = getattr(getattr(net, "patch_embed", None), "patch_size", 1)
    return int(size[0] if isinstance(size, (tuple, list)) else size)


def check(name: str) -> None:
    """Whether timm has the network ``timm/NAME``.

    Raises:
        ConfigError: it has not; the message names the three nearest.
    """
    import timm

    name = name.removeprefix("timm/")
    if not timm.is_model(name):
        raise ConfigError(f"encoder.name: timm has no network {name!r}{nearest(name, timm.list_models(), 3)}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:
        raise ConfigError(f"encoder.name: timm has no weights {name!r}{nearest(name, timm.list_pretrained(), 3)}") from None
