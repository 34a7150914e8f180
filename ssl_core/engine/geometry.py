"""Where the pixels of random views come from: crops, windows, warps, resizing and blur, drawn per image.

A resize, a random-resized crop with its flip, and a blur are each two batched matrix products, one along the rows and
one along the columns; windows are one gather.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_core.rng import Rng

_RATIO = (3 / 4, 4 / 3)  # aspect ratios of a crop; the Inception recipe, used by every published method here
_TRIES = 10  # candidates per crop before the center crop, as in torchvision

Filter = Literal["area", "bilinear", "bicubic", "lanczos"]


UNIT = {torch.uint8: 1 / 255, torch.uint16: 1 / 65535}
"""What brings whole numbers to [0, 1]."""


def to_unit(images: Tensor) -> Tensor:
    """uint8 or uint16 -> float32 in [0, 1]; float input only changes its type."""
    x = images.to(torch.float32)
    return x.mul_(UNIT[images.dtype]) if images.dtype in UNIT else x


def resized_crop(x: Tensor, rng: Rng, scale: tuple[float, float], size: int, flip: float) -> Tensor:
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
    top, left, crop_height, crop_width, flipped = _crop_boxes(rng, height, width, scale, flip)
    rows = _resize_matrix(top, crop_height, height, size)
    columns = _resize_matrix(left, crop_width, width, size, flipped)
    if x.dtype in UNIT:
        rows = rows.mul_(UNIT[x.dtype])
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
    columns = _flipped(_window(u[:, 1], -padding, width + 2 * padding, width), u[:, 2] < flip)
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
        _resize_matrix(x.new_zeros(1), x.new_full((1,), n), n, size, filter=filter) for n in (x.shape[-2], x.shape[-1])
    )
    return _separable(x, rows, columns)


def at_side(images: Tensor, side: int) -> Tensor:
    """Images (B, C, S, S) as they are where S is ``side``; else ``resize``d to it, float in [0, 1]."""
    return images if images.shape[-1] == side else resize(images, side)


def warp(x: Tensor, rng: Rng, degrees: float, scale: tuple[float, float], translate: float) -> Tensor:
    """Random rotation, scaling and shift about the center of (B, C, H, W); mirrored at the edges.

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
    inverse = torch.stack([torch.stack([cos, sin * aspect], 1), torch.stack([-sin / aspect, cos], 1)], 1)
    theta = torch.cat([inverse, -inverse @ shift[:, :, None]], 2)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(to_unit(x), grid, mode="bilinear", padding_mode="reflection", align_corners=False)


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
    kernel = torch.where(u[:, 1:] < p, kernel / kernel.sum(1, keepdim=True), (offsets == 0).float())
    rows, columns = (_banded(kernel, offsets, n) for n in x.shape[-2:])
    return _separable(x, rows, columns)


def _crop_boxes(rng: Rng, height: int, width: int, scale: tuple[float, float], flip: float) -> tuple[Tensor, ...]:
    """(top, left, height, width) in pixels as float32, and the flips as bool; each (B,)."""
    u = rng.uniform(2 * _TRIES + 3)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[:, :_TRIES])
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    ratio = torch.exp(low + (high - low) * u[:, _TRIES : 2 * _TRIES])
    widths, heights = torch.sqrt(area * ratio).round_(), torch.sqrt(area / ratio).round_()
    valid = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = valid.to(torch.uint8).argmax(1, keepdim=True)
    any_valid = valid.any(1)
    center_width = min(width, round(height * _RATIO[1]))
    center_height = min(height, round(width / _RATIO[0]))
    crop_width = torch.where(any_valid, widths.gather(1, first)[:, 0], center_width)
    crop_height = torch.where(any_valid, heights.gather(1, first)[:, 0], center_height)
    top = torch.where(any_valid, (u[:, -3] * (height - crop_height + 1)).floor(), (height - center_height) // 2)
    left = torch.where(any_valid, (u[:, -2] * (width - crop_width + 1)).floor(), (width - center_width) // 2)
    return top, left, crop_height, crop_width, u[:, -1] < flip


def _resize_matrix(
    start: Tensor, length: Tensor, n_in: int, n_out: int, flip: Tensor | None = None, filter: Filter = "bilinear"
) -> Tensor:
    """(B, n_out, n_in) weights that resize ``[start, start + length)`` of a line of ``n_in`` pixels to ``n_out``.

    Pillow's rule: pixel centers at half integers, the filter widened by the scale when shrinking, pixels outside the
    crop left out, weights normalized to sum 1.
    """
    scale = length / n_out
    width = scale.clamp(min=1.0)[:, None]
    target = torch.arange(n_out, device=start.device).expand(len(start), -1)
    center = (_flipped(target, flip) + 0.5) * scale[:, None]
    source = torch.arange(n_in, device=start.device) + 0.5 - start[:, None]
    source = source.masked_fill((source < 0) | (source > length[:, None]), torch.inf)  # infinitely far: no weight
    weights = _kernel((source / width)[:, None, :] - (center / width)[:, :, None], filter)
    return weights.div_(weights.sum(-1, keepdim=True))


def _kernel(t: Tensor, filter: Filter) -> Tensor:
    """Weight at distance ``t`` (overwritten) from the center of a filter of unit scale; 0 far away."""
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
    return positions if flip is None else torch.where(flip[:, None], positions.flip(1), positions)


def _reflect(positions: Tensor, length: int) -> Tensor:
    """Positions up to ``length - 1`` outside a line, mirrored into it without repeating the edge pixel."""
    positions = positions.abs()
    return torch.minimum(positions, 2 * (length - 1) - positions)


def _take(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels of (B, C, H, W) at ``rows`` (B, h) and ``columns`` (B, w) -> (B, C, h, w) in [0, 1]."""
    index = (rows[:, :, None] * x.shape[-1] + columns[:, None, :]).flatten(1)
    flat = x.flatten(2)
    wide = flat.view(torch.int16) if x.dtype == torch.uint16 else flat  # the same bits, of a type that GPUs gather
    taken = wide.gather(2, index[:, None].expand(-1, x.shape[1], -1)).view(x.dtype)
    return to_unit(taken).reshape(*x.shape[:2], rows.shape[1], columns.shape[1])


def _banded(kernel: Tensor, offsets: Tensor, n: int) -> Tensor:
    """(B, n, n) matrices that filter a line of ``n`` pixels with ``kernel`` (B, k), reflected at its ends."""
    source = _reflect(torch.arange(n, device=kernel.device)[:, None] + offsets, n)
    places = F.one_hot(source.T, n).to(kernel.dtype)  # (k, n, n)
    with torch.autocast(kernel.device.type, enabled=False):
        return (kernel @ places.flatten(1)).reshape(-1, n, n)
