"""Fine-tuning: an encoder and a linear head trained with labels, by one recipe for every start.

AdamW with a cosine, crop and flip. The rate falls towards the input, by a factor for each block (Clark et al., ELECTRA, ICLR
2020; Bao et al., BEiT, arXiv 2106.08254). The peak rate is chosen among candidates on labels that the choice did not train on.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ssl_core.config import Count, Fraction, Positive
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.continued import first_blocks
from ssl_core.engine.data import Images
from ssl_core.engine.encoders import Encoder
from ssl_core.engine.method import DataInfo
from ssl_core.engine.optim import TrainConfig
from ssl_core.engine.train import Position, Trainer
from ssl_core.evaluation.few_labels import FEW_LABELS, class_balanced_halves
from ssl_core.evaluation.protocol import Labels
from ssl_core.methods.supervised import Config, Supervised


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """The recipe, but for ``train`` and ``augment``; the comments are in params.yaml."""

    shares: tuple[Fraction, ...]
    """Of the training labels; 1 is all of them."""
    draws: Count
    """Random class-balanced choices of a share below 1: the first of those that the probes on few labels see."""
    lr: tuple[Positive, ...]
    """Candidates, as ``train.lr``: for 256 images per step."""
    layer_decay: Fraction
    """Factor on the rate for each block further from the head."""


class Draw(NamedTuple):
    """Training labels to fine-tune with, as row numbers."""

    fit: Tensor
    """To train on when the rate is chosen."""
    check: Tensor
    """To choose the rate by."""

    @property
    def all(self) -> Tensor:
        """To train on with the chosen rate."""
        return torch.cat([self.fit, self.check])


def draws(labels: Labels, share: float, count: int, seed: int) -> list[Draw]:
    """The choices of a ``share`` of the training labels: ``count`` of them, or all the labels once.

    Args:
        seed: of the evaluation, so that a probe on few labels has seen the same ones.
    """
    known = torch.nonzero(labels.train >= 0)[:, 0]
    if share == 1:
        return [Draw(known[~labels.holdout[known]], known[labels.holdout[known]])]
    halves = (class_balanced_halves(labels.train[known], share, seed, FEW_LABELS, number) for number in range(count))
    return [Draw(known[first], known[second]) for first, second in halves]


class Finetuned(Supervised):
    """An encoder that is trained with labels, slower the nearer to its input."""

    def __init__(self, encoder: Encoder, augment: AugmentConfig, data: DataInfo, layer_decay: float):
        super().__init__(encoder, Config(label_smoothing=0.0), augment, data)
        number, count = first_blocks(encoder, data.channels, data.image_size)
        self.scales = [layer_decay ** (count - min(block, count - 1)) for block in number]

    def param_groups(self) -> list[dict[str, Any]]:
        """The head at the full rate, and the blocks."""
        pairs = list(zip(self.encoder.parameters(), self.scales, strict=True))
        blocks = [{"params": [p for p, own in pairs if own == scale], "lr_scale": scale} for scale in sorted(set(self.scales))]
        return [{"params": list(self.head.parameters())}, *blocks]


def finetune(
    encoder: Encoder,
    images: np.ndarray[Any, Any],
    data: DataInfo,
    augment: AugmentConfig,
    train: TrainConfig,
    layer_decay: float,
    seed: int,
    device: torch.device,
    on_step: Callable[[Position], None] | None = None,
) -> tuple[Encoder, nn.Linear]:
    """Train a copy of ``encoder`` and a new linear head.

    Args:
        images: (N, C, H, W), all labelled; ``data.labels`` (N,) are their classes.
        train: its steps stay the same where there are fewer images than a batch holds; an epoch of such is one step.

    Returns:
        The trained copy, in evaluation mode, and its head (dim -> classes), both on ``device``.

    Raises:
        NonFinite: the rate is too high.
    """
    size = min(train.batch_size, len(images))
    steps = train.steps(max(len(images), train.batch_size))
    few = replace(train, batch_size=size, images=steps * size, epochs=None, epoch_share=1.0)
    few = replace(few, lr=train.lr * train.batch_size / size, health_images=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        method = Finetuned(copy.deepcopy(encoder), augment, data, layer_decay)
    Trainer(method, Images(images, device), few, seed).run(on_step)
    return method.encoder.eval(), method.head


def best_rate(accuracies: Sequence[float], rates: Sequence[float]) -> float:
    """The rate with the highest accuracy; the lower one on a tie."""
    return min(zip(accuracies, rates, strict=True), key=lambda pair: (-pair[0], pair[1]))[1]
