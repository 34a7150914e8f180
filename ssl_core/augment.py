"""Random views of images: batched on the device, every parameter drawn per image.

A random-resized crop with its flip is two batched matrix products with antialiased interpolation weights, a blur is two
more with banded matrices, and the color operations are a few pointwise passes over the batch. Each function matches its
torchvision counterpart image by image, to rounding.

The order is fixed: crop and flip; brightness, contrast, saturation, hue; grayscale; blur; solarize; normalize.
torchvision draws the order of the four color operations per image; a fixed one needs a quarter of the passes.

Images enter as uint8 or as float in [0, 1] and leave as float32 in [0, 1] unless a function says otherwise. All
randomness comes from the ``Rng``, keyed by image, so a view does not depend on the rest of the batch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_core.rng import Rng

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as in Pillow and torchvision
_RATIO = (
    3 / 4,
    4 / 3,
)  # aspect ratios of a crop; the Inception recipe, used by every published method here
_TRIES = 10  # candidates per crop before the centre crop, as in torchvision
_CHUNK = (
    1 << 18
)  # values of a color pass on a CPU: the handful of arrays of one chunk stay in its cache

Filter = Literal["area", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class AugmentConfig:
    """The recipe of one random view."""

    view_size: int | None
    """Side of a view in pixels; None is the image's own. Training on smaller views than the encoder is used on costs less
    and makes up for the crops magnifying things (Touvron et al., arXiv 1906.06423)."""
    crop_scale: tuple[float, float]
    """Smallest and largest share of the image's area in a crop."""
    flip: float
    """Probability of a horizontal flip."""
    jitter: float
    """Probability that the four color changes below are made."""
    brightness: float
    """Factor within 1 +- this."""
    contrast: float
    """Factor within 1 +- this."""
    saturation: float
    """Factor within 1 +- this. No effect on grey images."""
    hue: float
    """Rotation within +- this share of the color circle, at most 0.5. No effect on grey images."""
    grayscale: float
    """Probability of dropping all color."""
    blur: float
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float]
    """Smallest and largest standard deviation of the blur in pixels."""
    solarize: float
    """Probability of inverting the bright half of the values."""


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
        images: (B, C, H, W) uint8, or float in [0, 1].
        mean, std: per channel, of pixels in [0, 1].
        size: side of the view instead of ``config.view_size``.

    Returns:
        (B, C, size, size) float32, normalized.
    """
    x = resized_crop(
        images, rng, config.crop_scale, size or config.view_size or images.shape[-2], config.flip
    )
    x = color_jitter(x, rng, config)
    x = random_grayscale(x, rng, config.grayscale)
    x = gaussian_blur(x, rng, config.blur, config.blur_sigma)
    x = solarize(x, rng, config.solarize)
    return normalize(x, mean, std)


def to_unit(images: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]; float input only changes its type."""
    x = images.to(torch.float32)
    return x.mul_(1 / 255) if images.dtype == torch.uint8 else x


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


# --- geometry ---------------------------------------------------------------------------------------------------------


def resized_crop(
    x: Tensor, rng: Rng, scale: tuple[float, float], size: int, flip: float
) -> Tensor:
    """Random crop of ``scale`` of the area and 3/4 to 4/3 in aspect, resized and perhaps flipped (arXiv 1409.4842).

    The distribution is that of torchvision's ``RandomResizedCrop``; the filter is its antialiased bilinear one.

    Args:
        x: (B, C, H, W).
        scale: smallest and largest share of the area.
        flip: probability of a horizontal flip.

    Returns:
        (B, C, size, size).
    """
    height, width = x.shape[-2:]
    top, left, crop_height, crop_width, flipped = _crop_boxes(
        rng, height, width, scale, flip
    )
    rows = _resize_matrix(top, crop_height, height, size)
    columns = _resize_matrix(left, crop_width, width, size, flipped)
    if x.dtype == torch.uint8:
        rows = rows.mul_(1 / 255)
    return _separable(x, rows, columns)


def padded_crop(x: Tensor, rng: Rng, padding: int, flip: float) -> Tensor:
    """Reflect-pad by ``padding`` < min(H, W) pixels, cut a random window of the old size, perhaps flip it.

    Args:
        x: (B, C, H, W).

    Returns:
        (B, C, H, W).
    """
    height, width = x.shape[-2:]
    u = rng.uniform(3)
    rows = _window(u[:, 0], -padding, height + 2 * padding, height)
    columns = _flipped(
        _window(u[:, 1], -padding, width + 2 * padding, width), u[:, 2] < flip
    )
    return _take(x, _reflect(rows, height), _reflect(columns, width))


