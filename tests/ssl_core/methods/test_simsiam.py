"""SimSiam: the printed loss, the stopped gradient, the predictor's constant learning rate."""

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity
from torch import Tensor, nn

from ssl_core.engine.method import Batch, DataInfo
from ssl_core.engine.optim import build_optimizer, set_lr
from ssl_core.methods.simsiam import SimSiam, SimSiamConfig
from ssl_core.rng import Rng
from tasks.runtime import params
from tests.support.configs import AUGMENT, encoder_of

IDS = torch.arange(8)
IMAGES = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make() -> SimSiam:
    torch.manual_seed(0)
    encoder = encoder_of()
    return SimSiam(encoder, SimSiamConfig(dim=16, bottleneck=4), AUGMENT, DataInfo(8, 16, 1, (0.5,), (0.25,)))


class Table(nn.Module):
    """Ignores its input and gives its vectors one after another."""

    def __init__(self, *tables: list[list[float]]):
        super().__init__()
        self.rows = [torch.tensor(t) for t in tables]

    def forward(self, x: Tensor) -> Tensor:
        return self.rows.pop(0)


def loss_of(p1: list[list[float]], z2: list[list[float]], p2: list[list[float]], z1: list[list[float]]) -> float:
    method = make()
    method.encoder = nn.Identity()  # type: ignore[assignment]
    method.projector, method.predictor = Table(z1, z2), Table(p1, p2)  # type: ignore[assignment]
    return method.loss(Batch((IMAGES, IMAGES), IDS, 0.0))["loss"].item()


def test_the_worked_example() -> None:
    p1, z2, p2, z1 = [[3.0, 4], [0, 2]], [[1.0, 0], [0, 5]], [[1.0, 0], [1, 1]], [[0.0, 1], [1, 0]]
    loss = loss_of(p1, z2, p2, z1)
    assert loss == pytest.approx(-0.57677670, abs=2e-7)
    assert 4 + 4 * loss == pytest.approx(1.69289322, abs=1e-6)  # BYOL's loss of the same vectors


@pytest.mark.parametrize(("target", "expected"), [([[2.0, 0.0]], -1.0), ([[-3.0, 0.0]], 1.0), ([[0.0, 1.0]], 0.0)])
def test_equal_opposite_and_orthogonal_directions(target: list[list[float]], expected: float) -> None:
    one = [[1.0, 0.0]]
    assert loss_of(one, target, one, target) == pytest.approx(expected, abs=1e-6)


def test_the_loss_equals_lightly() -> None:
    method, peer = make().eval(), NegativeCosineSimilarity()
    x1, x2 = views = method.views(IMAGES, Rng(IDS, 0))
    z1, z2 = (method.projector(method.encoder(x)) for x in (x1, x2))
    expected = 0.5 * (peer(method.predictor(z1), z2.detach()) + peer(method.predictor(z2), z1.detach()))
    torch.testing.assert_close(method.loss(Batch(views, IDS, 0.0))["loss"], expected)


def test_targets_get_no_gradient() -> None:
    """With a predictor that ignores its input, only the targets are left to carry a gradient to the encoder."""
    method = make()

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.randn(8, 16))

        def forward(self, z: Tensor) -> Tensor:
            return self.value

    method.predictor = Constant()  # type: ignore[assignment]
    method.loss(Batch(method.views(IMAGES, Rng(IDS, 0)), IDS, 0.0))["loss"].backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in [*method.encoder.parameters(), *method.projector.parameters()])
    assert method.predictor.value.grad is not None


def test_only_the_predictor_keeps_its_learning_rate(shipped: dict[str, object]) -> None:
    method, train = make(), params.method_params(shipped, "simsiam").train
    optimizer = build_optimizer(method, train)
    set_lr(optimizer, train, 0.999)
    rate = {id(p): g["lr"] / g["peak_lr"] for g in optimizer.param_groups for p in g["params"]}
    assert all(rate[id(p)] == 1.0 for p in method.predictor.parameters())
    assert all(rate[id(p)] < 0.01 for p in [*method.encoder.parameters(), *method.projector.parameters()])


def test_the_projection_is_standardized_and_the_prediction_free() -> None:
    method = make()
    z = method.projector(method.encoder(torch.randn(8, 1, 16, 16)))
    torch.testing.assert_close(z.mean(0), torch.zeros(16), atol=1e-5, rtol=0)
    assert isinstance(method.projector[-1], nn.BatchNorm1d) and not method.projector[-1].affine
    assert isinstance(method.predictor[-1], nn.Linear)
