"""VICReg: printed values, lightly, the formula as loops, and one term at a time."""

import dataclasses

import pytest
import torch
from lightly.loss import VICRegLoss
from torch import Tensor, nn

from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.vicreg import VICReg, VICRegConfig, covariance, variance
from tests.support.configs import AUGMENT, encoder_of

H = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
Z = torch.tensor([[1.0, 2], [2, 1], [3, 5], [4, 4]])
W = torch.tensor([[1.0, 1], [3, 2], [2, 6], [5, 3]])
CONFIG = VICRegConfig(dim=16, invariance=25.0, variance=25.0, covariance=1.0)


def vicreg(z1: Tensor, z2: Tensor, **changes: float) -> dict[str, Tensor]:
    """The method's loss where encoder and expander hand given vectors through."""
    encoder = encoder_of()
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    method = VICReg(encoder, config, AUGMENT, DataInfo(8, 16, 1, (0.5,), (0.25,)))
    method.encoder = method.expander = nn.Identity()  # type: ignore[assignment]
    return method.loss(Batch((z1, z2), torch.arange(len(z1)), 0.0))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("z1", "z2", "expected"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 3), 24.75),
        (H, H, 0.0),
        (H, -H, 100.0),
        (H[:, [0, 0, 1]], H[:, [0, 0, 1]], 2.37037037),
        (Z, W, 24.76388889),
        (Z / 2, W / 2, 9.32135871),
    ],
)
def test_the_worked_examples(z1: Tensor, z2: Tensor, expected: float) -> None:
    assert vicreg(z1, z2)["loss"].item() == pytest.approx(expected, abs=2e-6)


def test_the_loss_equals_lightly_with_gradients() -> None:
    z1, z2 = (0.5 * randn(12, 5)).double().requires_grad_(), randn(12, 5, seed=1).double().requires_grad_()
    peer = VICRegLoss()
    torch.testing.assert_close(vicreg(z1, z2)["loss"], peer(z1, z2))
    ours = torch.autograd.grad(vicreg(z1, z2)["loss"], (z1, z2))
    torch.testing.assert_close(ours, torch.autograd.grad(peer(z1, z2), (z1, z2)))


def test_the_loss_is_the_formula_written_as_loops() -> None:
    z1, z2 = 0.7 * randn(6, 3).double(), 0.7 * randn(6, 3, seed=1).double()
    total = 25 * sum(float(a - b) ** 2 for a, b in zip(z1.flatten(), z2.flatten(), strict=True)) / 18
    for z in (z1, z2):
        c = [
            [sum(float((z[n, i] - z[:, i].mean()) * (z[n, j] - z[:, j].mean())) for n in range(6)) / 5 for j in range(3)]
            for i in range(3)
        ]
        total += 25 / 2 * sum(max(0.0, 1 - (c[i][i] + 1e-4) ** 0.5) for i in range(3)) / 3
        total += sum(c[i][j] ** 2 for i in range(3) for j in range(3) if i != j) / 3
    assert vicreg(z1, z2)["loss"].item() == pytest.approx(total, rel=1e-9)


def test_each_weight_scales_its_own_term() -> None:
    z1, z2 = 0.5 * randn(8, 4), 0.5 * randn(8, 4, seed=1)
    out = vicreg(z1, z2)
    for name in ("invariance", "variance", "covariance"):
        alone = {"invariance": 0.0, "variance": 0.0, "covariance": 0.0, name: 2.0}
        torch.testing.assert_close(vicreg(z1, z2, **alone)["loss"], 2 * out[name])


def test_spread_and_uncorrelated_components_cost_nothing_whatever_their_mean() -> None:
    assert variance(2 * H + 7).item() == 0.0 and covariance(2 * H + 7).item() == pytest.approx(0.0, abs=1e-9)
    assert variance(torch.full((4, 3), 5.0)).item() == pytest.approx(0.99)
