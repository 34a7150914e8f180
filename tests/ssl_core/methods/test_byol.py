"""BYOL: the printed loss, the momentum schedule, a target without gradient in train mode."""

import dataclasses

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity
from torch import nn

from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.byol import BYOL, BYOLConfig
from ssl_core.parts.memory import momentum_at
from ssl_core.rng import Rng
from tests.support.configs import AUGMENT, STILL, encoder_of

CONFIG = BYOLConfig(hidden=16, dim=8, momentum=0.9, second_blur=0.0, second_solarize=0.0)
IDS = torch.arange(8)
IMAGES = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make(**changes: object) -> BYOL:
    torch.manual_seed(0)
    encoder = encoder_of()
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    return BYOL(encoder, config, AUGMENT, DataInfo(8, 16, 1, (0.5,), (0.25,)))


def batch(method: BYOL, step: int = 0) -> Batch:
    return Batch(method.views(IMAGES, Rng(IDS, step)), IDS, 0.0)


class Table(nn.Module):
    """Gives the vectors of a table: view 0 asks for the first, view 1 for the second."""

    def __init__(self, first: list[list[float]], second: list[list[float]]):
        super().__init__()
        self.rows = torch.tensor([first, second])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rows[int(x)]


def loss_of(q1: list[list[float]], z2: list[list[float]], q2: list[list[float]], z1: list[list[float]]) -> float:
    method = make()
    method.encoder = method.projector = nn.Identity()  # type: ignore[assignment]
    method.predictor, method.target = Table(q1, q2), Table(z1, z2)  # type: ignore[assignment]
    return method.loss(Batch((torch.tensor(0), torch.tensor(1)), IDS, 0.0))["loss"].item()


def test_the_worked_example() -> None:
    q1, z2, q2, z1 = [[3.0, 4], [0, 2]], [[1.0, 0], [0, 5]], [[1.0, 0], [1, 1]], [[0.0, 1], [1, 0]]
    assert loss_of(q1, z2, q2, z1) == pytest.approx(1.69289322, abs=2e-7)


@pytest.mark.parametrize(("target", "expected"), [([[2.0, 0.0]], 0.0), ([[-3.0, 0.0]], 8.0), ([[0.0, 1.0]], 4.0)])
def test_equal_opposite_and_orthogonal_directions(target: list[list[float]], expected: float) -> None:
    one = [[1.0, 0.0]]
    assert loss_of(one, target, one, target) == pytest.approx(expected, abs=1e-6)


def test_the_loss_equals_lightly() -> None:
    method = make().eval()
    data, peer = batch(method), NegativeCosineSimilarity()
    x1, x2 = data.views
    q1, q2 = (method.predictor(method.projector(method.encoder(x))) for x in (x1, x2))
    expected = 4.0 + 2.0 * (peer(q1, method.target(x2)) + peer(q2, method.target(x1)))
    torch.testing.assert_close(method.loss(data)["loss"], expected)


def test_nothing_follows_the_last_linear_layer_of_the_heads() -> None:
    method = make()
    assert isinstance(method.projector[-1], nn.Linear) and isinstance(method.predictor[-1], nn.Linear)


def test_the_momentum_follows_the_cosine_from_its_base_to_one() -> None:
    assert [momentum_at(0.996, t) for t in (0.0, 0.5, 1.0)] == pytest.approx([0.996, 0.998, 1.0])


@pytest.mark.fault("F41")
def test_the_target_moves_by_the_momentum_of_the_moment() -> None:
    for progress, share in ((0.0, 0.1), (0.5, 0.05), (1.0, 0.0)):
        method = make()
        with torch.no_grad():
            for p in method.projector.parameters():
                p.add_(1.0)
        before = [p.clone() for p in method.target.parameters()]
        method.after_step(progress)
        online = [*method.encoder.parameters(), *method.projector.parameters()]
        for old, now, p in zip(before, method.target.parameters(), online, strict=True):
            torch.testing.assert_close(now, (1 - share) * old + share * p)


@pytest.mark.fault("F41")
def test_with_momentum_zero_the_target_becomes_the_online_network() -> None:
    method = make(momentum=0.0)
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.mul_(2.0)
    method.after_step(0.0)
    online = [*method.encoder.parameters(), *method.projector.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(method.target.parameters(), online, strict=True))


def test_the_target_is_in_train_mode_and_gets_no_gradient() -> None:
    method = make()
    method.loss(batch(method))["loss"].backward()
    assert int(method.target[0].stem[1].num_batches_tracked) == 2  # type: ignore[index,union-attr]
    assert all(p.grad is None for p in method.target.parameters())
    assert all(p.grad is not None for p in method.predictor.parameters())


def test_only_the_second_view_is_solarized() -> None:
    """Solarization is the only operation with a chance here, so the first view is the image itself."""
    method = make(second_solarize=1.0)
    method = BYOL(method.encoder, dataclasses.replace(CONFIG, second_solarize=1.0), STILL, method.data)
    square = torch.full((8, 1, 16, 16), 255, dtype=torch.uint8)
    x1, x2 = method.views(square, Rng(IDS, 0))
    assert (x1 > 0).all() and (x2 < 0).all()
