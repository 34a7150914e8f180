"""Training that goes on from weights: slower, and with what is known kept, so that it loses little of what it started with."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ssl_core.config import BelowOne, ConfigError, Positive, Share
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.optim import TrainConfig


@dataclass(frozen=True, kw_only=True)
class ContinueConfig:
    """What is different in a training that starts from weights; the comments are in params.yaml."""

    lr: Positive
    """Learning rate in multiples of ``train.lr``."""
    warmup: Share
    """Share of the steps, in place of ``train.warmup``."""
    frozen_blocks: int
    """How many of ``Encoder.blocks``, from the first on, keep their weights."""
    frozen_norm: bool
    """Whether BatchNorm goes on with the statistics of the weights, and not with those of the batch."""
    average: BelowOne
    """Momentum of the running average of the weights, which is the exported encoder; 0: the weights themselves."""


def slowed(train: TrainConfig, config: ContinueConfig) -> TrainConfig:
    """``train`` for a training that starts from weights."""
    return replace(train, lr=train.lr * config.lr, warmup=config.warmup)


def freeze(encoder: Encoder, config: ContinueConfig, channels: int, size: int) -> None:
    """Take the first blocks and the norms' statistics of ``encoder`` out of the training, in place.

    Args:
        channels: of the images, whose side is ``size``.

    Raises:
        ConfigError: it has fewer blocks, or none would be left to train.
    """
    if config.frozen_norm:
        encoder.register_forward_pre_hook(_still_norms)
    if not config.frozen_blocks:
        return
    numbers, count = first_blocks(encoder, channels, size)
    if config.frozen_blocks >= count:
        raise ConfigError(f"encoder.continued.frozen_blocks is {config.frozen_blocks}; of {count} blocks one must train")
    for parameter, number in zip(encoder.parameters(), numbers, strict=True):
        parameter.requires_grad_(number >= config.frozen_blocks)


def first_blocks(encoder: Encoder, channels: int, size: int) -> tuple[list[int], int]:
    """For each parameter the first of ``Encoder.blocks`` that depends on it, whatever the architecture calls it.

    Args:
        channels: of the images, whose side is ``size``.

    Returns:
        Numbers from 0, in the order of ``encoder.parameters()``, the number of blocks where none depends on it; and that
        number.
    """
    was_training = encoder.training
    maps = encoder.eval().blocks(torch.zeros(1, channels, size, size))
    encoder.train(was_training)
    parameters = list(encoder.parameters())
    numbers = [len(maps)] * len(parameters)
    for number, output in reversed(list(enumerate(maps))):
        reached = torch.autograd.grad(output.sum(), parameters, allow_unused=True, retain_graph=True)
        numbers = [own if gradient is None else number for own, gradient in zip(numbers, reached, strict=True)]
    return numbers, len(maps)


def _still_norms(encoder: nn.Module, inputs: Any) -> None:
    """Before each forward pass, after ``Module.train`` has set every part to training mode."""
    for module in encoder.modules():
        if hasattr(module, "num_batches_tracked"):  # a BatchNorm, or one over parts of a batch
            module.eval()
