"""SwAV: Sinkhorn, printed values, lightly with small views and queue, waiting prototypes, a queue used once full."""

import dataclasses
import math

import pytest
import torch
from lightly.loss import SwaVLoss
from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn
from torch import Tensor, nn

from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.swav import SwAV, SwAVConfig, sinkhorn
from ssl_core.parts.losses import cross_view_entropy, unit
from ssl_core.parts.multicrop import Crops, encode_crops
from ssl_core.rng import Rng
from tests.support.configs import AUGMENT, encoder_of

CONFIG = SwAVConfig(
    hidden=16,
    dim=8,
    prototypes=6,
    epsilon=0.05,
    iterations=3,
    temperature=0.1,
    queue=16,
    queue_start=0.5,
    freeze=0.1,
    crops=Crops(views=2, scale=(0.1, 0.4), size=0.5),
)
IDS = torch.arange(8)
IMAGES = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
A = torch.tensor([[0.5, 0.1, 0], [0.4, 0.2, 0.1], [0.1, 0.5, 0.3], [0.2, 0.1, 0.6]])
B = torch.tensor([[0.4, 0.2, 0], [0.3, 0.3, 0.1], [0, 0.6, 0.2], [0.1, 0.2, 0.5]])
ONES = torch.ones(4)


def make(**changes: object) -> SwAV:
    torch.manual_seed(0)
    encoder = encoder_of()
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    return SwAV(encoder, config, AUGMENT, DataInfo(64, 16, 1, (0.5,), (0.25,)))


def batch(method: SwAV, progress: float = 0.0, step: int = 0) -> Batch:
    return Batch(method.views(IMAGES, Rng(IDS, step)), IDS, progress)


def scores_of(method: SwAV, views: tuple[Tensor, ...]) -> list[Tensor]:
    z = unit(method.projector(encode_crops(method.encoder, views)))
    return list((z @ method.prototypes.T).chunk(len(views)))


def test_the_worked_example() -> None:
    codes = [sinkhorn(s, 0.05, 3, ONES) for s in (A, B)]
    torch.testing.assert_close(codes[0][0], torch.tensor([0.9985749, 0.00139809, 0.000027]), atol=1e-6, rtol=0)
    torch.testing.assert_close(codes[0][-1], torch.tensor([0.00056268, 0.00031782, 0.9991195]), atol=1e-6, rtol=0)
    assert cross_view_entropy(codes, [A / 0.1, B / 0.1]).item() == pytest.approx(0.19449517, abs=2e-7)


def test_codes_sum_to_one_and_use_all_prototypes_equally() -> None:
    codes = sinkhorn(A, 0.05, 50, ONES)
    torch.testing.assert_close(codes.sum(1), ONES)
    torch.testing.assert_close(codes.sum(0), torch.full((3,), 4 / 3), atol=1e-4, rtol=0)


def test_equal_scores_have_equal_codes_and_the_loss_of_a_guess() -> None:
    flat = torch.zeros(4, 5)
    codes = sinkhorn(flat, 0.05, 3, ONES)
    torch.testing.assert_close(codes, torch.full((4, 5), 0.2))
    assert cross_view_entropy([codes, codes], [flat, flat]).item() == pytest.approx(math.log(5), abs=1e-6)


def test_sinkhorn_equals_lightly_and_rows_without_weight_take_no_part() -> None:
    scores = 2 * torch.rand(10, 6, generator=torch.Generator().manual_seed(0)) - 1
    torch.testing.assert_close(sinkhorn(scores, 0.05, 3, torch.ones(10)), lightly_sinkhorn(scores))
    weight = torch.tensor([1.0] * 7 + [0.0] * 3)
    torch.testing.assert_close(sinkhorn(scores, 0.05, 3, weight)[:7], lightly_sinkhorn(scores[:7]))


def test_sinkhorn_is_the_paper_s_alternation_written_as_loops() -> None:
    q = [[math.exp(float(s) / 0.05) for s in row] for row in A]
    for _ in range(3):
        for k in range(3):
            mass = sum(row[k] for row in q)
            for row in q:
                row[k] /= 3 * mass
        q = [[value / (4 * sum(row)) for value in row] for row in q]
    torch.testing.assert_close(sinkhorn(A, 0.05, 3, ONES), 4 * torch.tensor(q))


def test_extreme_scores_stay_finite() -> None:
    assert sinkhorn(torch.tensor([[1.0, -1.0], [1.0, -1.0]]), 0.005, 3, torch.ones(2)).isfinite().all()


@pytest.mark.parametrize(("progress", "used"), [(0.2, False), (0.7, True)])
def test_the_loss_equals_lightly_with_small_views_and_the_queue_once_it_is_full_and_due(progress: float, used: bool) -> None:
    method = make().eval()
    for step in range(2):
        method.loss(batch(method, step=step))  # two batches of 8 fill the queue of 16
    data = batch(method, progress, step=2)
    scores, older = scores_of(method, data.views), [q.keys @ method.prototypes.T for q in method.queues]
    expected = SwaVLoss()(scores[:2], scores[2:], older if used else None)
    torch.testing.assert_close(method.loss(data)["loss"], expected[0])


def test_a_queue_that_is_not_full_is_not_used() -> None:
    method = make().eval()
    method.loss(batch(method))
    data = batch(method, 0.7, step=1)
    scores = scores_of(method, data.views)
    torch.testing.assert_close(method.loss(data)["loss"], SwaVLoss()(scores[:2], scores[2:])[0])


def test_each_large_view_has_a_queue_of_its_own_older_projections() -> None:
    method = make().eval()
    data = batch(method)
    method.loss(data)
    for queue, x in zip(method.queues, data.views, strict=False):
        torch.testing.assert_close(queue.keys[:8], unit(method.projector(method.encoder(x))))
        assert not queue.keys[8:].any()
    assert len(make(queue=0).queues) == 0 and torch.isfinite(make(queue=0).loss(data)["loss"])


def test_prototypes_wait_and_then_move_and_stay_unit_vectors() -> None:
    method = make()
    for progress, moves in ((0.05, False), (0.2, True)):
        method.zero_grad()
        method.loss(batch(method, progress))["loss"].backward()  # type: ignore[no-untyped-call]
        assert method.prototypes.grad is not None and bool(method.prototypes.grad.any()) is moves
    with torch.no_grad():
        method.prototypes.mul_(3.0).add_(0.1)
    method.after_step(0.5)
    torch.testing.assert_close(method.prototypes.norm(dim=1), torch.ones(6))


def test_codes_carry_no_gradient() -> None:
    method = make()
    z = torch.randn(8, 8, requires_grad=True)
    assert not method.codes(0, z, z @ method.prototypes.T, 0.9).requires_grad


def test_every_other_view_predicts_each_code() -> None:
    """Written as loops over large views, other views and images."""
    q, s = [sinkhorn(x, 0.05, 3, ONES) for x in (A, B)], [A, B, A + B]
    total = 0.0
    for i in range(2):
        for j in set(range(3)) - {i}:
            for n in range(4):
                total -= float(q[i][n] @ nn.functional.log_softmax(s[j][n], 0)) / 4
    assert cross_view_entropy(q, s).item() == pytest.approx(total / 4, abs=1e-6)
