"""Rotation: the algebra of quarter turns, the labels and the loss."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.rotation import Rotation, RotationConfig
from ssl_core.rng import Rng
from tests.support.configs import AUGMENT, STILL, encoder_of

IDS = torch.arange(5)


def make(side: int = 28, channels: int = 1, padding: float | None = 0.125) -> Rotation:
    torch.manual_seed(0)
    encoder = encoder_of(channels, side)
    data = DataInfo(64, side, channels, (0.5,) * channels, (0.25,) * channels)
    return Rotation(encoder, RotationConfig(padding=padding), AUGMENT, data)


def images(side: int = 28, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (len(IDS), channels, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (32, 3), (96, 3), (224, 3)])
def test_each_view_is_an_exact_quarter_turn_of_the_one_before(side: int, channels: int) -> None:
    (turned,) = make(side, channels).views(images(side, channels), Rng(IDS, 0))
    assert turned.shape == (len(IDS), 4, channels, side, side)
    for k in range(4):
        last_row_up = turned[:, k].transpose(2, 3).flip(2)  # a counter-clockwise turn, written out
        assert torch.equal(last_row_up, turned[:, (k + 1) % 4])
        assert torch.equal(torch.rot90(turned[:, k], 4 - k, (2, 3)), turned[:, 0])


def test_the_second_view_is_turned_counter_clockwise() -> None:
    method = make(padding=0.0)
    method.augment = STILL
    method.data = DataInfo(1, 2, 1, (0.0,), (1 / 255,))
    square = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).reshape(1, 1, 2, 2)
    (turned,) = method.views(square, Rng(torch.zeros(1, dtype=torch.int64), 0))
    assert turned[0, 1, 0].round().tolist() == [[2, 4], [1, 3]]


def test_without_a_border_it_turns_the_common_view() -> None:
    method = make(padding=None)
    (turned,) = method.views(images(), Rng(IDS, 0))
    common = method.view(images(), Rng(IDS, 0))
    assert torch.equal(turned[:, 0], common) and not torch.equal(turned[:, 0], turned[:, 2])
    assert torch.equal(turned[:, 3], torch.rot90(common, 3, (2, 3)))


def test_flip_comes_before_the_turn() -> None:
    """A flipped image turned by k is the turn by 4 - k flipped; drawn the other way round the labels would be wrong."""
    plain, flipped = make(padding=0.0), make(padding=0.0)
    plain.augment = STILL
    flipped.augment = dataclasses.replace(STILL, flip=1.0)
    a, b = (m.views(images(), Rng(IDS, 0))[0] for m in (plain, flipped))
    for k in range(4):
        assert torch.equal(b[:, k], a[:, (4 - k) % 4].flip(3))


def test_the_loss_is_the_cross_entropy_over_every_image_and_turn() -> None:
    method = make().eval()
    (turned,) = method.views(images(), Rng(IDS, 0))
    out = method.loss(Batch((turned,), IDS, 0.0))
    expected, right = [], []
    with torch.no_grad():
        for image in turned:
            for k in range(4):
                logits = method.classifier(method.encoder(image[k : k + 1]))[0]
                expected.append(float(torch.logsumexp(logits, 0) - logits[k]))
                right.append(float(logits.argmax() == k))
    assert float(out["loss"].detach()) == pytest.approx(sum(expected) / len(expected), abs=1e-6)
    assert float(out["accuracy"]) == pytest.approx(sum(right) / len(right))
    assert not out["accuracy"].requires_grad


def test_an_undecided_classifier_has_loss_ln_4() -> None:
    method = make()
    for p in method.classifier.parameters():
        torch.nn.init.zeros_(p)
    out = method.loss(Batch(method.views(images(), Rng(IDS, 0)), IDS, 0.0))
    assert float(out["loss"].detach()) == pytest.approx(1.3862944, abs=1e-6) == pytest.approx(math.log(4))


def test_the_four_turns_of_an_image_are_normalized_together() -> None:
    """One forward pass: BatchNorm's running mean has seen every turn once, in one update."""
    method = make()
    views = method.views(images(), Rng(IDS, 0))
    method.loss(Batch(views, IDS, 0.0))
    stem, norm = method.encoder.stem[0], method.encoder.stem[1]
    assert int(norm.num_batches_tracked) == 1
    seen = F.conv2d(views[0].flatten(0, 1), stem.weight, stride=2, padding=1).mean((0, 2, 3))
    assert torch.allclose(norm.running_mean, 0.1 * seen, atol=1e-6)
