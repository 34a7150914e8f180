"""MoCo: the queue is read before the keys enter, the keys get no gradient, the shuffle is undone, the copy lags."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from ssl_core.config import ConfigError
from ssl_core.engine.method import Batch, DataInfo
from ssl_core.methods.moco import MoCo, MoCoConfig
from ssl_core.parts.losses import info_nce, unit
from ssl_core.parts.normalization import SplitBatchNorm2d
from ssl_core.rng import Rng
from tests.support.configs import AUGMENT, encoder_of

CONFIG = MoCoConfig(head="mlp", hidden=16, dim=8, temperature=0.2, momentum=0.9, queue=32, splits=2, symmetric=False)
IDS = torch.arange(8)
Q, K = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
QUEUE = torch.tensor([[1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]])
IMAGES = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make(**changes: object) -> MoCo:
    torch.manual_seed(0)
    encoder = encoder_of()
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    return MoCo(encoder, config, AUGMENT, DataInfo(64, 16, 1, (0.5,), (0.25,)))


def batch(method: MoCo, step: int = 0) -> Batch:
    return Batch(method.views(IMAGES, Rng(IDS, step)), IDS, 0.0)


def test_the_loss_uses_the_queue_as_it_was_before_this_batch() -> None:
    method = make().eval()
    views, older = batch(method), method.queue.read()
    q = method.projector(method.encoder(views.views[0]))
    keys = unit(method.momentum_encoder(views.views[1]))
    torch.testing.assert_close(method.loss(views)["loss"], info_nce(q, keys, 0.2, older))
    torch.testing.assert_close(method.queue.keys[:8], keys)
    torch.testing.assert_close(method.queue.keys[8:], older[8:])


def test_each_query_is_compared_with_the_key_of_its_own_image() -> None:
    """In evaluation mode the shuffle changes no key, so a shuffle that is not undone shows."""
    method = make().eval()
    x = torch.randn(8, 1, 16, 16)
    torch.testing.assert_close(method.keys(x, torch.randperm(8)), unit(method.momentum_encoder(x)))


def test_the_shuffle_puts_keys_into_other_parts_than_their_queries() -> None:
    method = make()
    x = torch.randn(8, 1, 16, 16)
    shuffled, plain = method.keys(x, torch.tensor([0, 2, 1, 3, 4, 6, 5, 7])), method.keys(x, torch.arange(8))
    assert not torch.allclose(shuffled, plain, atol=1e-3)
    same_parts = method.keys(x, torch.tensor([2, 1, 0, 3, 4, 7, 6, 5]))  # even rows stay even: the same two parts
    torch.testing.assert_close(same_parts, plain, atol=1e-5, rtol=0)


def test_keys_and_momentum_encoder_get_no_gradient() -> None:
    method = make()
    method.loss(batch(method))["loss"].backward()
    assert all(p.grad is None for p in method.momentum_encoder.parameters())
    assert all(p.grad is not None for p in [*method.encoder.parameters(), *method.projector.parameters()])


def test_the_momentum_encoder_moves_after_the_step_by_its_share() -> None:
    method = make()
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.add_(1.0)
    before = [p.clone() for p in method.momentum_encoder.parameters()]
    online = [*method.encoder.parameters(), *method.projector.parameters()]
    method.loss(batch(method))
    assert all(torch.equal(a, b) for a, b in zip(before, method.momentum_encoder.parameters(), strict=True))
    method.after_step(0.5)
    for old, now, p in zip(before, method.momentum_encoder.parameters(), online, strict=True):
        torch.testing.assert_close(now, 0.9 * old + 0.1 * p)


def test_the_momentum_encoder_keeps_batch_statistics_of_its_own() -> None:
    method = make()
    method.loss(batch(method))
    own, copied = method.encoder.stem[1], method.momentum_encoder[0].stem[1]  # type: ignore[index,union-attr]
    assert isinstance(own, SplitBatchNorm2d) and isinstance(copied, SplitBatchNorm2d)
    assert int(copied.num_batches_tracked) == 1
    assert not torch.equal(own.running_mean, copied.running_mean)  # of the other view


def test_the_exported_encoder_has_the_state_of_a_plain_one() -> None:
    plain = encoder_of()
    method = make().eval()
    plain.load_state_dict(method.exported.state_dict())
    x = torch.randn(3, 1, 16, 16)
    torch.testing.assert_close(plain.eval()(x), method.exported(x))


def test_symmetric_adds_both_directions_and_queues_both_keys() -> None:
    method = make(symmetric=True).eval()
    one = make().eval()
    x1, x2, shuffle = batch(method).views
    older = method.queue.read()
    both = method.loss(Batch((x1, x2, shuffle), IDS, 0.0))["loss"]
    one.queue.load_state_dict({"keys": older, "position": torch.zeros((), dtype=torch.int64)})
    first = one.loss(Batch((x1, x2, shuffle), IDS, 0.0))["loss"]
    one.queue.load_state_dict({"keys": older, "position": torch.zeros((), dtype=torch.int64)})
    second = one.loss(Batch((x2, x1, shuffle), IDS, 0.0))["loss"]
    torch.testing.assert_close(both, first + second)
    assert int(method.queue.position) == 16


def test_the_first_version_has_a_linear_head() -> None:
    assert len(make(head="linear").projector) == 1
    assert len(make().projector) == 3


def test_a_queue_longer_than_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.moco\.queue is 128"):
        make(queue=128)


def given(queue: torch.Tensor) -> MoCo:
    """The method with this queue, whose networks hand their input through."""
    method = make(dim=2, queue=len(queue), splits=1, temperature=0.5)
    method.encoder = method.projector = torch.nn.Identity()  # type: ignore[assignment]
    method.momentum_encoder = torch.nn.Identity()
    method.queue.keys.copy_(queue)
    return method


def test_the_worked_example() -> None:
    """One query at a time: a queue of three takes no two keys."""
    losses = []
    for q, k in zip(Q, K, strict=True):
        method = given(QUEUE)
        losses.append(method.loss(Batch((q[None], k[None], torch.zeros(1)), torch.arange(1), 0.0))["loss"].item())
        torch.testing.assert_close(method.queue.keys, torch.stack([k, QUEUE[1], QUEUE[2]]))
    assert losses == pytest.approx([1.27186433, 0.49661551], abs=2e-7)
    assert sum(losses) / 2 == pytest.approx(0.88423992, abs=2e-7)


def test_keys_are_shuffled_and_put_back_within_a_step() -> None:
    method = given(torch.cat([QUEUE, QUEUE[2:]]))
    loss = method.loss(Batch((Q, K, torch.tensor([0.9, 0.1])), torch.arange(2), 0.0))["loss"]
    logits = torch.tensor([[0.6, 1.0, 0.0, -1.0, -1.0], [0.6, 0.0, -1.0, 0.0, 0.0]]) / 0.5
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.zeros(2, dtype=torch.int64)))
    torch.testing.assert_close(method.queue.keys[:2], K)