def random_crop(x: Tensor, rng: Rng, size: int, flip: float) -> Tensor:
    """A random ``size`` x ``size`` window of (B, C, H, W), perhaps flipped -> (B, C, size, size)."""
    u = rng.uniform(3)
    columns = _flipped(_window(u[:, 1], 0, x.shape[-1], size), u[:, 2] < flip)
    return _take(x, _window(u[:, 0], 0, x.shape[-2], size), columns)


def resize(x: Tensor, size: int, filter: Filter = "bilinear") -> Tensor:
    """All of (B, C, H, W) resized to (B, C, size, size) with Pillow's antialiased filters.

    ``bicubic`` and ``lanczos`` overshoot at edges, so values may leave [0, 1] a little.
    """
    x = to_unit(x)
    rows, columns = (
        _resize_matrix(x.new_zeros(1), x.new_full((1,), n), n, size, filter=filter)
        for n in (x.shape[-2], x.shape[-1])
    )
    return _separable(x, rows, columns)


def warp(
    x: Tensor, rng: Rng, degrees: float, scale: tuple[float, float], translate: float
) -> Tensor:
    """Random rotation, scaling and shift about the centre of (B, C, H, W); mirrored at the edges.

    Args:
        degrees: rotation within +- this.
        scale: smallest and largest magnification.
        translate: shift within +- this share of the side, on each axis.
    """
    u = rng.uniform(4)
    angle = (2 * u[:, 0] - 1) * math.radians(degrees)
    magnification = scale[0] + (scale[1] - scale[0]) * u[:, 1]
    shift = (2 * u[:, 2:] - 1) * (2 * translate)  # grid_sample counts the side as 2
    cos, sin = angle.cos() / magnification, angle.sin() / magnification
    aspect = x.shape[-2] / x.shape[-1]
    # The inverse map: where each output pixel comes from.
    inverse = torch.stack(
        [torch.stack([cos, sin * aspect], 1), torch.stack([-sin / aspect, cos], 1)], 1
    )
    theta = torch.cat([inverse, -inverse @ shift[:, :, None]], 2)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(
        to_unit(x),
        grid,
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )


def _crop_boxes(
    rng: Rng, height: int, width: int, scale: tuple[float, float], flip: float
) -> tuple[Tensor, ...]:
    """(top, left, height, width) in pixels as float32, and the flips as bool; each (B,)."""
    u = rng.uniform(2 * _TRIES + 3)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[:, :_TRIES])
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    ratio = torch.exp(low + (high - low) * u[:, _TRIES : 2 * _TRIES])
    widths, heights = (
        torch.sqrt(area * ratio).round_(),
        torch.sqrt(area / ratio).round_(),
    )
    valid = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = valid.to(torch.uint8).argmax(1, keepdim=True)
    found = valid.any(1)
    centre_width = min(width, round(height * _RATIO[1]))
    centre_height = min(height, round(width / _RATIO[0]))
    crop_width = torch.where(found, widths.gather(1, first)[:, 0], centre_width)
    crop_height = torch.where(found, heights.gather(1, first)[:, 0], centre_height)
    top = torch.where(
        found,
        (u[:, -3] * (height - crop_height + 1)).floor(),
        (height - centre_height) // 2,
    )
    left = torch.where(
        found,
        (u[:, -2] * (width - crop_width + 1)).floor(),
        (width - centre_width) // 2,
    )
    return top, left, crop_height, crop_width, u[:, -1] < flip


def _resize_matrix(
    start: Tensor,
    length: Tensor,
    n_in: int,
    n_out: int,
    flip: Tensor | None = None,
    filter: Filter = "bilinear",
) -> Tensor:
    """(B, n_out, n_in) weights that resize ``[start, start + length)`` of a line of ``n_in`` pixels to ``n_out``.

    Pillow's rule: pixel centres at half integers, the filter widened by the scale when shrinking, pixels outside the
    crop left out, weights normalized to sum 1.
    """
    scale = length / n_out
    width = scale.clamp(min=1.0)[:, None]
    target = torch.arange(n_out, device=start.device).expand(len(start), -1)
    centre = (_flipped(target, flip) + 0.5) * scale[:, None]
    source = torch.arange(n_in, device=start.device) + 0.5 - start[:, None]
    source = source.masked_fill(
        (source < 0) | (source > length[:, None]), torch.inf
    )  # infinitely far: no weight
    weights = _kernel(
        (source / width)[:, None, :] - (centre / width)[:, :, None], filter
    )
    return weights.div_(weights.sum(-1, keepdim=True))


