"""Published recipes of the methods that compare two views of an image, with lightly's parts (see published.py)."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightly.loss import BarlowTwinsLoss, DINOLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss, VICRegLoss
from lightly.models.modules import NNMemoryBankModule, heads
from lightly.utils.lars import LARS
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_core.engine.method import Batch
from tests.support.published import (
    B,
    Parts,
    Recipe,
    against_queue,
    clipped,
    cosine,
    follow,
    keys,
    rising,
    sgd,
    split,
    trained,
)

Loss = Callable[[Batch], Tensor]
After = Callable[[float], None]


def simclr(start: Any) -> Recipe:
    """lightly's CIFAR-10 benchmark; both views in one batch, as in the paper."""
    parts: Parts = {"encoder": start.encoder, "projector": heads.SimCLRProjectionHead(64, 128, 128)}
    encode, criterion = nn.Sequential(*parts.values()), NTXentLoss(temperature=0.5)  # type: ignore[arg-type]
    return Recipe(parts, sgd(parts, 0.06 * B / 128), lambda b: criterion(*encode(torch.cat(b.views)).chunk(2)))


def moco(start: Any) -> Recipe:
    """The authors' CIFAR-10 notebook, symmetric."""
    parts: Parts = {"encoder": start.encoder, "projector": nn.Sequential(nn.Linear(64, 128))}
    query, queue = nn.Sequential(*parts.values()), start.queue.keys.clone()  # type: ignore[arg-type]
    key = copy.deepcopy(query)

    def contrast(one: Tensor, other: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        k = keys(key, other, order)
        return against_queue(F.normalize(query(one)), k, queue, 0.1), k

    def loss(batch: Batch) -> Tensor:
        nonlocal queue
        x1, x2, draw = batch.views
        if recipe.steps == 0:
            follow(key.parameters(), query.parameters(), 0.0)
        order = torch.argsort(draw)
        (one, k2), (two, k1) = contrast(x1, x2, order), contrast(x2, x1, order)
        queue = torch.cat([queue[2 * B :], k2, k1])
        return one + two

    recipe = Recipe(parts, sgd(parts, 0.03 * B / 256), loss, after=lambda p: follow(key.parameters(), query.parameters(), 0.99))
    return recipe


def online_and_target(start: Any) -> tuple[Parts, Loss, After]:
    """BYOL with lightly's heads: its parts, lightly's loss (a quarter of the paper's, less 1) and the target's update."""
    parts: Parts = {
        "encoder": start.encoder,
        "projector": heads.BYOLProjectionHead(64, 128, 128),
        "predictor": heads.BYOLPredictionHead(128, 128, 128),
    }
    online = nn.Sequential(parts["encoder"], parts["projector"])  # type: ignore[arg-type]
    predictor, target, criterion = parts["predictor"], copy.deepcopy(online), NegativeCosineSimilarity()
    first = [True]

    def loss(batch: Batch) -> Tensor:
        if first.pop() if first else False:
            follow(target.parameters(), online.parameters(), 0.0)
        x1, x2 = batch.views
        q1, q2 = predictor(online(x1)), predictor(online(x2))  # type: ignore[operator]
        with torch.no_grad():
            z1, z2 = target(x1), target(x2)
        return 0.5 * (criterion(q1, z2) + criterion(q2, z1))  # type: ignore[no-any-return]

    return parts, loss, lambda p: follow(target.parameters(), online.parameters(), rising(0.99, p))


def byol(start: Any) -> Recipe:
    """lightly's CIFAR-10 benchmark, with the paper's rising momentum."""
    parts, loss, after = online_and_target(start)
    return Recipe(parts, sgd(parts, 0.06 * B / 128), loss, after=after, shown=lambda x: 4 + 4 * x)


def simsiam(start: Any) -> Recipe:
    """The paper's appendix D."""
    layers = [(64, 128, nn.BatchNorm1d(128), nn.ReLU()), (128, 128, nn.BatchNorm1d(128, affine=False), None)]
    projector, predictor = heads.ProjectionHead(layers), heads.SimSiamPredictionHead(128, 128, 128)  # type: ignore[arg-type]
    parts: Parts = {"encoder": start.encoder, "projector": projector, "predictor": predictor}
    optimizer = sgd({k: v for k, v in parts.items() if k != "predictor"}, 0.03 * B / 256)
    group = {"params": list(predictor.parameters()), "lr": 0.03 * B / 256, "constant": True}
    optimizer.add_param_group(group)
    criterion = NegativeCosineSimilarity()

    def loss(batch: Batch) -> Tensor:
        z1, z2 = (projector(start.encoder(x)) for x in batch.views)
        return 0.5 * (criterion(predictor(z1), z2.detach()) + criterion(predictor(z2), z1.detach()))  # type: ignore[no-any-return]

    return Recipe(parts, optimizer, loss)


def barlow(start: Any) -> Recipe:
    """lightly's CIFAR-10 benchmark."""
    layers = [(64, 128, nn.BatchNorm1d(128), nn.ReLU()), (128, 128, None, None)]
    projector, criterion = heads.ProjectionHead(layers), BarlowTwinsLoss()  # type: ignore[arg-type]
    parts: Parts = {"encoder": start.encoder, "projector": projector}
    return Recipe(parts, sgd(parts, 0.06 * B / 128), lambda b: criterion(*(projector(start.encoder(x)) for x in b.views)))


def vicreg(start: Any) -> Recipe:
    """solo-learn's CIFAR-10 configuration, whose variance term has no half."""
    projector, criterion = heads.VICRegProjectionHead(64, 128, 128), VICRegLoss(25.0, 50.0, 1.0)
    parts: Parts = {"encoder": start.encoder, "expander": projector}
    loss = lambda b: criterion(*(projector(start.encoder(x)) for x in b.views))  # noqa: E731
    return Recipe(parts, clipped(parts, 0.3 * B / 256, 1e-4), loss, lambda p: cosine(p, 0.05))


def swav(start: Any) -> Recipe:
    """lightly's CIFAR-10 benchmark, with prototypes without a bias as in the paper."""
    projector, prototypes, criterion = (
        heads.SwaVProjectionHead(64, 128, 128),
        nn.Linear(128, 256, bias=False),
        SwaVLoss(),
    )
    parts: Parts = {"encoder": start.encoder, "projector": projector, "prototypes": prototypes.weight}

    def loss(batch: Batch) -> Tensor:
        with torch.no_grad():
            prototypes.weight.copy_(F.normalize(prototypes.weight))
        z = F.normalize(projector(start.encoder(torch.cat(batch.views))))
        return criterion(list(prototypes(z).chunk(2)), [])  # type: ignore[no-any-return]

    def after(progress: float) -> None:
        with torch.no_grad():
            prototypes.weight.copy_(F.normalize(prototypes.weight))

    return Recipe(parts, torch.optim.Adam(trained(parts), lr=1e-3 * B / 128, weight_decay=1e-6), loss, after=after)


def dino_parts(start: Any, make_head: Callable[[], nn.Module]) -> tuple[Parts, Loss, After]:
    """DINO with lightly's heads and loss."""
    head = make_head()
    student, criterion = nn.Sequential(start.encoder, head), DINOLoss(256)
    teacher = nn.Sequential(copy.deepcopy(start.encoder), make_head())
    parts: Parts = {"encoder": start.encoder, "head.mlp": head.layers, "head.directions": head.last_layer.weight_v}  # type: ignore[dict-item,union-attr]
    first = [True]

    def forward(network: nn.Module, views: Iterable[Tensor]) -> list[Tensor]:
        views = list(views)
        sizes = sorted({v.shape[-1] for v in views}, reverse=True)
        groups = [torch.cat([v for v in views if v.shape[-1] == side]) for side in sizes]
        encoded = torch.cat([network[0](g) for g in groups])  # type: ignore[index,operator]
        return list(network[1](encoded).chunk(len(views)))  # type: ignore[index,operator]

    def loss(batch: Batch) -> Tensor:
        if first.pop() if first else False:
            follow(teacher.parameters(), student.parameters(), 0.0)
        with torch.no_grad():
            targets = forward(teacher, batch.views[:2])
        return criterion(targets, forward(student, batch.views), teacher_temp=0.04)  # type: ignore[no-any-return]

    momentum = start.config.momentum
    return parts, loss, lambda p: follow(teacher.parameters(), student.parameters(), rising(momentum, p))


def dino(start: Any) -> Recipe:
    """lightly's CIFAR-10 benchmark, with the paper's rising momentum."""

    def head() -> nn.Module:
        made = heads.DINOProjectionHead(64, 128, 128, 256, batch_norm=True)
        layers = [(64, 128, nn.BatchNorm1d(128), nn.GELU()), (128, 128, None, None)]
        made.layers = heads.ProjectionHead(layers).layers  # type: ignore[arg-type]
        return made

    parts, loss, after = dino_parts(start, head)
    return Recipe(parts, sgd(parts, 0.06 * B / 128), loss, after=after)


def nnclr(start: Any) -> Recipe:
    """lightly's CIFAR-10 benchmark with the paper's loss (equation 2)."""
    layers = [(64, 128, nn.BatchNorm1d(128), nn.ReLU()), (128, 128, nn.BatchNorm1d(128), None)]
    projector, predictor = heads.ProjectionHead(layers), heads.NNCLRPredictionHead(128, 128, 128)  # type: ignore[arg-type]
    parts: Parts = {"encoder": start.encoder, "projector": projector, "predictor": predictor}
    memory = NNMemoryBankModule(size=(64, 128))
    memory.bank, memory.bank_ptr = start.queue.keys.clone(), torch.zeros(1, dtype=torch.long)

    def loss(batch: Batch) -> Tensor:
        z1, z2 = (projector(start.encoder(x)) for x in batch.views)
        p1, p2 = F.normalize(predictor(z1)), F.normalize(predictor(z2))
        n2 = memory(z2.detach(), update=False)
        n1 = memory(F.normalize(z1.detach()), update=True)
        return 0.5 * sum(F.cross_entropy(F.normalize(n) @ p.T / 0.5, torch.arange(B)) for n, p in ((n1, p2), (n2, p1)))  # type: ignore[return-value]

    return Recipe(parts, sgd(parts, 0.06 * B / 128), loss)


# ---------------------------------------------------------------------------------------------- ImageNet


def lars(parts: Parts, lr: float, decay: float) -> tuple[LARS, After]:
    """lightly's LARS, which leaves norms and biases alone, and what decays before it, as in the authors' code.

    There the trust ratio is that of the decayed gradient: |w| / |g + wd * w|; lightly's own is |w| / (|g| + wd * |w|).
    """
    optimizer = LARS(split(trained(parts), 1e-30), lr=lr, momentum=0.9, eps=0.0)

    def decayed(progress: float) -> None:
        for p in optimizer.param_groups[0]["params"]:
            p.grad.add_(p.detach(), alpha=decay)

    return optimizer, decayed


def simclr_lars(start: Any) -> Recipe:
    """google-research/simclr's README for 100 epochs: 0.075 * sqrt(4096) at batch 4096, 1e-4, temperature 0.1."""
    parts: Parts = {"encoder": start.encoder, "projector": heads.SimCLRProjectionHead(64, 128, 128)}
    encode, criterion = nn.Sequential(*parts.values()), NTXentLoss(temperature=0.1)  # type: ignore[arg-type]
    optimizer, decayed = lars(parts, 0.075 * 4096**0.5 * B / 4096, 1e-4)
    loss = lambda b: criterion(*encode(torch.cat(b.views)).chunk(2))  # noqa: E731
    return Recipe(parts, optimizer, loss, lambda p: cosine(p, 0.1), before_step=decayed)


def byol_lars(start: Any) -> Recipe:
    """The authors' preset for 100 epochs; lightly's loss is a quarter of theirs, which LARS sees in norms and biases alone."""
    parts, quarter, after = online_and_target(start)
    loss = lambda b: 4 + 4 * quarter(b)  # noqa: E731
    optimizer, decayed = lars(parts, 0.45 * B / 256, 1e-6)
    return Recipe(parts, optimizer, loss, lambda p: cosine(p, 0.1), after, decayed)


def barlow_lars(start: Any) -> Recipe:
    """The authors' main.py: 0.2 for weights, 0.0048 for norms and biases, 1e-6."""
    projector, criterion = heads.BarlowTwinsProjectionHead(64, 128, 128), BarlowTwinsLoss(0.0051)
    parts: Parts = {"encoder": start.encoder, "projector": projector}
    optimizer, decayed = lars(parts, 0.2 * B / 256, 1e-6)
    optimizer.param_groups[1]["lr"] = 0.0048 * B / 256
    loss = lambda b: criterion(*(projector(start.encoder(x)) for x in b.views))  # noqa: E731
    return Recipe(parts, optimizer, loss, lambda p: cosine(p, 0.01, 0.001), before_step=decayed)


def dino_vit(start: Any) -> Recipe:
    """The authors' main_dino.py: AdamW 5e-4 per 256, decay 0.04 to 0.4, each gradient clipped to 3."""
    parts, loss, after = dino_parts(start, lambda: heads.DINOProjectionHead(32, 128, 128, 256))
    optimizer = torch.optim.AdamW(split(trained(parts), 0.04), lr=5e-4 * B / 256)
    directions: Any = parts["head.directions"]

    def before_step(progress: float) -> None:
        optimizer.param_groups[0]["weight_decay"] = 0.4 + (0.04 - 0.4) * cosine(progress)
        for p in trained(parts):
            torch.nn.utils.clip_grad_norm_([p], 3.0)
        if progress < 0.01:
            directions.grad.zero_()

    return Recipe(parts, optimizer, loss, lambda p: cosine(p, 0.1, 5e-4), after, before_step)
