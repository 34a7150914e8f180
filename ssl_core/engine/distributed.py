"""The few collective operations methods need. Without a process group each is the identity.

Row n of a batch is computed by process n mod W, whatever W is: a batch, its order and (keyed by image) its views are those
of one process, and a part of the batch that has BatchNorm statistics of its own (``SplitBatchNorm2d``) stays in one process.
What W processes compute then differs from what one computes only by the order of sums; but for Exemplar, where each process
chooses the images of its own share of a batch.
"""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from ssl_core.engine.method import Batch, Method


def world_size() -> int:
    """Number of training processes, W."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process."""
    return dist.get_rank() if world_size() > 1 else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        out = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(out, x.contiguous())
        return torch.stack(out, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad[local_rows(len(grad) // world_size())]


def gather(x: Tensor) -> Tensor:
    """Rows (B, ...) of all processes in the order of the batch (W * B, ...), with gradient to every process.

    DDP averages gradients over processes, so a loss that is a mean over *local* rows against gathered ones has the
    gradient of the same loss on the whole batch.
    """
    return _Gather.apply(x) if world_size() > 1 else x  # type: ignore[no-any-return]


@torch.no_grad()
def gather_keys(x: Tensor) -> Tensor:
    """Rows of all processes in the order of the batch, without gradient: for queues, banks and centres."""
    return gather(x.detach())


def local_rows(b: int) -> slice:
    """Which rows of a gathered tensor are this process's own, when each brought ``b``."""
    return slice(rank(), world_size() * b, world_size())


@torch.no_grad()
def mean(x: Tensor) -> Tensor:
    """Mean over processes (for logged scalars and centres)."""
    if world_size() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x / world_size()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of those ``values`` (B,) where ``mask`` (B,) is 1, over the rows of all processes; 0 when there is none.

    Each process gets its share of it: the mean over the processes is the mean over the rows.
    """
    return (values * mask).sum() / mean(mask.sum()).clamp(min=1 / world_size())


def any_of(*flags: bool) -> tuple[bool, ...]:
    """For each flag whether some process raised it; every process gets the same answer."""
    if world_size() == 1:
        return flags
    raised = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return tuple(bool(flag) for flag in raised)


def broadcast_bytes(data: bytes = b"") -> bytes:
    """The first process's ``data``, in every process."""
    if world_size() == 1:
        return data
    length = torch.tensor(len(data))
    dist.broadcast(length, 0)
    content = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data and not rank() else None
    if content is None:
        content = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(content, 0)
    return content.numpy().tobytes()


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the rows of all processes, on any device: torch's ``SyncBatchNorm`` takes none on a CPU.

    Every process must bring the same number of rows.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) or (B, C, H, W) -> the same shape and type."""
        if not self.training:
            return super().forward(x)
        rows, per_channel = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        wide = x if x.dtype == torch.float64 else x.float()
        own = torch.stack(torch.var_mean(wide, rows, correction=0))
        variances, averages = gather(own[None]).unbind(1)
        average = averages.mean(0)
        variance = variances.mean(0) + (averages - average).square().mean(0)
        self._remember(average.detach(), variance.detach(), world_size() * x.numel() // x.shape[1])
        out = (wide - average.view(per_channel)) * torch.rsqrt(variance + self.eps).view(per_channel)
        if self.affine:
            out = out * self.weight.view(per_channel) + self.bias.view(per_channel)
        return out.to(x.dtype)

    @torch.no_grad()
    def _remember(self, average: Tensor, variance: Tensor, n: int) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(average, self.momentum)
        self.running_var.lerp_(variance * (n / (n - 1)), self.momentum)
        self.num_batches_tracked += 1


def keep_children(norm: nn.Module) -> None:
    """Let the modules that a norm holds come after it, in their order, where it took the place of one that did so.

    timm's ``BatchNormAct2d`` holds a drop and an activation.
    """
    if list(norm.children()):
        norm.register_forward_hook(_then_children)


def _then_children(norm: nn.Module, inputs: object, out: Tensor) -> Tensor:
    for child in norm.children():
        out = child(out)
    return out


class _Loss(nn.Module):
    """A method's loss as a forward pass, which is what DistributedDataParallel wraps."""

    def __init__(self, method: "Method"):
        super().__init__()
        self.method = method

    def forward(self, batch: "Batch") -> dict[str, Tensor]:
        return self.method.loss(batch)


def _synchronize(method: nn.Module, device: torch.device) -> None:
    """Make every BatchNorm one over all processes; those with an activation inside keep it."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]
    else:
        for norm in [m for m in method.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]:
            norm.__class__ = SyncBatchNorm  # type: ignore[assignment]
    for synchronized in [m for m in method.modules() if isinstance(m, (nn.SyncBatchNorm, SyncBatchNorm))]:
        keep_children(synchronized)


def parallel(method: "Method", device: torch.device) -> Callable[["Batch"], dict[str, Tensor]]:
    """The method's loss; with several processes, their BatchNorm in step and their gradients averaged.

    Changes the BatchNorm layers of ``method`` in place; weights, buffers and their names stay.
    """
    if world_size() == 1:
        return method.loss
    _synchronize(method, device)
    ids = [device.index] if device.type == "cuda" else None
    with warnings.catch_warnings():  # newer torch has another name for the last argument, older ones only this
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        return nn.parallel.DistributedDataParallel(_Loss(method), device_ids=ids, broadcast_buffers=False)