def _kernel(t: Tensor, filter: Filter) -> Tensor:
    """Weight at distance ``t`` (overwritten) from the centre of a filter of unit scale; 0 far away."""
    if filter == "bilinear":
        return t.abs_().neg_().add_(1).clamp_(min=0)
    if filter == "area":
        return ((t > -0.5) & (t <= 0.5)).float()
    t = t.abs_().clamp_(max=3)
    if filter == "lanczos":
        return torch.sinc(t) * torch.sinc(t / 3) * (t < 3)
    a = -0.5  # Keys' cubic as in Pillow and in torch's antialiased one
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = (((t - 5) * t + 8) * t - 4) * a
    return torch.where(t < 1, near, torch.where(t < 2, far, 0.0))


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows @ image @ columns.T`` for every channel of (B, C, H, W), in float32 also where autocast is on."""
    b, c, h, w = x.shape
    with torch.autocast(x.device.type, enabled=False):
        lines = x.to(torch.float32).reshape(b, c * h, w)
        lines = torch.matmul(lines, columns.transpose(1, 2)).reshape(b, c, h, -1)
        return torch.matmul(rows[:, None], lines)


def _window(u: Tensor, low: int, length: int, size: int) -> Tensor:
    """(B, size) consecutive positions inside ``[low, low + length)``, placed by ``u`` (B,) in [0, 1)."""
    start = low + (u * (length - size + 1)).floor().to(torch.int64)
    return start[:, None] + torch.arange(size, device=u.device)


def _flipped(positions: Tensor, flip: Tensor | None) -> Tensor:
    """Rows of (B, n) reversed where ``flip`` (B,) is true."""
    return (
        positions
        if flip is None
        else torch.where(flip[:, None], positions.flip(1), positions)
    )


def _reflect(positions: Tensor, length: int) -> Tensor:
    """Positions up to ``length - 1`` outside a line, mirrored into it without repeating the edge pixel."""
    positions = positions.abs()
    return torch.minimum(positions, 2 * (length - 1) - positions)


def _take(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels of (B, C, H, W) at ``rows`` (B, h) and ``columns`` (B, w) -> (B, C, h, w) in [0, 1]."""
    index = (rows[:, :, None] * x.shape[-1] + columns[:, None, :]).flatten(1)
    taken = x.flatten(2).gather(2, index[:, None].expand(-1, x.shape[1], -1))
    return to_unit(taken).reshape(*x.shape[:2], rows.shape[1], columns.shape[1])


# --- color ------------------------------------------------------------------------------------------------------------


def color_jitter(x: Tensor, rng: Rng, config: AugmentConfig) -> Tensor:
    """Brightness, contrast, saturation and hue changes, in this order, on a share ``config.jitter`` of the images.

    Grey images (C = 1) get brightness and contrast.
    """
    x = to_unit(x)
    if config.jitter == 0:
        return x
    u = rng.uniform(5)[..., None, None, None]
    on = u[:, 0] < config.jitter
    x = torch.mul(x, _factor(u[:, 1], config.brightness, on)).clamp_(
        max=1
    )  # a new tensor: in place from here on
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


def random_grayscale(x: Tensor, rng: Rng, p: float) -> Tensor:
    """A share ``p`` of the images becomes grey in all channels; grey images stay as they are."""
    x = to_unit(x)
    if p == 0 or x.shape[1] == 1:
        return x
    return torch.where(rng.bernoulli(p, 1, 1, 1), _luma(x), x)


def solarize(x: Tensor, rng: Rng, p: float) -> Tensor:
    """In a share ``p`` of the images, values from 0.5 up are inverted."""
    x = to_unit(x)
    if p == 0:
        return x
    return torch.where(rng.bernoulli(p, 1, 1, 1) & (x >= 0.5), 1 - x, x)


