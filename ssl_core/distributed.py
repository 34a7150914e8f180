"""The few collective operations methods need. Without a process group each is the identity."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from ssl_core.method import Batch, Method


def world_size() -> int:
    """Number of training processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process."""
    return dist.get_rank() if world_size() > 1 else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        out = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(out, x.contiguous())
        return torch.cat(out)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]


def gather(x: Tensor) -> Tensor:
    """Rows of all processes in rank order (B, ...) -> (world * B, ...), with gradient to every process.

    DDP averages gradients over processes, so a loss that is a mean over *local* rows against gathered ones has the
    gradient of the same loss on the whole batch.
    """
    return _Gather.apply(x) if world_size() > 1 else x  # type: ignore[no-any-return]


@torch.no_grad()
def gather_keys(x: Tensor) -> Tensor:
    """Rows of all processes in rank order, without gradient: for queues, banks and centres."""
    return gather(x.detach())


def local_rows(b: int) -> slice:
    """Which rows of a gathered tensor are this process's own, when each brought ``b``."""
    return slice(rank() * b, (rank() + 1) * b)


@torch.no_grad()
def mean(x: Tensor) -> Tensor:
    """Mean over processes (for logged scalars and centres)."""
    if world_size() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x / world_size()


class _Loss(nn.Module):
    """A method's loss as a forward pass, which is what DistributedDataParallel wraps."""

    def __init__(self, method: "Method"):
        super().__init__()
        self.method = method

    def forward(self, batch: "Batch") -> dict[str, Tensor]:
        return self.method.loss(batch)


def parallel(method: "Method", device: torch.device) -> Callable[["Batch"], dict[str, Tensor]]:
    """The method's loss, with gradients averaged over the processes when there are several."""
    if world_size() == 1:
        return method.loss
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(_Loss(method), device_ids=ids, broadcast_buffers=False)
