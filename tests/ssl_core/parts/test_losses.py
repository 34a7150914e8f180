"""The shared losses against printed values, lightly's implementation and the formulas written as loops."""

import math

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from torch import Tensor

from ssl_core.parts.losses import info_nce, is_top1, negative_cosine, nt_xent, unit

Z1 = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
Z2 = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
QUEUE = torch.tensor([[1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]], dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("temperature", "expected"), [(0.5, 0.66804020), (0.1, 1.06484998), (1.0, 0.80207868)])
def test_nt_xent_of_the_worked_example(temperature: float, expected: float) -> None:
    assert nt_xent(Z1, Z2, temperature).item() == pytest.approx(expected, abs=5e-8)


@pytest.mark.parametrize(
    ("n", "temperature", "expected"), [(2, 0.5, 0.23954477), (4, 0.5, 0.59443764), (4, 0.1, 0.00027236), (256, 0.5, 4.24879512)]
)
def test_nt_xent_of_aligned_orthogonal_views_is_its_closed_form(n: int, temperature: float, expected: float) -> None:
    z = torch.eye(n, dtype=torch.float64)
    assert nt_xent(z, z, temperature).item() == pytest.approx(expected, abs=5e-8)
    assert math.log(1 + (2 * n - 2) * math.exp(-1 / temperature)) == pytest.approx(expected, abs=5e-8)


def test_nt_xent_of_a_collapsed_batch_is_the_logarithm_of_the_candidates() -> None:
    assert nt_xent(torch.ones(4, 3), torch.ones(4, 3), 0.3).item() == pytest.approx(math.log(7), abs=1e-6)


def test_nt_xent_equals_lightly_with_gradients() -> None:
    z1, z2 = randn(8, 5).requires_grad_(), randn(8, 5, seed=1).requires_grad_()
    ours = torch.autograd.grad(nt_xent(z1, z2, 0.2), (z1, z2))
    theirs = torch.autograd.grad(NTXentLoss(0.2)(z1, z2), (z1, z2))
    torch.testing.assert_close(nt_xent(z1, z2, 0.2), NTXentLoss(0.2)(z1, z2))
    torch.testing.assert_close(ours, theirs)


def test_nt_xent_is_the_formula_written_as_loops() -> None:
    z1, z2, temperature = randn(5, 3), randn(5, 3, seed=1), 0.3
    z = [row / row.norm() for row in torch.cat([z1, z2])]
    total = 0.0
    for i in range(10):
        others = sum(math.exp(float(z[i] @ z[k]) / temperature) for k in range(10) if k != i)
        total -= math.log(math.exp(float(z[i] @ z[(i + 5) % 10]) / temperature) / others)
    assert nt_xent(z1, z2, temperature).item() == pytest.approx(total / 10, abs=1e-12)


def test_nt_xent_ignores_rotation_length_order_and_the_names_of_the_views() -> None:
    z1, z2 = randn(6, 4), randn(6, 4, seed=1)
    rotation = torch.linalg.qr(randn(4, 4, seed=2)).Q
    lengths, order = randn(6, 1, seed=3).abs() + 0.1, torch.tensor([3, 1, 5, 0, 2, 4])
    expected = nt_xent(z1, z2, 0.5)
    for a, b in ((z1 @ rotation, z2 @ rotation), (z1 * lengths, z2), (z1[order], z2[order]), (z2, z1)):
        torch.testing.assert_close(nt_xent(a, b, 0.5), expected)


def test_info_nce_with_a_queue_of_the_worked_example() -> None:
    assert info_nce(Z1, Z2, 0.5, QUEUE).item() == pytest.approx(0.88423992, abs=5e-8)
    each = [info_nce(Z1[i : i + 1], Z2[i : i + 1], 0.5, QUEUE).item() for i in range(2)]
    assert each == pytest.approx([1.27186433, 0.49661551], abs=5e-8)


def test_info_nce_without_a_queue_takes_the_batch_as_negatives() -> None:
    assert info_nce(Z1, Z2, 0.5).item() == pytest.approx(0.48602404, abs=5e-8)


