"""Cutting images into tiles and patches, and the permutations of jigsaw puzzles."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_core.config import ConfigError
from ssl_core.rng import Rng

_MAX_PERMUTED = 9  # all n! candidates are looked at: 9! x 9 bytes is 3 MB, 16! would be 335 TB


class Geometry(NamedTuple):
    """How a square image is cut into a grid of tiles; sides in pixels."""

    crop: int
    """Window of the image that is used: ``grid`` whole cells."""
    cell: int
    """Side of a cell."""
    tile: int
    """Side of the tile that lies somewhere inside each cell."""


def grid_geometry(image_size: int, grid: int) -> Geometry:
    """The one rule for every image size.

    A cell is ``image_size // grid``; a tile is the even number nearest to three quarters of it. The rest of the cell,
    always at least one pixel, is where the tile may move: it makes gaps between tiles, so that a task is seldom solved
    by continuing lines across a cut or by counting pixels (arXiv 1505.05192, 1603.09246). Of neighbors at grid 2 of 28 px
    the gap is 4 px on average, and none for one pair in 25.

    =====  ========  ========
    image  grid 2    grid 3
    =====  ========  ========
    28     14 / 10   9 / 6
    32     16 / 12   10 / 8
    64     32 / 24   21 / 16
    96     48 / 36   32 / 24
    224    112 / 84  74 / 56
    =====  ========  ========

    (cell / tile)

    Raises:
        ValueError: a cell of less than three pixels has no room for a tile and a gap.
    """
    cell = image_size // grid
    if cell < 3:
        raise ConfigError(f"an image of {image_size} px is too small for a {grid} x {grid} grid of tiles")
    return Geometry(cell * grid, cell, 2 * math.ceil(0.375 * cell - 0.5))  # half down: round() would fill a cell of 4


def tiles(x: Tensor, rng: Rng, grid: int) -> Tensor:
    """One randomly placed tile from each cell of a randomly placed grid, all of it drawn per image.

    Args:
        x: (B, C, S, S), any type.

    Returns:
        (B, grid * grid, C, tile, tile), row by row; tiles of an image never overlap. See ``grid_geometry``.
    """
    (b, c, side, _), (crop, cell, tile) = x.shape, grid_geometry(x.shape[-1], grid)
    corner = rng.integers(side - crop + 1, 2, 1)
    inside = rng.integers(cell - tile + 1, 2, grid * grid)
    index = torch.arange(grid, device=x.device) * cell
    top, left = (corner + inside + torch.cartesian_prod(index, index).T).unbind(1)  # (B, T) each
    step = torch.arange(tile, device=x.device)
    rows, columns = top[..., None] + step, left[..., None] + step  # (B, T, tile)
    pixels = (rows[..., :, None] * side + columns[..., None, :]).reshape(b, 1, -1)
    cut = x.flatten(2).gather(2, pixels.expand(-1, c, -1))
    return cut.reshape(b, c, grid * grid, tile, tile).transpose(1, 2)


def overlapping_patches(x: Tensor, size: int, stride: int) -> Tensor:
    """Every ``size`` x ``size`` window at steps of ``stride``: (B, C, H, W) -> (B, rows, columns, C, size, size).

    Patch (i, j) is ``x[:, :, i * stride : i * stride + size, j * stride : j * stride + size]``.
    """
    return x.unfold(2, size, stride).unfold(3, size, stride).permute(0, 2, 3, 1, 4, 5)


def permutation_set(n: int, size: int) -> Tensor:
    """``size`` permutations of ``0..n-1`` that are far apart: (size, n) int64.

    Greedy on the smallest Hamming distance to those already chosen, from the identity, ties to the first in
    lexicographic order. arXiv 1603.09246, algorithm 1, is greedy on the sum of the distances instead, and so its sets hold
    pairs that differ by one swap.

    Raises:
        ValueError: there are not that many permutations, or too many to look at.
    """
    if n > _MAX_PERMUTED or not 1 <= size <= math.factorial(n):
        raise ConfigError(f"there is no set of {size} permutations of {n}: at most n!, and n at most {_MAX_PERMUTED}")
    candidates = _all_permutations(n)
    by_slot = candidates.T.contiguous()
    nearest = torch.full((len(candidates),), n + 1, dtype=torch.uint8)
    chosen = [0]
    while len(chosen) < size:
        newest = candidates[chosen[-1]]
        distance = torch.zeros_like(nearest)
        for slot in range(n):
            distance += by_slot[slot] != newest[slot]
        torch.minimum(nearest, distance, out=nearest)
        chosen.append(int(nearest.argmax()))  # the first of equals
    return candidates[chosen].long()


def _all_permutations(n: int) -> Tensor:
    """(n!, n) uint8 in lexicographic order."""
    if n == 1:
        return torch.zeros(1, 1, dtype=torch.uint8)
    rest = _all_permutations(n - 1)
    blocks = [torch.cat([torch.full((len(rest), 1), first), rest + (rest >= first)], 1) for first in range(n)]
    return torch.cat(blocks).to(torch.uint8)
