import hashlib
import itertools
import time

import pytest
import torch

from ssl_core.engine.method import Batch
from ssl_core.parts.patches import grid_geometry, overlapping_patches, permutation_set, tiles
from ssl_core.rng import Rng
from tests.ssl_core.engine.test_contract import build

SIDES = (28, 32, 64, 96, 224)


def coordinates(batch: int, side: int) -> torch.Tensor:
    """Images whose two channels hold the row and the column of each pixel."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([row, column]).expand(batch, -1, -1, -1)


@pytest.mark.parametrize(
    ("side", "grid", "expected"),
    [(32, 2, (32, 16, 12)), (32, 3, (30, 10, 8)), (28, 3, (27, 9, 6)), (96, 3, (96, 32, 24)), (128, 3, (126, 42, 32))],
)
def test_geometry_of_the_usual_sizes(side, grid, expected):
    assert grid_geometry(side, grid) == expected


@pytest.mark.parametrize("grid", [2, 3, 4])
def test_a_tile_is_even_and_leaves_a_gap_at_every_image_size(grid):
    for side in range(3 * grid, 300):
        crop, cell, tile = grid_geometry(side, grid)
        assert 0 < tile < cell and tile % 2 == 0 and side - grid < crop <= side


def test_an_image_too_small_for_a_grid_is_refused():
    with pytest.raises(ValueError, match="8 px is too small for a 3 x 3 grid"):
        grid_geometry(8, 3)


@pytest.mark.parametrize("grid", [2, 3])
@pytest.mark.parametrize("side", SIDES)
def test_tiles_lie_inside_the_image_in_order_and_never_overlap(side, grid):
    draws = 1000
    tile = grid_geometry(side, grid).tile
    cut = tiles(coordinates(draws, side).to(torch.int16), Rng(torch.arange(draws), 7), grid)
    assert cut.shape == (draws, grid * grid, 2, tile, tile)
    top, left = cut[:, :, 0, 0, 0].long(), cut[:, :, 1, 0, 0].long()
    step = torch.arange(tile)
    assert (cut[:, :, 0] == (top[..., None] + step)[..., :, None]).all()  # whole rectangles of pixels of one image,
    assert (cut[:, :, 1] == (left[..., None] + step)[..., None, :]).all()  # so inside it
    for a, b in itertools.combinations(range(grid * grid), 2):
        apart = torch.maximum((top[:, a] - top[:, b]).abs(), (left[:, a] - left[:, b]).abs())
        assert apart.min() >= tile
    place = torch.stack([top, left], -1).double().mean(0).reshape(grid, grid, 2)
    assert (place[1:, :, 0] > place[:-1, :, 0]).all() and (place[:, 1:, 1] > place[:, :-1, 1]).all()


def test_every_tile_moves_by_itself_over_all_its_room():
    top = tiles(coordinates(1000, 32), Rng(torch.arange(1000), 7), 3)[:, :, 0, 0, 0]
    for index in range(9):
        row = 10 * (index // 3)
        assert top[:, index].unique().tolist() == list(range(row, row + 5))  # crop 0-2, then 0-2 inside the cell
    assert (top[:, 0] != top[:, 1]).float().mean() > 0.5


def test_the_tiles_of_an_image_do_not_depend_on_its_batch():
    x = torch.rand(8, 3, 32, 32)
    whole = tiles(x, Rng(torch.arange(8), 1), 3)
    torch.testing.assert_close(tiles(x[[5, 2]], Rng(torch.tensor([5, 2]), 1), 3), whole[[5, 2]], rtol=0, atol=0)


def test_overlapping_patches_are_windows_at_the_stride():
    x = torch.rand(2, 3, 32, 32)
    patches = overlapping_patches(x, 8, 4)
    assert patches.shape == (2, 7, 7, 3, 8, 8)
    for i, j in itertools.product(range(7), range(7)):
        assert torch.equal(patches[:, i, j], x[:, :, 4 * i : 4 * i + 8, 4 * j : 4 * j + 8])


@pytest.mark.parametrize(
    ("n", "size", "smallest", "mean", "digest"),
    [
        (9, 9, 9, 9.0, ""),
        (9, 24, 7, 8.141304, "1c7f5ba5fc527781"),
        (9, 64, 7, 7.985615, ""),
        (9, 100, 6, 8.026869, "8da53109d07f3039"),
        (9, 200, 6, 7.908141, ""),
        (4, 4, 4, 4.0, ""),
        (4, 8, 3, 3.285714, ""),
        (4, 24, 2, 3.130435, ""),
    ],
)
def test_permutation_sets_are_the_greedy_ones(n, size, smallest, mean, digest):
    chosen = permutation_set(n, size)
    assert chosen.shape == (size, n) and chosen.dtype == torch.int64
    assert torch.equal(chosen.sort(1).values, torch.arange(n).expand(size, n))
    assert torch.equal(chosen[0], torch.arange(n))
    distance = (chosen[:, None] != chosen[None]).sum(-1)[tuple(torch.triu_indices(size, size, 1))]
    assert int(distance.min()) == smallest
    assert float(distance.double().mean()) == pytest.approx(mean, abs=5e-7)
    assert hashlib.sha256(chosen.to(torch.uint8).numpy().tobytes()).hexdigest().startswith(digest)


def test_permutation_set_follows_its_definition_step_by_step():
    candidates = list(itertools.permutations(range(4)))
    chosen = [candidates[0]]
    while len(chosen) < 24:
        rest = [c for c in candidates if c not in chosen]
        chosen.append(max(rest, key=lambda c: min(sum(a != b for a, b in zip(c, d, strict=True)) for d in chosen)))
    assert permutation_set(4, 24).tolist() == [list(c) for c in chosen]


def test_a_set_of_a_hundred_is_quick():
    start = time.process_time()
    permutation_set(9, 100)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(("n", "size"), [(3, 7), (3, 0), (16, 24)])
def test_an_impossible_permutation_set_is_refused(n, size):
    with pytest.raises(ValueError, match="no set of"):
        permutation_set(n, size)


@pytest.mark.parametrize("name", ["context", "jigsaw"])
def test_all_tiles_of_a_batch_share_one_forward_pass(shipped, name):
    """Positions with batch statistics of their own would give themselves away."""
    method, trainer = build(shipped, name)
    ids = torch.arange(8)
    method.loss(Batch(method.views(trainer.images.batch(ids), Rng(ids, 0)), ids, 0.0))
    assert int(method.encoder.stem[1].num_batches_tracked) == 1
