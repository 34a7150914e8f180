"""Fine-tuning: the whole encoder and a linear head, trained with labels from a pretrained start."""

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.data import Images
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import DataInfo
from ssl_core.engine.optim import TrainConfig
from ssl_core.engine.train import Position, Trainer
from ssl_core.methods.supervised import Config, Supervised


def finetune(
    encoder: Encoder,
    images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    data: DataInfo,
    augment: AugmentConfig,
    config: TrainConfig,
    epochs: int,
    seed: int,
    device: torch.device,
    on_step: Callable[[Position], None] | None = None,
) -> tuple[Encoder, nn.Linear]:
    """Train a copy of ``encoder`` and a new linear head, with the recipe and the augmentation of its pretraining.

    Args:
        images: (N, C, H, W), all labelled; ``data.labels`` (N,) are their classes.
        epochs: of fine-tuning; replaces the recipe's.

    Returns:
        The trained copy and its head (dim -> classes), on ``device``.
    """
    recipe = dataclasses.replace(config, batch_size=min(config.batch_size, len(images)), health_images=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        method = Supervised(copy.deepcopy(encoder), Config(label_smoothing=0.0), augment, data)
    Trainer(method, Images(images, device), recipe, seed, epochs).run(on_step)
    return method.encoder.eval(), method.head
