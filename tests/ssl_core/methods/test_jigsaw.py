"""Jigsaw: the permutation set travels with the weights, tiles are encoded alone, slots hold the tiles the label says."""

import dataclasses
import math

import pytest
import torch

from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.jigsaw import Jigsaw, JigsawConfig, shift_channels
from ssl_core.rng import Rng
from tests.support.configs import AUGMENT, encoder_of

CONFIG = JigsawConfig(grid=2, tile_size=0, permutations=24, puzzles=2, grayscale=0.5, channel_shift=1, tile_dim=8, hidden=16)
IDS = torch.arange(6)


def make(side: int = 28, channels: int = 1, **changes: object) -> Jigsaw:
    torch.manual_seed(0)
    encoder = encoder_of(channels, side)
    data = DataInfo(64, side, channels, (0.5,) * channels, (0.25,) * channels)
    return Jigsaw(encoder, dataclasses.replace(CONFIG, **changes), AUGMENT, data)


def images(side: int = 28, channels: int = 1) -> torch.Tensor:
    return torch.randint(
        0, 256, (len(IDS), channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@pytest.mark.parametrize(
    ("grid", "size", "least", "mean"),
    [(2, 4, 4, 4.0), (2, 8, 3, 3.285714), (2, 24, 2, 3.130435), (3, 9, 9, 9.0), (3, 24, 7, 8.141304)],
)
def test_the_permutation_set_is_far_apart(grid: int, size: int, least: int, mean: float) -> None:
    chosen = make(grid=grid, permutations=size).permutations
    assert chosen.gather(1, chosen.argsort(dim=1)).eq(torch.arange(grid**2)).all()  # undone by its argsort
    distances = (chosen[:, None] != chosen[None]).sum(2)[~torch.eye(size, dtype=torch.bool)].float()
    assert int(distances.min()) == least
    assert float(distances.mean()) == pytest.approx(mean, abs=1e-6)


def test_the_set_is_saved_with_the_classifier_it_belongs_to() -> None:
    source, other = make(permutations=8), make(permutations=8)
    source.permutations.copy_(source.permutations.flip(0))
    other.load_state_dict(source.state_dict())
    assert torch.equal(other.permutations, source.permutations)


@pytest.mark.parametrize(
    ("side", "channels", "grid", "tile"), [(28, 1, 2, 10), (32, 3, 2, 12), (32, 3, 3, 8), (96, 3, 3, 24), (224, 3, 3, 56)]
)
def test_views_are_standardized_tiles_and_indices_at_any_size(side: int, channels: int, grid: int, tile: int) -> None:
    method = make(side, channels, grid=grid)
    cut, index = method.views(images(side, channels), Rng(IDS, 0))
    assert cut.shape == (6, grid**2, channels, tile, tile)
    assert cut.mean((2, 3, 4)).abs().max() < 1e-4 and (cut.var((2, 3, 4), correction=0) - 1).abs().max() < 0.02
    assert index.shape == (6, 2) and index.dtype == torch.int64
    assert int(index.min()) >= 0 and int(index.max()) < 24


def test_every_permutation_is_drawn_equally_often() -> None:
    ids = torch.arange(4800)
    index = make().views(torch.zeros(4800, 1, 8, 8, dtype=torch.uint8), Rng(ids, 0))[1]
    counts = index.flatten().bincount(minlength=24)
    assert (counts - 400).abs().max() < 100  # 5 standard deviations


def test_changing_a_tile_changes_only_its_own_embedding() -> None:
    method = make(grid=3).eval()
    cut, _ = method.views(images(), Rng(IDS, 0))
    other = cut.clone()
    other[:, 4] = torch.randn_like(other[:, 4])
    with torch.no_grad():
        same = (method.embeddings(cut) == method.embeddings(other)).all(2)
    assert same[:, [0, 1, 2, 3, 5, 6, 7, 8]].all() and not same[:, 4].any()


def test_the_loss_is_that_of_puzzles_laid_out_of_the_tiles_themselves() -> None:
    """Shuffling embeddings must equal shuffling tiles before the encoder: slot j shows tile P[p][j]."""
    method = make().eval()
    cut, index = method.views(images(), Rng(IDS, 0))
    with torch.no_grad():
        out = method.loss(Batch((cut, index), IDS, 0.0))
        losses, right = [], []
        for image, labels in zip(cut, index.tolist(), strict=True):
            for p in labels:
                laid = torch.stack([image[int(method.permutations[p][j])] for j in range(4)])
                logits = method.classifier(method.embed(method.encoder(laid)).flatten()[None])[0]
                losses.append(float(torch.logsumexp(logits, 0) - logits[p]))
                right.append(float(logits.argmax() == p))
    assert float(out["loss"]) == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert float(out["accuracy"]) == pytest.approx(sum(right) / len(right), abs=1e-6)


def test_about_the_asked_share_of_images_is_grey_in_all_its_tiles() -> None:
    ids = torch.arange(40)
    (cut, _) = make(32, 3, channel_shift=0).views(images(32, 3).repeat(7, 1, 1, 1)[:40], Rng(ids, 0))
    grey = (cut[:, :, :1] - cut).abs().amax((2, 3, 4)) < 1e-4
    assert torch.equal(grey, grey[:, :1].expand(-1, 4))
    assert 0.25 < grey.float().mean() < 0.75


@pytest.mark.parametrize(("grid", "size", "value"), [(2, 24, 3.178054), (3, 100, 4.605170)])
def test_an_undecided_classifier_has_loss_ln_of_the_set(grid: int, size: int, value: float) -> None:
    method = make(grid=grid, permutations=size)
    for p in method.classifier[-1].parameters():
        torch.nn.init.zeros_(p)
    loss = float(method.loss(Batch(method.views(images(), Rng(IDS, 0)), IDS, 0.0))["loss"].detach())
    assert loss == pytest.approx(value, abs=1e-6) == pytest.approx(math.log(size), abs=1e-6)


def test_channels_are_shifted_against_one_another_by_at_most_the_asked_pixels() -> None:
    ids = torch.arange(50)
    dot = torch.zeros(50, 3, 15, 15)
    dot[:, :, 7, 7] = 1
    moved = shift_channels(dot, Rng(ids, 0), 2)
    places = moved.flatten(2).argmax(2)
    rows, columns = places // 15 - 7, places % 15 - 7
    for axis in (rows, columns):
        assert axis.unique().tolist() == [-2, -1, 0, 1, 2]
    assert (rows[:, 0] != rows[:, 1]).any() and (columns[:, 1] != columns[:, 2]).any()
    assert torch.equal(shift_channels(dot[:, :1], Rng(ids, 0), 2), dot[:, :1])  # grey has no chromatic aberration
