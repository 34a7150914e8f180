"""3x3 convolutions on maps of a few pixels, for the training on a CPU: the same numbers to rounding, in less time.

oneDNN's gradients for such maps are slow: with 192 to 192 channels at 2x2 they take 3.5 times as long as the forward pass.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from ssl_core.engine.encoders import Conv3x3

SMALL = 16
"""Output pixels up to which the product below beats oneDNN's weight gradient (bfloat16, AVX512-BF16 with and without AMX)."""


class TrainedConv3x3(Conv3x3):
    """A ``Conv3x3`` that is fast in training."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = ((side - 1) // self.stride[0] + 1 for side in x.shape[-2:])
        if not self.training or height * width > SMALL or x.shape[-1] == 1 or self.groups > 1 or self.bias is not None:
            return super().forward(x)
        if x.shape[-2:] == (2, 2) and self.stride == (1, 1) and len(x) >= self.in_channels:
            return on_four_pixels(x, self.weight)
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else x.dtype
        with torch.autocast("cpu", enabled=False):
            return _SmallConv.apply(x.to(dtype), self.weight.to(dtype), self.stride[0])  # type: ignore[no-any-return,no-untyped-call]


def quicken(module: nn.Module) -> None:
    """Make every ``Conv3x3`` of ``module`` a ``TrainedConv3x3``; names and weights stay."""
    for conv in module.modules():
        if type(conv) is Conv3x3:
            conv.__class__ = TrainedConv3x3


def on_four_pixels(x: Tensor, weight: Tensor) -> Tensor:
    """The padded 3x3 convolution of (B, C, 2, 2) with (D, C, 3, 3), as one product with a (4 D, 4 C) matrix -> (B, D, 2, 2).

    Every output pixel sees every input pixel, each through one of the nine taps; the other five see padding.
    """
    n, channels = x.shape[:2]
    taps = torch.stack([weight[:, :, 1 - i : 3 - i, 1 - j : 3 - j] for i in (0, 1) for j in (0, 1)])
    matrix = taps.permute(0, 1, 3, 4, 2).reshape(-1, 4 * channels)
    out = F.linear(x.permute(0, 2, 3, 1).reshape(n, 4 * channels), matrix)
    return out.view(n, 2, 2, -1).permute(0, 3, 1, 2)


class _SmallConv(torch.autograd.Function):
    """A padded 3x3 convolution whose weight gradient is one matrix product of the gradient with the windows of the input."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride  # type: ignore[attr-defined]
        return F.conv2d(x, weight, stride=stride, padding=1)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        stride = ctx.stride  # type: ignore[attr-defined]
        to_input = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            to_input = conv2d_input(x.shape, weight, grad, stride=stride, padding=1)  # type: ignore[no-untyped-call]
        channels = grad.shape[1]
        rows = grad.permute(0, 2, 3, 1).reshape(-1, channels)
        to_weight = (rows.T @ _windows(x, stride)).view(channels, 3, 3, x.shape[1]).permute(0, 3, 1, 2)
        return to_input, to_weight, None


def _windows(x: Tensor, stride: int) -> Tensor:
    """The padded 3x3 windows of (B, C, H, W), a row for each output pixel: (B * h * w, 9 * C), channels last."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    windows = padded.unfold(1, 3, stride).unfold(2, 3, stride)  # (B, h, w, C, 3, 3)
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * x.shape[1])
