"""Random views of images: batched on the device, every parameter drawn per image.

A random-resized crop with its flip is two batched matrix products with antialiased interpolation weights, a blur is two
more with banded matrices, and the color operations are a few pointwise passes over the batch. Each function matches its
torchvision counterpart image by image, to rounding.

The order is fixed: crop and flip; brightness, contrast, saturation, hue; grayscale; blur; solarize; normalize.
torchvision draws the order of the four color operations per image; a fixed one needs a quarter of the passes.

Images enter as uint8 or uint16, or as float in [0, 1], and leave as float32 in [0, 1] unless a function says otherwise. All
randomness comes from the ``Rng``, keyed by image, so a view does not depend on the rest of the batch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_core.config import ASCENDING, Fraction, Positive, Rule, Share
from ssl_core.engine.geometry import (
    Filter,
    at_side,
    gaussian_blur,
    padded_crop,
    random_crop,
    resize,
    resized_crop,
    to_unit,
    warp,
)
from ssl_core.rng import Rng

__all__ = [
    "AugmentConfig",
    "Filter",
    "at_side",
    "change_contrast",
    "change_saturation_value",
    "color_jitter",
    "drop_channels",
    "gaussian_blur",
    "normalize",
    "padded_crop",
    "random_crop",
    "random_grayscale",
    "resize",
    "resized_crop",
    "solarize",
    "standardize",
    "to_unit",
    "view",
    "warp",
]

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as in Pillow and torchvision
_CHUNK = 1 << 20  # values of a color pass on a CPU: the handful of arrays of one chunk stay in its shared cache


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The recipe of one random view."""

    view_share: Fraction
    """Side of a view as a share of the image's, rounded to a multiple of 4 pixels. Training on smaller views than the encoder
    is used on costs less and makes up for the crops magnifying things (Touvron et al., arXiv 1906.06423)."""
    crop_scale: Annotated[tuple[Fraction, Fraction], ASCENDING]
    """Smallest and largest share of the image's area in a crop."""
    flip: Share
    """Probability of a horizontal flip."""
    jitter: Share
    """Probability that the four color changes below are made."""
    brightness: float
    """Factor within 1 +- this."""
    contrast: float
    """Factor within 1 +- this."""
    saturation: float
    """Factor within 1 +- this. No effect on grey images."""
    hue: Annotated[float, Rule("from 0 to 0.5", lambda v: 0 <= v <= 0.5)]
    """Rotation within +- this share of the color circle, at most 0.5. No effect on grey images."""
    grayscale: Share
    """Probability of dropping all color."""
    blur: Share
    """Probability of a Gaussian blur."""
    blur_sigma: Annotated[tuple[Positive, Positive], ASCENDING]
    """Smallest and largest standard deviation of the blur in pixels."""
    solarize: Share
    """Probability of inverting the bright half of the values."""

    def view_side(self, image_side: int) -> int:
        """Side of a view of an image, in pixels."""
        return image_side if self.view_share == 1 else max(8, 4 * round(self.view_share * image_side / 4))


def view(
    images: Tensor,
    rng: Rng,
    config: AugmentConfig,
    mean: Sequence[float],
    std: Sequence[float],
    size: int | None = None,
) -> Tensor:
    """One random view of each image by the whole recipe.

    Args:
        images: (B, C, H, W) uint8, uint16, or float in [0, 1].
        mean, std: per channel, of pixels in [0, 1].
        size: side of the view instead of ``config.view_side``.

    Returns:
        (B, C, size, size) float32, normalized.
    """
    x = resized_crop(images, rng, config.crop_scale, size or config.view_side(images.shape[-2]), config.flip)
    x = color_jitter(x, rng, config)
    x = random_grayscale(x, rng, config.grayscale)
    x = gaussian_blur(x, rng, config.blur, config.blur_sigma)
    x = solarize(x, rng, config.solarize)
    return normalize(x, mean, std)