def test_info_nce_of_equal_similarities_is_the_logarithm_of_the_candidates() -> None:
    negatives = Z1[:1].expand(4096, 2)
    assert info_nce(Z1[:1], Z1[:1], 0.07, negatives).item() == pytest.approx(8.31801, abs=1e-5)


@pytest.mark.parametrize("queued", [True, False])
def test_info_nce_is_the_formula_written_as_loops(queued: bool) -> None:
    q, k, queue, total = unit(randn(5, 3)), unit(randn(5, 3, seed=1)), unit(randn(7, 3, seed=2)), 0.0
    for i in range(5):
        positive = math.exp(float(q[i] @ k[i]) / 0.3)
        others = queue if queued else [k[j] for j in range(5) if j != i]
        total -= math.log(positive / (positive + sum(math.exp(float(q[i] @ other) / 0.3) for other in others)))
    assert info_nce(q, k, 0.3, queue if queued else None).item() == pytest.approx(total / 5, abs=1e-12)


def test_info_nce_with_a_queue_equals_lightly() -> None:
    q, k, queue = randn(4, 6).requires_grad_(), randn(4, 6, seed=1), unit(randn(8, 6, seed=2))
    peer = NTXentLoss(0.2, memory_bank_size=(8, 6))
    peer.memory_bank.bank = queue.clone()
    ours = info_nce(q, k, 0.2, queue)
    theirs = peer(q, k)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, q), torch.autograd.grad(theirs, q))


def test_negative_cosine_equals_lightly_and_leaves_the_target_alone() -> None:
    p, z = randn(5, 4).requires_grad_(), randn(5, 4, seed=1).requires_grad_()
    torch.testing.assert_close(negative_cosine(p, z), NegativeCosineSimilarity()(p, z))
    gradients = torch.autograd.grad(negative_cosine(p, z), (p, z), allow_unused=True)
    assert gradients[0].abs().sum() > 0
    assert gradients[1] is None


def test_negative_cosine_written_as_loops_and_as_byols_squared_distance() -> None:
    p, z, cosines, squares = randn(5, 4), randn(5, 4, seed=1), 0.0, 0.0
    for a, b in zip(p.tolist(), z.tolist(), strict=True):
        a, b = ([x / math.sqrt(sum(y * y for y in v)) for x in v] for v in (a, b))
        cosines += sum(x * y for x, y in zip(a, b, strict=True))
        squares += sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    assert negative_cosine(p, z).item() == pytest.approx(-cosines / 5, abs=1e-12)
    assert 2 + 2 * negative_cosine(p, z).item() == pytest.approx(squares / 5, abs=1e-12)


def test_simsiam_sum_of_the_worked_example() -> None:
    p1, z2 = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    p2, z1 = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert 0.5 * (negative_cosine(p1, z2) + negative_cosine(p2, z1)).item() == pytest.approx(-0.57677670, abs=1e-7)


@pytest.mark.parametrize("loss", [lambda a, b: nt_xent(a, b, 0.2), lambda a, b: info_nce(a, b, 0.2), negative_cosine])
def test_half_precision_inputs_are_computed_in_float32(loss) -> None:  # type: ignore[no-untyped-def]
    a, b = randn(8, 16).bfloat16(), randn(8, 16, seed=1).bfloat16()
    out = loss(a, b)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, loss(a.float(), b.float()))


@pytest.mark.parametrize(
    "loss", [lambda a, b: nt_xent(a, b, 0.2), lambda a, b: info_nce(a, b, 0.2), lambda a, b: info_nce(a, b, 0.2, unit(b))]
)
def test_gradients_agree_with_finite_differences(loss) -> None:  # type: ignore[no-untyped-def]
    negatives = randn(3, 4, seed=2)
    a, b = randn(3, 4).requires_grad_(), randn(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(loss, (a, b))
    assert torch.isfinite(info_nce(a, b, 0.2, unit(negatives)))


def test_top1_is_the_argmax_and_a_tie_is_none() -> None:
    logits, labels = randn(200, 7), torch.arange(200) % 7
    assert torch.equal(is_top1(logits, labels), (logits.argmax(1) == labels).float())
    assert not is_top1(torch.zeros(3, 4), torch.tensor([0, 1, 3])).any()
