"""What methods remember between steps: a queue of keys, a vector per image, a slow copy of a network.

All of it is registered buffers and parameters, so the checkpoint holds it and a resumed run goes on exactly.
"""

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from ssl_core.config import ConfigError
from ssl_core.engine import distributed
from ssl_core.engine.transformer import DropPath
from ssl_core.parts.losses import unit

M = TypeVar("M", bound=nn.Module)


def random_unit(n: int, dim: int) -> Tensor:
    """(n, dim) vectors, uniform on the sphere."""
    return unit(torch.randn(n, dim))


class Queue(nn.Module):
    """The newest ``size`` keys (MoCo, arXiv 1911.05722), first in, first out. Starts with random unit vectors.

    Read, contrast, *then* push: a query whose own key is already inside would be its own negative.
    """

    keys: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.register_buffer("keys", random_unit(size, dim))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))  # slot of the oldest key

    def read(self) -> Tensor:
        """A copy (size, dim): ``push`` overwrites the buffer while the backward pass still needs the old one."""
        return self.keys.clone()

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Replace the oldest keys by these (B, dim) unit vectors of every process.

        Raises:
            ConfigError: the size of the queue is not a multiple of the number of keys.
        """
        keys = distributed.gather_keys(keys)
        size = len(self.keys)
        if size % len(keys):
            raise ConfigError(f"a queue of {size} must be a multiple of the {len(keys)} keys each step brings")
        slots = (self.position + torch.arange(len(keys), device=keys.device)) % size
        self.keys.index_copy_(0, slots, keys.to(self.keys.dtype))
        self.position.copy_((self.position + len(keys)) % size)


def check_queue(where: str, size: int, num_images: int) -> None:
    """Refuse a queue that is longer than the training set: it would hold stale copies of every query as negatives.

    Raises:
        ConfigError: naming ``where``.
    """
    if not 1 <= size <= num_images:
        raise ConfigError(f"{where}.queue is {size}; it must be from 1 to the number of training images, {num_images}")


def fitting_queue(size: int, keys: int, num_images: int) -> int:
    """``size``, or where that is more than the training images the longest queue that they fill, by ``keys`` a step."""
    return num_images // keys * keys if size > num_images else size


class MemoryBank(nn.Module):
    """One unit vector per training image, by its id (NPID, arXiv 1805.01978). Starts random.

    Read, compute the loss, *then* update: the positive of an image is what it was one epoch ago.
    """

    vectors: Tensor

    def __init__(self, num_images: int, dim: int):
        super().__init__()
        self.register_buffer("vectors", random_unit(num_images, dim))

    def read(self) -> Tensor:
        """A copy (N, dim): ``update`` overwrites the buffer while the backward pass still needs the old one."""
        return self.vectors.clone()

    @torch.no_grad()
    def update(self, ids: Tensor, vectors: Tensor, momentum: float) -> None:
        """Move the rows ``ids`` (B,) to ``unit(momentum * old + (1 - momentum) * new)`` of every process's (B, dim)."""
        ids, vectors = distributed.gather_keys(ids), distributed.gather_keys(vectors)
        moved = torch.lerp(vectors.to(self.vectors.dtype), self.vectors[ids], momentum)
        self.vectors.index_copy_(0, ids, unit(moved))


def momentum_copy(module: M) -> M:
    """A copy without gradient, to follow ``module`` slowly (MoCo's key encoder, BYOL's target, DINO's teacher).

    Its BatchNorm layers keep running statistics of their own. It drops no residual branch (as DINO's teacher).
    """
    copied = copy.deepcopy(module).requires_grad_(False)
    for part in copied.modules():
        if isinstance(part, DropPath):
            part.rates.zero_()
    return copied


@torch.no_grad()
def shuffled_keys(network: nn.Module, x: Tensor, order: Tensor) -> Tensor:
    """Unit vectors (B, D) of x (B, ...), computed with the batch of all W processes in ``order`` (W * B,).

    So a query and its key are normalized with different images (MoCo, arXiv 1911.05722, section 3.3).
    """
    own = distributed.local_rows(len(x))
    keys = unit(network(distributed.gather_keys(x)[order][own]))
    return distributed.gather_keys(keys)[torch.argsort(order)][own]


@torch.no_grad()
def update_momentum(copied: nn.Module, source: nn.Module, momentum: float) -> None:
    """``copied <- momentum * copied + (1 - momentum) * source``, parameters only."""
    torch._foreach_lerp_(list(copied.parameters()), list(source.parameters()), 1.0 - momentum)


def momentum_at(base: float, progress: float) -> float:
    """The momentum after the share ``progress`` of the training: ``base`` at 0, 1 at 1 (BYOL, arXiv 2006.07733)."""
    return 1.0 - (1.0 - base) * (math.cos(math.pi * progress) + 1.0) / 2.0
