"""Putting somebody's weights into an encoder: strictly, and saying what was done."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_core.config import ConfigError, nearest
from ssl_core.engine.encoders import Encoder

ENOUGH = 0.9
"""Share of an encoder's parameters that the weights must hold: with less it is another network."""


@dataclass(frozen=True)
class Loading:
    """What became of each tensor, by name."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    """Of the encoder; they stay random."""
    unexpected: tuple[str, ...]
    """Of the weights; not used, as the classifier is."""
    resized: tuple[str, ...]
    """Among ``matched``: made to fit other channels or another size of image."""
    share: float
    """Of the encoder's parameters that were matched."""

    def __str__(self) -> str:
        rest = {"resized": self.resized, "missing": self.missing, "unexpected": self.unexpected}
        named = [f"{len(names)} {kind} ({_some(names)})" for kind, names in rest.items() if names]
        return ", ".join([f"{len(self.matched)} tensors matched, {100 * self.share:.1f} % of the parameters", *named])


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def put(encoder: Encoder, weights: Mapping[str, Tensor], where: str) -> Loading:
    """Copy ``weights`` into ``encoder``, in place.

    Names are those of the encoder, or of the network of timm in it; all may have one prefix (``module.``, ``encoder.``). The
    first convolution is summed over the colors, or spread over the channels there are; position codes are interpolated.

    Args:
        where: they come from, for messages.

    Raises:
        ConfigError: a tensor of another shape, or too few of the parameters: the weights are of another network.
    """
    network: nn.Module = getattr(encoder, "net", encoder)
    own = network.state_dict()
    weights = _below_prefix(weights, own)
    found: dict[str, Tensor] = {}
    resized = []
    for name, target in own.items():
        if name not in weights:
            continue
        value = weights[name].reshape(target.shape) if weights[name].numel() == target.numel() == 1 else weights[name]
        if value.shape != target.shape:
            value = _resized(network, name, value, target)
            resized.append(name)
        if value.shape != target.shape:
            shapes = f"{tuple(weights[name].shape)} in {where} and {tuple(target.shape)} in the encoder"
            kernels = value.ndim == target.ndim == 4 and len(value) == len(target)
            hint = ", or of this one for larger images (encoder.input_size)" if kernels else ""
            raise ConfigError(f"encoder.weights: {name} is {shapes}: these are weights of another network{hint}")
        found[name] = value
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    share = sum(size for name, size in sizes.items() if name in found) / max(1, sum(sizes.values()))
    missing = tuple(name for name in own if name not in found)
    if share < ENOUGH:
        first = next(name for name in missing if name in sizes)
        raise ConfigError(
            f"encoder.weights: {where} holds {100 * share:.0f} % of the encoder's parameters, less than {100 * ENOUGH:.0f} %:"
            f" it has no {first}{nearest(first, weights, 3) or '; none of its names is near'}"
        )
    with torch.no_grad():
        for name, value in found.items():
            own[name].copy_(value)
    unexpected = tuple(name for name in weights if name not in own)
    return Loading(tuple(found), missing, unexpected, tuple(resized), share)


def _below_prefix(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` without the prefix below which most names are those of ``own``."""
    first = next(iter(own), "")
    prefixes = {name.removesuffix(first) for name in weights if name.endswith(first)} | {""}
    best = max(sorted(prefixes), key=lambda prefix: sum(prefix + name in weights for name in own))
    return {name.removeprefix(best): value for name, value in weights.items()}


def _resized(network: nn.Module, name: str, value: Tensor, target: Tensor) -> Tensor:
    """``value`` for another number of channels, or another grid of patches; as it is where it is neither."""
    if value.ndim == 4 and target.ndim == 4 and (len(value), *value.shape[2:]) == (len(target), *target.shape[2:]):
        return _for_channels(value.float(), target.shape[1])
    if name.endswith("pos_embed") and value.ndim == target.ndim == 3 and hasattr(network, "num_prefix_tokens"):
        from timm.layers.pos_embed import resample_abs_pos_embed

        timm: Any = network
        before = 0 if getattr(timm, "no_embed_class", False) else timm.num_prefix_tokens
        resized: Tensor = resample_abs_pos_embed(value.float(), list(timm.patch_embed.grid_size), num_prefix_tokens=before)
        return resized
    return value


def _for_channels(kernels: Tensor, channels: int) -> Tensor:
    """First convolution (O, I, k, k) for ``channels``: the sum for one, so that a grey image gives what it gave in color where
    mean and deviation of the colors are equal, and nearly that elsewhere; else the I repeated, at a scale that keeps the size
    of what comes out. timm has the same rule.
    """
    if channels == 1:
        return kernels.sum(1, keepdim=True)
    inputs = kernels.shape[1]
    return kernels.repeat(1, -(-channels // inputs), 1, 1)[:, :channels] * (inputs / channels)


def renamed(weights: Mapping[str, Tensor], names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` under the first of ``names``, in their order: of files that list the tensors of a network in the same
    order under names of their own. ``put`` checks the shapes.
    """
    return dict(zip(names, weights.values(), strict=False))
