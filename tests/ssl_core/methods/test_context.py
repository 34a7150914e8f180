"""Context prediction: the geometry of its labels, its guards against shortcuts, and the loss."""

import dataclasses
import itertools

import pytest
import torch

from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.context import OFFSETS, Context, ContextConfig, neighbor_pairs, project_colors
from ssl_core.rng import Rng
from tests.support.configs import AUGMENT, encoder_of

CONFIG = ContextConfig(grid=3, tile_size=0, color="drop", color_noise=0.01, pixelate=0.5, hidden=16)
IDS = torch.arange(6)


def make(side: int = 28, channels: int = 1, flip: float = 0.5, **changes: object) -> Context:
    torch.manual_seed(0)
    encoder = encoder_of(channels, side)
    data = DataInfo(64, side, channels, (0.5,) * channels, (0.25,) * channels)
    return Context(encoder, dataclasses.replace(CONFIG, **changes), dataclasses.replace(AUGMENT, flip=flip), data)


def images(side: int = 28, channels: int = 1) -> torch.Tensor:
    return torch.randint(
        0, 256, (len(IDS), channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@pytest.mark.parametrize(("grid", "count"), [(2, 12), (3, 40)])
def test_pairs_are_all_neighbors_and_nothing_else(grid: int, count: int) -> None:
    first, second, direction = neighbor_pairs(grid)
    assert len(first) == count == len(set(zip(first.tolist(), second.tolist(), strict=True)))
    for a, b, y in zip(first.tolist(), second.tolist(), direction.tolist(), strict=True):
        assert (b // grid - a // grid, b % grid - a % grid) == OFFSETS[y]


def test_the_center_of_nine_has_each_direction_once() -> None:
    first, second, direction = neighbor_pairs(3)
    assert direction[first == 4].tolist() == list(range(8))
    assert second[first == 4].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]


def test_swapping_the_two_tiles_turns_direction_y_into_7_minus_y() -> None:
    known = {(a, b): y for a, b, y in torch.stack(neighbor_pairs(3), 1).tolist()}
    assert all(known[b, a] == 7 - y for (a, b), y in known.items())


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_labels_agree_with_where_the_tiles_come_from(flip: float) -> None:
    """An image whose pixels hold their own row, another its column: the tiles' means give their true offset.

    A flip comes before the cut, so that labels are those of the flipped image: its columns run the other way.
    """
    side = 32
    ramp = (torch.arange(side, dtype=torch.uint8) * 8)[None, None]
    rows, columns = ramp[..., None].expand(6, 1, side, side), ramp[:, :, None].expand(6, 1, side, side)
    method, seen = make(side, flip=flip, pixelate=0.0), []
    for image in (rows, columns):
        cut = _raw_tiles(method, image, Rng(IDS, 3))
        seen.append(cut.mean((2, 3, 4)) * 255 / 8)
    first, second, direction = neighbor_pairs(3)
    for k, (dr, dc) in enumerate(OFFSETS):
        pairs = direction == k
        for means, sign in zip(seen, (dr, -dc if flip else dc), strict=True):
            offset = means[:, second[pairs]] - means[:, first[pairs]]
            assert torch.equal(torch.where(offset.abs() > 4, offset.sign(), 0).unique(), torch.tensor([float(sign)]))


def _raw_tiles(method: Context, image: torch.Tensor, rng: Rng) -> torch.Tensor:
    """The tiles before they are standardized."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssl_core.methods.context.standardize", lambda x: x)
        return method.views(image, rng)[0]


@pytest.mark.parametrize(("side", "channels", "tile"), [(28, 1, 6), (32, 3, 8), (64, 3, 16), (96, 3, 24), (224, 3, 56)])
def test_views_are_standardized_tiles_at_any_size(side: int, channels: int, tile: int) -> None:
    (cut,) = make(side, channels).views(images(side, channels), Rng(IDS, 0))
    assert cut.shape == (6, 9, channels, tile, tile)
    assert cut.mean((2, 3, 4)).abs().max() < 1e-4
    assert (cut.var((2, 3, 4), correction=0) - 1).abs().max() < 0.02


def test_small_tiles_are_enlarged_for_the_encoder() -> None:
    (cut,) = make(tile_size=16).views(images(), Rng(IDS, 0))
    assert cut.shape == (6, 9, 1, 16, 16)
    (cut,) = make(96, tile_size=16).views(images(96), Rng(IDS, 0))
    assert cut.shape == (6, 9, 1, 24, 24)


def test_color_projection_is_idempotent_removes_its_axis_and_keeps_grey() -> None:
    matrix = project_colors(torch.eye(3)[:, :, None, None])[..., 0, 0]  # rows: what becomes of red, green and blue
    expected = torch.tensor([[5 / 6, 1 / 3, -1 / 6], [1 / 3, 1 / 3, 1 / 3], [-1 / 6, 1 / 3, 5 / 6]])
    torch.testing.assert_close(matrix, expected)
    torch.testing.assert_close(matrix @ matrix, matrix)
    torch.testing.assert_close(torch.tensor([-1.0, 2.0, -1.0]) @ matrix, torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.ones(3) @ matrix, torch.ones(3))


def test_a_tile_tells_nothing_about_two_of_its_channels() -> None:
    cut = _raw_tiles(make(32, 3, pixelate=0.0), images(32, 3), Rng(IDS, 0))
    spread = cut.std((3, 4)).sort(dim=2).values
    assert (spread[..., 2] > 0.1).all() and (spread[..., :2] < 0.01).all()
    kept = cut.std((3, 4)).argmax(2)
    assert len(kept.unique()) == 3 and (kept != kept[:, :1]).any()  # drawn anew for every tile


def test_about_the_asked_share_of_tiles_loses_its_fine_detail() -> None:
    sharp, coarse = (_raw_tiles(make(96, 1, pixelate=p), images(96), Rng(IDS, 0)) for p in (0.0, 0.5))
    changed = (sharp != coarse).any(-1).any(-1).any(-1)
    assert 0.25 < changed.float().mean() < 0.75
    assert coarse[changed].diff(dim=-1).abs().mean() < 0.2 * sharp[changed].diff(dim=-1).abs().mean()


def test_the_hidden_layer_cannot_silence_itself() -> None:
    """Its BatchNorm has no scale to turn down: scaling the weights before it to almost nothing changes nothing."""
    method = make()
    views = method.views(images(), Rng(IDS, 0))
    before = method.loss(Batch(views, IDS, 0.0))["loss"]
    with torch.no_grad():
        method.hidden[0].weight.mul_(0.1)
    torch.testing.assert_close(method.loss(Batch(views, IDS, 0.0))["loss"], before, atol=5e-3, rtol=0)
    assert not method.hidden[1].affine


def test_the_loss_is_the_cross_entropy_over_all_pairs() -> None:
    method = make().eval()
    (cut,) = method.views(images(), Rng(IDS, 0))
    with torch.no_grad():
        out = method.loss(Batch((cut,), IDS, 0.0))
        losses, right = [], []
        for image, (a, b) in itertools.product(cut, itertools.permutations(range(9), 2)):
            step = (b // 3 - a // 3, b % 3 - a % 3)
            if step in OFFSETS:
                pair = torch.cat([method.encoder(image[a : a + 1]), method.encoder(image[b : b + 1])], 1)
                logits = method.classifier(method.hidden(pair))[0]
                losses.append(float(torch.logsumexp(logits, 0) - logits[OFFSETS.index(step)]))
                right.append(float(logits.argmax() == OFFSETS.index(step)))
    assert float(out["loss"]) == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert float(out["accuracy"]) == pytest.approx(sum(right) / len(right), abs=1e-6)


def test_an_undecided_classifier_has_loss_ln_8() -> None:
    method = make()
    for p in method.classifier.parameters():
        torch.nn.init.zeros_(p)
    loss = method.loss(Batch(method.views(images(), Rng(IDS, 0)), IDS, 0.0))["loss"]
    assert float(loss.detach()) == pytest.approx(2.0794415, abs=1e-6)
