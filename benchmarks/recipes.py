"""lightly's recipes, as its documentation writes them: SimCLR, BYOL, MoCo and DINO on the encoder that ours trains."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightly.loss import DINOLoss, NegativeCosineSimilarity, NTXentLoss
from lightly.models.modules import (
    BYOLPredictionHead,
    BYOLProjectionHead,
    DINOProjectionHead,
    MoCoProjectionHead,
    SimCLRProjectionHead,
)
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import BYOLTransform, BYOLView1Transform, BYOLView2Transform, DINOTransform, SimCLRTransform
from torch import Tensor, nn

from benchmarks.augment import MEAN, RECIPE, STD
from tasks.runtime.params import MethodParams

SHARED = {"normalize": {"mean": list(MEAN), "std": list(STD)}, "cj_strength": 0.5}
COLORS = {"cj_bright": 0.8, "cj_contrast": 0.8, "cj_sat": 0.8, "cj_hue": 0.2}
"""Times the strength: those of ``benchmarks.augment.RECIPE``. Nothing blurs, on either side."""


@dataclass(frozen=True)
class Recipe:
    """One method as lightly has it."""

    transform: Any
    """A Pillow image to its views."""
    model: nn.Module
    """All that is trained."""
    loss: Callable[[Sequence[Tensor]], Tensor]
    """Of the views of a batch; moves the momentum copies, as lightly's loops do."""
    before_update: Callable[[], None] = lambda: None
    """Between the backward pass and the optimizer's step."""


def recipe(name: str, encoder: nn.Module, dim: int, size: int, params: MethodParams) -> Recipe:
    """lightly's ``name`` with the widths, momenta, temperatures and views that ``params`` gives ours.

    Args:
        encoder: trained in place; its features are (B, ``dim``).
        size: side of a view.
    """
    return {"simclr": simclr, "byol": byol, "moco": moco, "dino": dino}[name](encoder, dim, size, params)


def simclr(encoder: nn.Module, dim: int, size: int, params: MethodParams) -> Recipe:
    """Two views, one pass for each."""
    config = params.config
    model = nn.Sequential(encoder, SimCLRProjectionHead(dim, config.hidden, config.dim))
    criterion = NTXentLoss(temperature=config.temperature)
    return Recipe(two_views(size), model, lambda views: criterion(model(views[0]), model(views[1])))


def byol(encoder: nn.Module, dim: int, size: int, params: MethodParams) -> Recipe:
    """Each view predicts the target's projection of the other."""
    config = params.config
    online = nn.Sequential(encoder, BYOLProjectionHead(dim, config.hidden, config.dim))
    predictor = BYOLPredictionHead(config.dim, config.hidden, config.dim)
    target, criterion = frozen_copy(online), NegativeCosineSimilarity()
    views = {"input_size": size, "min_scale": RECIPE.crop_scale[0], "gaussian_blur": 0.0, **SHARED, **COLORS}
    transform = BYOLTransform(
        BYOLView1Transform(**views), BYOLView2Transform(solarization_prob=config.second_solarize, **views)
    )

    def loss(views: Sequence[Tensor]) -> Tensor:
        update_momentum(online, target, config.momentum)
        (p0, p1), (z0, z1) = ([predictor(online(x)) for x in views], [target(x).detach() for x in views])
        return 0.5 * (criterion(p0, z1) + criterion(p1, z0))

    return Recipe(transform, nn.ModuleList([online, predictor]), loss)


def moco(encoder: nn.Module, dim: int, size: int, params: MethodParams) -> Recipe:
    """A query, a key of the momentum copy, and a queue of keys."""
    config = params.config
    query = nn.Sequential(encoder, MoCoProjectionHead(dim, config.hidden, config.dim))
    key = frozen_copy(query)
    criterion = NTXentLoss(config.temperature, memory_bank_size=(config.queue, config.dim))

    def loss(views: Sequence[Tensor]) -> Tensor:
        update_momentum(query, key, config.momentum)
        return criterion(query(views[0]), key(views[1]).detach())

    return Recipe(two_views(size), query, loss)


def dino(encoder: nn.Module, dim: int, size: int, params: MethodParams) -> Recipe:
    """The student sees all crops, the teacher the two large ones."""
    config, crops = params.config, params.config.crops
    head, teacher_head = (  # two, since a layer with lightly's weight norm cannot be copied
        DINOProjectionHead(dim, config.hidden, config.dim, config.prototypes, batch_norm=config.norm, freeze_last_layer=1)
        for _ in range(2)
    )
    teacher_head.load_state_dict(head.state_dict())
    deactivate_requires_grad(teacher_head)
    student, teacher = nn.Sequential(encoder, head), nn.Sequential(frozen_copy(encoder), teacher_head)
    criterion = DINOLoss(config.prototypes, warmup_teacher_temp_epochs=5)
    transform = DINOTransform(
        global_crop_size=size,
        global_crop_scale=RECIPE.crop_scale,
        local_crop_size=round(size * crops.size),
        local_crop_scale=crops.scale,
        n_local_views=crops.views,
        gaussian_blur=(0.0, 0.0, 0.0),
        solarization_prob=config.second_solarize,
        **SHARED,
        **COLORS,
    )

    def loss(views: Sequence[Tensor]) -> Tensor:
        update_momentum(student, teacher, config.momentum)
        return criterion([teacher(x).detach() for x in views[:2]], [student(x) for x in views], epoch=0)

    return Recipe(transform, student, loss, lambda: head.cancel_last_layer_gradients(current_epoch=0))


def two_views(size: int) -> SimCLRTransform:
    """The transform of SimCLR, and of MoCo, version 2."""
    return SimCLRTransform(input_size=size, min_scale=RECIPE.crop_scale[0], gaussian_blur=0.0, **SHARED, **COLORS)


def frozen_copy(module: nn.Module) -> nn.Module:
    """The start of a momentum copy."""
    copied = copy.deepcopy(module)
    deactivate_requires_grad(copied)
    return copied


def optimizer(model: nn.Module, params: MethodParams) -> torch.optim.Optimizer:
    """The one that ours is trained with, with its rate and decay."""
    train, weights = params.train, [p for p in model.parameters() if p.requires_grad]
    if train.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay)
    return torch.optim.AdamW(weights, lr=train.lr, weight_decay=train.weight_decay)
