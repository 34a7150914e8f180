"""BatchNorm over parts of the batch: on one device what several devices with their own statistics do."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_core.config import ConfigError
from ssl_core.engine import distributed


class SplitBatchNorm2d(nn.Module):
    """``BatchNorm2d`` with statistics of its own for each of ``splits`` parts of the batch (image n is in part n mod splits).

    With statistics of the whole batch a network can tell the key of the current batch from those in the queue without
    looking at the image (MoCo, arXiv 1911.05722, section 3.3). The scheme is that of MoCo's CIFAR demo. In eval mode,
    and in its state dict, it is a ``BatchNorm2d`` whose running statistics are the mean over the parts. It is no
    subclass of it, so the conversion to ``SyncBatchNorm`` leaves it alone: each of W processes has splits / W of the parts.
    What a norm holds (timm's ``BatchNormAct2d``: a drop and an activation) comes after it.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm2d, splits: int):
        super().__init__()
        if not norm.affine or not norm.track_running_stats or norm.momentum is None:
            raise ConfigError("SplitBatchNorm2d needs a BatchNorm2d with scale, shift and exponential running statistics")
        self.splits, self.eps, self.momentum = splits, norm.eps, norm.momentum
        for name, parameter in norm.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in norm.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        for name, child in norm.named_children():
            self.add_module(name, child)
        distributed.keep_children(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape.

        Raises:
            ConfigError: in train mode, when the processes cannot share the parts, or the parts the batch, evenly.
        """
        if not self.training:
            return F.batch_norm(
                x,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                False,
                0.0,
                self.eps,
            )
        n, c, h, w = x.shape
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        splits, left = divmod(self.splits, distributed.world_size())
        if left:
            raise ConfigError(
                f"{self.splits} parts of a batch (splits) must be a multiple of the {distributed.world_size()} processes"
            )
        if n % splits:
            raise ConfigError(f"a batch of {n} cannot be split into {splits} equal parts")
        mean, var = self.running_mean.repeat(splits), self.running_var.repeat(splits)
        parts = x.contiguous().view(n // splits, splits * c, h, w)  # a part is a set of channels of its own
        weight, bias = self.weight.repeat(splits), self.bias.repeat(splits)
        out = F.batch_norm(parts, mean, var, weight, bias, True, self.momentum, self.eps).view(n, c, h, w)
        with torch.no_grad():
            self.running_mean.copy_(distributed.mean(mean.view(splits, c).mean(0)))
            self.running_var.copy_(distributed.mean(var.view(splits, c).mean(0)))
            self.num_batches_tracked += 1
        return out.contiguous(memory_format=layout)


def split_batch_norm(module: nn.Module, splits: int) -> None:
    """Replace, in place, every ``BatchNorm2d`` inside ``module`` by one over ``splits`` parts; 1 changes nothing."""
    if splits == 1:
        return
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, SplitBatchNorm2d(child, splits))
        else:
            split_batch_norm(child, splits)