def gaussian_blur(x: Tensor, rng: Rng, p: float, sigma: tuple[float, float]) -> Tensor:
    """Gaussian blur of a share ``p`` of the images (B, C, H, W), reflected at the edges.

    Args:
        sigma: smallest and largest standard deviation in pixels. The kernel reaches three times the largest one.
    """
    x = to_unit(x)
    if p == 0:
        return x
    u = rng.uniform(2)
    deviation = sigma[0] + (sigma[1] - sigma[0]) * u[:, 0]
    radius = min(math.ceil(3 * sigma[1]), min(x.shape[-2:]) - 1)
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / deviation[:, None]) ** 2)
    kernel = torch.where(
        u[:, 1:] < p, kernel / kernel.sum(1, keepdim=True), (offsets == 0).float()
    )
    rows, columns = (_banded(kernel, offsets, n) for n in x.shape[-2:])
    return _separable(x, rows, columns)


def drop_channels(x: Tensor, rng: Rng, noise: float) -> Tensor:
    """Keep one random channel of each image, or tile, of (B, ..., C, h, w); Gaussian noise in the others.

    The guard of context prediction against chromatic aberration (arXiv 1505.05192). The noise has the kept channel's
    mean and ``noise`` times its standard deviation. Grey images stay as they are.
    """
    x = to_unit(x)
    channels = x.shape[-3]
    if channels == 1:
        return x
    kept = rng.integers(channels, *x.shape[1:-3])[..., None, None, None]
    channel = x.gather(-3, kept.expand(*x.shape[:-3], 1, *x.shape[-2:]))
    deviation, mean = torch.std_mean(channel, dim=(-2, -1), keepdim=True)
    here = torch.arange(channels, device=x.device)[:, None, None] == kept
    return torch.where(here, x, mean + noise * deviation * rng.normal(*x.shape[1:]))


def _factor(u: Tensor, strength: float, on: Tensor) -> Tensor:
    """Factors uniform in 1 +- strength, not below 0; 1 where not ``on``."""
    low = max(0.0, 1 - strength)
    return torch.where(on, low + (1 + strength - low) * u, 1.0)


def _luma(x: Tensor) -> Tensor:
    """(B, 3, ...) -> (B, 1, ...); one channel stays as it is."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.split(1, 1)
    return (
        torch.mul(red, _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])
    )


def _chunks(x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of a few images at a time on a CPU, of the whole batch elsewhere."""
    rows = max(1, _CHUNK // x[0].numel()) if x.device.type == "cpu" else len(x)
    return zip(*(t.split(rows) for t in (x, *others)), strict=True)


def _rotate_hue_(x: Tensor, shift: Tensor) -> None:
    """Rotate the hue of (B, 3, H, W) in [0, 1] by ``shift`` (B, 1, 1, 1) turns, in place.

    In HSV a rotation keeps the largest and the smallest value of a pixel; between them each channel is a trapezoid of
    the distance between its own hue and the pixel's, so no case distinction and no gather is needed on the way back.
    """
    red, green, blue = x.split(1, 1)
    largest = torch.maximum(red, green)
    smallest = torch.minimum(red, green)
    torch.maximum(largest, blue, out=largest)
    torch.minimum(smallest, blue, out=smallest)
    chroma = largest - smallest
    sixths = torch.where(
        largest == red,
        green - blue,
        torch.where(
            largest == green,
            (blue - red).add_(chroma, alpha=2),
            (red - green).add_(chroma, alpha=4),
        ),
    )
    hue = sixths.div_(chroma.clamp(min=1e-12).mul_(6)).add_(shift)
    # Distance of hue in turns from the opposite of red, green and blue: 0 there, 0.5 at the color itself.
    opposite = _constant((0.5, -1 / 6, 1 / 6), x.device)[:, None, None]
    torch.add(hue, 2.0 - opposite + 0.5, out=x).frac_().sub_(0.5).abs_().clamp_(
        1 / 6, 1 / 3
    )
    torch.addcmul(largest - 2 * chroma, chroma.mul_(6), x, out=x)


def _banded(kernel: Tensor, offsets: Tensor, n: int) -> Tensor:
    """(B, n, n) matrices that filter a line of ``n`` pixels with ``kernel`` (B, k), reflected at its ends."""
    source = _reflect(torch.arange(n, device=kernel.device)[:, None] + offsets, n)
    places = F.one_hot(source.T, n).to(kernel.dtype)  # (k, n, n)
    with torch.autocast(kernel.device.type, enabled=False):
        return (kernel @ places.flatten(1)).reshape(-1, n, n)


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The values as float32 on the device, uploaded once: an upload waits for everything queued on a GPU."""
    return torch.tensor(values, dtype=torch.float32, device=device)
