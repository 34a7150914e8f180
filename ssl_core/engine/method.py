"""The contract between a self-supervised method and the one training loop (``ssl_core.engine.train``).

Who may write what; this is what makes resume exact and keeps momentum copies honest:

===============  ====================  ==========================  ==========
member           randomness            buffers                     parameters
===============  ====================  ==========================  ==========
``views``        all of it, from rng   no                          no
``loss``         none                  yes (queue, bank, centre)   no
``after_step``   none                  yes                         yes
``before_epoch`` keyed by the epoch    yes                         yes
===============  ====================  ==========================  ==========
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ssl_core.engine.augment import AugmentConfig, at_side, normalize, view
from ssl_core.engine.encoders import Encoder
from ssl_core.rng import Rng


class Batch(NamedTuple):
    """What ``loss`` sees of one step."""

    views: tuple[Tensor, ...]
    """Whatever ``Method.views`` returned."""
    ids: Tensor
    """(B,) int64 position of each image in the training set."""
    progress: float
    """Share of the training already done, in [0, 1)."""


@dataclass(frozen=True)
class DataInfo:
    """What a method may know about the data before it sees any."""

    num_images: int
    """Training images, N."""
    image_size: int
    """Side in pixels."""
    channels: int
    """1 grey, 3 color."""
    mean: tuple[float, ...]
    """Per channel, of pixels in [0, 1]."""
    std: tuple[float, ...]
    """Likewise."""
    labels: Tensor | None = None
    """(N,) int64, -1 where unknown. Only the supervised baseline reads it."""
    num_classes: int = 0
    """Of the labels."""


Embed = Callable[[nn.Module], Tensor]
"""``embed(module)``: (N, D) float32 outputs of ``module`` for every training image, un-augmented, in id order."""


class Method(nn.Module, ABC):
    """One self-supervised learning algorithm, or a baseline to compare with.

    A method declares its first seven constants as plain literals: ``ssl_core.catalogue`` reads them from the source.
    """

    title: ClassVar[str]
    """What people call it."""
    family: ClassVar[str]
    """``pretext``, ``contrastive``, ``non-contrastive``, ``clustering``, ``reconstruction``, another word, or ``baseline``."""
    year: ClassVar[int]
    """Of its first publication. A baseline has none, and no paper."""
    paper: ClassVar[str]
    """Where to find it: ``arXiv 2002.05709``."""
    from_labels: ClassVar[bool] = False
    """Whether it learns from labels: such a baseline costs what the others save."""
    shows: ClassVar[str] = ""
    """What the rows of its sheet of views are, from the second on (the first is the images)."""
    about_loss: ClassVar[str] = ""
    """What to know of the curve of its loss."""
    noun: ClassVar[str] = ""
    """Of a baseline: what a sentence calls its features, ``raw pixels``; empty: its title."""
    Config: ClassVar[type]
    """Frozen dataclass of the method's own numbers; every field's value comes from params.yaml, none has a default.
    Under each field: the paper's number, and that for small images or short trainings where it differs."""
    alarms: ClassVar[Mapping[str, str]] = {}
    """What it means when a scalar of ``loss``, by its name, is 1: in this step the method goes wrong in a way of its own."""
    own_views: ClassVar[str] = ""
    """What it sees, as its paper asks for, instead of the common random views of ``augment``; empty: those."""

    def __init__(self, encoder: Encoder, config: Any, augment: AugmentConfig, data: DataInfo):
        super().__init__()
        self.encoder = encoder
        self.config = config
        self.augment = augment
        self.data = data
        self.average: Encoder | None = None

    def view(self, images: Tensor, rng: Rng, augment: AugmentConfig | None = None, size: int | None = None) -> Tensor:
        """One random view of each image (B, C, H, W), normalized: (B, C, S, S) float32.

        Args:
            augment: another recipe than the method's.
            size: another side S than the recipe's.
        """
        recipe = augment or self.augment
        return view(images, rng, recipe, self.data.mean, self.data.std, size or recipe.view_side(self.data.image_size))

    def whole(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) at the side that the encoder takes; where they are larger, resized and float in [0, 1]."""
        return at_side(images, self.data.image_size)

    def seen(self, images: Tensor) -> Tensor:
        """The images that ``views`` begins with: as they are stored for the common views, which crop; else ``whole``."""
        return self.whole(images) if self.own_views else images

    def normalize(self, x: Tensor) -> Tensor:
        """Pixels (..., C, H, W), uint8, uint16 or [0, 1], as float32 for the encoder, by the data's mean and spread."""
        return normalize(x, self.data.mean, self.data.std)

    @abstractmethod
    def views(self, images: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Make the training inputs of a batch.

        Args:
            images: (B, C, H, W) uint8 or uint16.
            rng: the only source of randomness; per-sample rows.

        Returns:
            Any tuple of tensors, usually (B, ...): augmented images, tiles, labels, drawn negatives.
        """

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss": scalar}`` plus scalars worth logging. May write buffers; never parameters, never draws."""

    @classmethod
    def largest_batch(cls, config: Any, num_images: int) -> int:
        """The most images that a step may take of ``num_images``."""
        return num_images

    @classmethod
    def fitted(cls, config: Any, batch_size: int, num_images: int) -> Any:
        """``config`` with what counts images (a queue, clusters) lowered to what steps of ``batch_size`` images allow."""
        return config

    def before_epoch(self, epoch: int, embed: Embed) -> None:
        """Called before each epoch (the E-step of clustering methods); see ``epoch_work_from``."""

    @property
    def epoch_work_from(self) -> float:
        """Share of the training before which ``before_epoch`` is not called. It is called there, within an epoch too, so that
        a training of a single epoch has it."""
        return 0.0

    def after_step(self, progress: float) -> None:
        """Called after each optimizer step (momentum copies, unit-norm prototypes). ``progress`` in (0, 1]."""

    def keep_average(self, momentum: float) -> None:
        """Export a running average of the learned weights over the steps, and not what they are at the end."""
        self.average, self.average_momentum = copy.deepcopy(self.learned).requires_grad_(False), momentum

    @torch.no_grad()
    def follow(self) -> None:
        """After each step, for the loop: move the average, the norms' statistics too; counters are copied."""
        if self.average is None:
            return
        for own, other in zip(self.average.state_dict().values(), self.learned.state_dict().values(), strict=True):
            if own.is_floating_point():
                own.lerp_(other, 1.0 - self.average_momentum)
            else:
                own.copy_(other)

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of trained parameters; a group may set ``lr_scale``, ``constant_lr`` or ``weight_decay``."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def raised(self, means: Mapping[str, float]) -> dict[str, str]:
        """The ``alarms`` that were on in most steps of an epoch, given the epoch's mean scalars."""
        return {name: text for name, text in self.alarms.items() if means.get(name, 0.0) > 0.5}

    @property
    def learned(self) -> Encoder:
        """What the training leaves: the encoder, or of a method with a teacher perhaps the teacher's."""
        return self.encoder

    @property
    def exported(self) -> Encoder:
        """The encoder that evaluation and users see: what was learned, or its average."""
        return self.learned if self.average is None else self.average
