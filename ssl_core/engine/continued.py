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
    maps = encoder.eval().blocks(torch.zeros(1, channels, size, size))
    encoder.train()
    if config.frozen_blocks >= len(maps):
        raise ConfigError(f"encoder.continued.frozen_blocks is {config.frozen_blocks}; of {len(maps)} blocks one must train")
    # What the output of the last frozen block depends on is frozen, whatever the architecture calls it.
    parameters = list(encoder.parameters())
    reached = torch.autograd.grad(maps[config.frozen_blocks - 1].sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, reached, strict=True):
        parameter.requires_grad_(gradient is None)


def _still_norms(encoder: nn.Module, inputs: Any) -> None:
    """Before each forward pass, after ``Module.train`` has set every part to training mode."""
    for module in encoder.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
