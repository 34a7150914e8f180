"""A picture of what a method sees: its views of a few training images."""

import io

import torch
from PIL import Image
from torch import Tensor

from ssl_core.engine.augment import to_unit
from ssl_core.engine.data import Images
from ssl_core.engine.method import DataInfo, Method
from ssl_core.rng import Rng

SHEET_IMAGES = 8


def view_sheet(method: Method, images: Images) -> bytes:
    """PNG of what the method sees of the first images: one row per view, one column per image."""
    ids = torch.arange(min(SHEET_IMAGES, len(images)), device=images.device)
    with torch.no_grad():
        batch = method.seen(images.batch(ids))
        views = method.views(batch, Rng(ids, 0))
        if not any(len(v) == len(ids) for v in views):  # of a part of a batch only: one image at a time then
            alone = [method.views(batch[i : i + 1], Rng(ids[i : i + 1], 0)) for i in range(len(ids))]
            views = tuple(map(torch.cat, zip(*alone, strict=True)))
    rows = [_as_pictures(v, method.data) for v in views if v.is_floating_point() and v.ndim >= 4 and len(v) == len(ids)]
    seen = slice(3 if method.data.channels >= 3 else 1)  # of more bands, the first three as color
    pixels = _sheet([row[:, seen] for row in (to_unit(batch).cpu(), *rows)]).permute(1, 2, 0).numpy()
    out = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(out, format="PNG")
    return out.getvalue()


def _as_pictures(view: Tensor, data: DataInfo) -> Tensor:
    """(B, ..., C, h, w) normalized -> (B, C, h', w') in [0, 1]; tiles are laid out in a near-square grid."""
    tiles = view.detach().float().cpu().flatten(1, -4) if view.ndim > 4 else view.detach().float().cpu()[:, None]
    b, t, c, h, w = tiles.shape
    side = max(1, round(t**0.5))
    rows = -(-t // side)
    grid = tiles.new_full((b, rows * side, c, h + 1, w + 1), float("nan"))
    grid[:, :t, :, :h, :w] = tiles
    grid = grid.view(b, rows, side, c, h + 1, w + 1).permute(0, 3, 1, 4, 2, 5).reshape(b, c, rows * (h + 1), side * (w + 1))
    mean, std = (torch.tensor(x).view(1, -1, 1, 1) for x in (data.mean, data.std))
    return (grid * std + mean).nan_to_num(1.0).clamp(0, 1)


def _sheet(rows: list[Tensor], size: int = 64, gap: int = 4) -> Tensor:
    """Rows of pictures of any size -> one (C, H, W) uint8 sheet with white gaps."""
    cell = size + gap
    out = torch.ones(rows[0].shape[1], len(rows) * cell + gap, len(rows[0]) * cell + gap)
    for y, pictures in enumerate(rows):
        shown = torch.nn.functional.interpolate(pictures, (size, size), mode="nearest")
        for x, picture in enumerate(shown):
            top, left = gap + y * cell, gap + x * cell
            out[:, top : top + size, left : left + size] = picture
    return (out * 255).round().to(torch.uint8)
