"""Queue, memory bank, momentum copies and split BatchNorm: what is remembered, in which order, and that it resumes."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional as F

from ssl_core.config import ConfigError
from ssl_core.engine import distributed
from ssl_core.parts.memory import MemoryBank, Queue, check_queue, momentum_copy, update_momentum
from ssl_core.parts.normalization import SplitBatchNorm2d, split_batch_norm


def batch_of(value: float, rows: int = 2) -> torch.Tensor:
    return torch.full((rows, 3), value)


def test_the_queue_keeps_the_newest_keys_and_wraps_around() -> None:
    queue = Queue(6, 3)
    for value in (1.0, 2.0, 3.0, 4.0):
        queue.push(batch_of(value))
    assert queue.keys[:, 0].tolist() == [4.0, 4.0, 2.0, 2.0, 3.0, 3.0]
    assert int(queue.position) == 2


def test_the_queue_starts_with_unit_vectors() -> None:
    torch.testing.assert_close(Queue(16, 5).keys.norm(dim=1), torch.ones(16))


def test_what_was_read_from_the_queue_does_not_change_when_keys_are_pushed() -> None:
    queue = Queue(4, 3)
    before = queue.keys.clone()
    query = torch.ones(1, 3, requires_grad=True)
    loss = (query @ queue.read().T).sum()
    queue.push(batch_of(7.0))
    loss.backward()
    torch.testing.assert_close(query.grad, before.sum(0, keepdim=True))


def test_a_queue_that_is_no_multiple_of_the_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="queue of 6 must be a multiple of the 4 keys"):
        Queue(6, 3).push(batch_of(1.0, rows=4))


def test_a_queue_longer_than_the_training_set_is_refused_by_name() -> None:
    check_queue("method.moco", 100, 100)
    with pytest.raises(ConfigError, match=r"method\.moco\.queue is 101"):
        check_queue("method.moco", 101, 100)


def test_queue_and_bank_resume_from_their_state() -> None:
    for make in (lambda: Queue(4, 3), lambda: MemoryBank(4, 3)):
        first, second = make(), make()
        if isinstance(first, Queue):
            first.push(batch_of(2.0))
        second.load_state_dict(first.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))


def test_the_bank_moves_only_the_rows_of_the_batch_and_keeps_them_unit() -> None:
    bank = MemoryBank(5, 2)
    before = bank.vectors.clone()
    new = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    bank.update(torch.tensor([3, 1]), new, 0.25)
    for row, vector in ((3, new[0]), (1, new[1])):
        torch.testing.assert_close(bank.vectors[row], F.normalize(0.25 * before[row] + 0.75 * vector, dim=0))
    assert torch.equal(bank.vectors[[0, 2, 4]], before[[0, 2, 4]])


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))


def test_the_momentum_copy_needs_no_gradient_and_shares_no_memory() -> None:
    source = network()
    copied = momentum_copy(source)
    assert not any(p.requires_grad for p in copied.parameters())
    assert all(p.requires_grad for p in source.parameters())
    assert not {p.data_ptr() for p in source.parameters()} & {p.data_ptr() for p in copied.parameters()}


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.99, 1.0])
def test_the_momentum_update_is_the_weighted_mean_of_the_parameters(momentum: float) -> None:
    source, copied = network(), momentum_copy(network())
    old = [p.clone() for p in copied.parameters()]
    update_momentum(copied, source, momentum)
    for before, now, target in zip(old, copied.parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(now, momentum * before + (1 - momentum) * target.detach(), rtol=0, atol=1e-7)
        if momentum in (0.0, 1.0):
            assert torch.equal(now, before if momentum else target)


def test_the_momentum_update_leaves_running_statistics_alone() -> None:
    source, copied = network(), momentum_copy(network())
    source(torch.randn(4, 1, 8, 8))
    update_momentum(copied, source, 0.0)
    assert torch.equal(copied[1].running_mean, torch.zeros(4))  # type: ignore[index]


def norms(splits: int, channels: int = 3) -> tuple[nn.BatchNorm2d, SplitBatchNorm2d]:
    plain = nn.BatchNorm2d(channels)
    with torch.no_grad():
        plain.weight.copy_(torch.linspace(0.5, 1.5, channels))  # type: ignore[union-attr]
        plain.bias.copy_(torch.linspace(-1, 1, channels))  # type: ignore[union-attr]
    return plain, split_of(plain, splits)


def split_of(plain: nn.BatchNorm2d, splits: int) -> SplitBatchNorm2d:
    twin = nn.BatchNorm2d(plain.num_features)
    twin.load_state_dict(plain.state_dict())
    return SplitBatchNorm2d(twin, splits)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_split_batch_norm_is_batch_norm_of_every_part(layout: torch.memory_format) -> None:
    plain, split = norms(4)
    x = torch.randn(12, 3, 5, 5).contiguous(memory_format=layout)
    out = split(x)
    assert out.is_contiguous(memory_format=layout)
    means, variances = [], []
    for part in range(4):
        own = split_of(plain, 1)
        torch.testing.assert_close(out[part::4], own(x[part::4]), rtol=0, atol=2e-6)
        means.append(own.running_mean)
        variances.append(own.running_var)
    torch.testing.assert_close(split.running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(split.running_var, torch.stack(variances).mean(0))


def test_split_batch_norm_with_one_part_is_batch_norm_in_training_and_evaluation() -> None:
    plain, split = norms(1)
    x = torch.randn(6, 3, 4, 4)
    torch.testing.assert_close(split(x), plain(x))
    plain.eval(), split.eval()
    torch.testing.assert_close(split(x), plain(x))
    assert split.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("replaced", ["split", "of all processes", "of all GPUs"])
def test_what_takes_the_place_of_a_norm_with_an_activation_inside_keeps_it(replaced: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4, act_layer=nn.PReLU), nn.Conv2d(4, 2, 3))
    x, before = torch.randn(8, 3, 6, 6), {k: v.clone() for k, v in net.state_dict().items()}
    twin = copy.deepcopy(net)
    expected = net.eval()(x)
    if replaced == "split":
        split_batch_norm(net, 2)
    else:
        distributed._synchronize(net, torch.device("cuda" if replaced == "of all GPUs" else "cpu"))
    assert type(net[1]) is not BatchNormAct2d and net.state_dict().keys() == before.keys()
    torch.testing.assert_close(net.eval()(x), expected)
    if replaced == "of all processes":  # one here
        torch.testing.assert_close(net.train()(x), twin.train()(x))


def test_split_batch_norm_refuses_a_batch_it_cannot_split() -> None:
    with pytest.raises(ValueError, match="6 cannot be split into 4"):
        norms(4)[1](torch.randn(6, 3, 2, 2))


def test_split_batch_norm_replaces_every_layer_and_keeps_the_state_dict() -> None:
    net = nn.Sequential(network(), nn.Sequential(nn.BatchNorm2d(4)))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    split_batch_norm(net, 2)
    assert sum(isinstance(m, SplitBatchNorm2d) for m in net.modules()) == 2
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
