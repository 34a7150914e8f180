"""Convolutions on few pixels: torch's own numbers to rounding, and in float64 exactly its gradients."""

import pytest
import torch
from torch import Tensor

from ssl_core.engine.convolutions import TrainedConv3x3, quicken
from ssl_core.engine.encoders import Conv3x3

CASES = [(1, 2), (1, 3), (1, 4), (2, 4), (2, 7), (2, 8), (2, 3)]


def gradients(conv: torch.nn.Module, x: Tensor, upstream: Tensor, bf16: bool) -> tuple[Tensor, Tensor, Tensor]:
    x = x.clone().contiguous(memory_format=torch.channels_last).requires_grad_(True)
    conv.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = conv(x)
    out.backward(upstream.to(out.dtype))
    assert x.grad is not None and conv.weight.grad is not None
    return out.detach().double(), x.grad.double(), conv.weight.grad.clone().double()


@pytest.mark.parametrize(("stride", "side"), CASES)
@pytest.mark.parametrize(("dtype", "bf16", "error"), [(torch.float64, False, 1e-12), (torch.float32, True, 0.02)])
@pytest.mark.fault("F54")
def test_it_is_the_plain_convolution(stride: int, side: int, dtype: torch.dtype, bf16: bool, error: float) -> None:
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(16, 24, 3, stride, 1, bias=False).to(dtype)
    fast = TrainedConv3x3(16, 24, 3, stride, 1, bias=False).to(dtype)
    fast.load_state_dict(plain.state_dict())
    x = torch.randn(32, 16, side, side, dtype=dtype)
    upstream = torch.randn_like(plain(x))
    for ours, its in zip(gradients(fast, x, upstream, bf16), gradients(plain, x, upstream, bf16), strict=True):
        assert (ours - its).abs().max() <= error * its.abs().max()


def test_only_training_takes_another_way_and_the_weights_stay() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(Conv3x3(8, 8, 3, 1, 1, bias=False), torch.nn.ReLU())
    x, names = torch.randn(16, 8, 2, 2), list(net.state_dict())
    before = net(x)
    quicken(net)
    assert type(net[0]) is TrainedConv3x3 and list(net.state_dict()) == names
    assert torch.equal(net.eval()(x), before)
