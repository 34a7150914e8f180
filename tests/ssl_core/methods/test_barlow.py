"""Barlow Twins: printed values, lightly, the formula as loops, and what the loss must not notice."""

import pytest
import torch
from lightly.loss import BarlowTwinsLoss
from torch import Tensor

from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.barlow import BarlowConfig, BarlowTwins, terms
from ssl_core.rng import Rng
from tests.support.configs import AUGMENT, encoder_of

H = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
Z = torch.tensor([[1.0, 2], [2, 1], [3, 5], [4, 4]], dtype=torch.float64)
W = torch.tensor([[1.0, 1], [3, 2], [2, 6], [5, 3]], dtype=torch.float64)


def barlow(z1: Tensor, z2: Tensor, weight: float = 0.005) -> Tensor:
    on, off = terms(z1, z2)
    return on + weight * off


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("z1", "z2", "expected"),
    [
        (H, H, 2.99994e-10),
        (H, -H, 11.99988),
        (H[:, [0, 0, 1]], H[:, [0, 0, 1]], 0.00999980),
        (H, H[:, [1, 0, 2]], 2.00999980),
        (Z, W, 0.05437902),
    ],
)
def test_the_worked_examples(z1: Tensor, z2: Tensor, expected: float) -> None:
    assert barlow(z1, z2).item() == pytest.approx(expected, abs=1e-8, rel=1e-5 if expected < 1e-6 else 1e-9)


def test_the_loss_equals_lightly_with_gradients() -> None:
    z1, z2, peer = randn(12, 5).requires_grad_(), randn(12, 5, seed=1).requires_grad_(), BarlowTwinsLoss(0.005)
    torch.testing.assert_close(barlow(z1, z2), peer(z1, z2))
    ours, theirs = (torch.autograd.grad(f(z1, z2), (z1, z2)) for f in (barlow, peer))
    torch.testing.assert_close(ours, theirs)


def test_the_loss_is_the_formula_written_as_loops() -> None:
    z1, z2 = randn(6, 3), randn(6, 3, seed=1)
    a, b = ((z - z.mean(0)) / torch.sqrt(z.var(0, unbiased=False) + 1e-5) for z in (z1, z2))
    total = 0.0
    for i in range(3):
        for j in range(3):
            c = sum(float(a[n, i] * b[n, j]) for n in range(6)) / 6
            total += (1 - c) ** 2 if i == j else 0.005 * c**2
    assert barlow(z1, z2).item() == pytest.approx(total, abs=1e-12)


def test_the_loss_ignores_the_names_of_the_views_the_order_and_scales_of_components() -> None:
    z1, z2 = 10 * randn(16, 4), 10 * randn(16, 4, seed=1)
    scale, order = torch.tensor([1.0, 3.0, 0.5, 7.0], dtype=torch.float64), torch.randperm(16)
    expected = barlow(z1, z2)
    torch.testing.assert_close(barlow(z2, z1), expected)
    torch.testing.assert_close(barlow(z1[order], z2[order]), expected)
    torch.testing.assert_close(barlow(z1 * scale + 5, z2), expected, rtol=1e-5, atol=0)


def test_the_method_adds_the_weighted_terms_of_its_projections() -> None:
    torch.manual_seed(0)
    encoder = encoder_of()
    method = BarlowTwins(encoder, BarlowConfig(dim=16, weight=0.01), AUGMENT, DataInfo(8, 16, 1, (0.5,), (0.25,))).eval()
    images, ids = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8), torch.arange(8)
    x1, x2 = views = method.views(images, Rng(ids, 0))
    out = method.loss(Batch(views, ids, 0.0))
    expected = BarlowTwinsLoss(0.01)(method.projector(encoder(x1)), method.projector(encoder(x2)))
    torch.testing.assert_close(out["loss"], expected)
    torch.testing.assert_close(out["on_diagonal"] + 0.01 * out["off_diagonal"], out["loss"])