def normalize(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(x - mean) / std`` per channel of (..., C, H, W); ``mean`` and ``std`` are of pixels in [0, 1]."""
    shift = _constant(tuple(-m / s for m, s in zip(mean, std, strict=True)), x.device)
    scale = _constant(tuple(1 / s for s in std), x.device)
    return torch.addcmul(shift[:, None, None], to_unit(x), scale[:, None, None])


def standardize(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the last three dimensions of (..., C, h, w); a flat image becomes 0.

    The variance is floored at about that of rounding to 256 levels, so noise in a flat tile is not blown up.
    """
    return F.layer_norm(to_unit(x), x.shape[-3:], eps=1e-6)


def color_jitter(x: Tensor, rng: Rng, config: AugmentConfig) -> Tensor:
    """Brightness, contrast, saturation and hue changes, in this order, on a share ``config.jitter`` of the images.

    Grey images (C = 1) get brightness and contrast; bands that are no colors (C = 2 or above 3) get them each by itself.
    """
    x = to_unit(x)
    if config.jitter == 0:
        return x
    if x.shape[1] not in (1, 3):
        return _band_jitter(x, rng, config)
    u = rng.uniform(5)[..., None, None, None]
    on = u[:, 0] < config.jitter
    x = torch.mul(x, _factor(u[:, 1], config.brightness, on)).clamp_(max=1)  # a new tensor: in place from here on
    saturation = _factor(u[:, 3], config.saturation, on)
    hue = torch.where(on, (2 * u[:, 4] - 1) * config.hue, 0.0)
    if config.contrast > 0:
        grey = _luma(x.mean((2, 3), keepdim=True))
        torch.lerp(grey, x, _factor(u[:, 2], config.contrast, on), out=x).clamp_(0, 1)
    if x.shape[1] == 1:
        return x
    for part, part_saturation, part_hue in _chunks(x, saturation, hue):
        if config.saturation > 0:
            torch.lerp(_luma(part), part, part_saturation, out=part).clamp_(0, 1)
        if config.hue > 0:
            _rotate_hue_(part, part_hue)
    return x


def _band_jitter(x: Tensor, rng: Rng, config: AugmentConfig) -> Tensor:
    """Brightness, and contrast about the band's mean, of each band by factors of its own."""
    bands = x.shape[1]
    u = rng.uniform(1 + 2 * bands)[..., None, None]
    on = u[:, :1] < config.jitter
    x = torch.mul(x, _factor(u[:, 1 : 1 + bands], config.brightness, on)).clamp_(max=1)
    return torch.lerp(x.mean((2, 3), keepdim=True), x, _factor(u[:, 1 + bands :], config.contrast, on)).clamp_(0, 1)


def random_grayscale(x: Tensor, rng: Rng, p: float) -> Tensor:
    """A share ``p`` of the images becomes grey in all channels; images without color stay as they are."""
    x = to_unit(x)
    if p == 0 or x.shape[1] != 3:
        return x
    return torch.where(rng.bernoulli(p, 1, 1, 1), _luma(x), x)


def solarize(x: Tensor, rng: Rng, p: float) -> Tensor:
    """In a share ``p`` of the images, values from 0.5 up are inverted."""
    x = to_unit(x)
    if p == 0:
        return x
    return torch.where(rng.bernoulli(p, 1, 1, 1) & (x >= 0.5), 1 - x, x)


def drop_channels(x: Tensor, rng: Rng, noise: float) -> Tensor:
    """Keep one random channel of each image, or tile, of (B, ..., C, h, w); Gaussian noise in the others.

    The guard of context prediction against chromatic aberration (arXiv 1505.05192). The noise has the kept channel's
    mean and ``noise`` times its standard deviation. Images without color (C is not 3) stay as they are.
    """
    x = to_unit(x)
    channels = x.shape[-3]
    if channels != 3:
        return x
    kept = rng.integers(channels, *x.shape[1:-3])[..., None, None, None]
    channel = x.gather(-3, kept.expand(*x.shape[:-3], 1, *x.shape[-2:]))
    deviation, mean = torch.std_mean(channel, dim=(-2, -1), keepdim=True)
    here = torch.arange(channels, device=x.device)[:, None, None] == kept
    return torch.where(here, x, mean + noise * deviation * rng.normal(*x.shape[1:]))


def change_contrast(x: Tensor, rng: Rng, factors: tuple[float, float]) -> Tensor:
    """Stretch the pixels of (B, C, H, W) about the image's mean, along each color axis by its own log-uniform factor.

    The axes are the principal ones of natural images: luminance, red-blue, green-magenta (Ohta, Kanade, Sakai, 1980).
    """
    if x.shape[1] == 3:
        axes = F.normalize(_constant((1.0, 1.0, 1.0, 1.0, 0.0, -1.0, 1.0, -2.0, 1.0), x.device).view(3, 3))
    else:
        axes = torch.eye(x.shape[1], device=x.device)
    matrix = axes.T @ (_log_uniform(rng, factors, len(axes))[:, :, None] * axes)  # (B, C, C)
    mean = x.mean((2, 3), keepdim=True)
    return (mean + torch.einsum("bij,bjhw->bihw", matrix, x - mean)).clamp(0, 1)


def change_saturation_value(
    x: Tensor, rng: Rng, power: tuple[float, float], factor: tuple[float, float], offset: float
) -> Tensor:
    """``factor * v ** power + offset`` of saturation and value (HSV) of (B, C, H, W) in [0, 1]; grey pixels stay grey."""
    shape = (2, 1, 1, 1)  # saturation, value
    powers, factors = (_log_uniform(rng, between, 2).reshape(-1, *shape) for between in (power, factor))
    offsets = rng.uniform(*shape, low=-offset, high=offset)
    largest, smallest = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = largest - smallest
    both = torch.stack([chroma / largest.clamp(min=1e-6), largest], dim=1)
    saturation, value = (factors * both.clamp(min=1e-6) ** powers + offsets).clamp(0, 1).unbind(1)
    share = torch.where(chroma > 0, (x - smallest) / chroma.clamp(min=1e-6), 1.0)  # 0 in the smallest channel, 1 in the largest
    return value * (1 - saturation * (1 - share))


def _log_uniform(rng: Rng, between: tuple[float, float], count: int) -> Tensor:
    return rng.uniform(count, low=math.log(between[0]), high=math.log(between[1])).exp()


def _factor(u: Tensor, strength: float, on: Tensor) -> Tensor:
    """Factors uniform in 1 +- strength, not below 0; 1 where not ``on``."""
    low = max(0.0, 1 - strength)
    return torch.where(on, low + (1 + strength - low) * u, 1.0)


def _luma(x: Tensor) -> Tensor:
    """(B, 3, ...) -> (B, 1, ...); one channel stays as it is."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.chunk(3, 1)
    return torch.mul(red, _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _chunks(x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of a few images at a time on a CPU, of the whole batch elsewhere."""
    rows = max(1, _CHUNK // x[0].numel()) if x.device.type == "cpu" else len(x)
    return zip(*(torch.split(t, rows) for t in (x, *others)), strict=True)


def _rotate_hue_(x: Tensor, shift: Tensor) -> None:
    """Rotate the hue of (B, 3, H, W) in [0, 1] by ``shift`` (B, 1, 1, 1) turns, in place.

    In HSV a rotation keeps the largest and the smallest value of a pixel; between them each channel is a trapezoid of
    the distance between its own hue and the pixel's, so no case distinction and no gather is needed on the way back.
    """
    red, green, blue = x.chunk(3, 1)
    largest = torch.maximum(red, green)
    smallest = torch.minimum(red, green)
    torch.maximum(largest, blue, out=largest)
    torch.minimum(smallest, blue, out=smallest)
    chroma = largest - smallest
    sixths = torch.where(
        largest == red,
        green - blue,
        torch.where(largest == green, (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4)),
    )
    hue = sixths.div_(chroma.clamp(min=1e-12).mul_(6)).add_(shift)
    # Distance of hue in turns from the opposite of red, green and blue: 0 there, 0.5 at the color itself.
    opposite = _constant((0.5, -1 / 6, 1 / 6), x.device)[:, None, None]
    torch.add(hue, 2.0 - opposite + 0.5, out=x).frac_().sub_(0.5).abs_().clamp_(1 / 6, 1 / 3)
    torch.addcmul(largest - 2 * chroma, chroma.mul_(6), x, out=x)


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The values as float32 on the device, uploaded once: an upload waits for everything queued on a GPU."""
    return torch.tensor(values, dtype=torch.float32, device=device)
