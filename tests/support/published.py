"""What the published recipes of published_views.py and published_others.py have in common (test_parity.py takes their steps).

They are written with lightly's losses, heads and LARS and PyTorch's optimizers where these have them, else from the paper's
equation. Nothing of a method in ``ssl_core`` is called but its encoder, a copy of which each recipe trains.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_core.engine.method import Batch

B, STEPS = 16, 20
Parts = dict[str, nn.Module | Tensor]


def cosine(progress: float, warmup: float = 0.0, end: float = 0.0) -> float:
    """Factor on the rate: linear warm-up, half a cosine from 1 to ``end``."""
    if progress < warmup:
        return progress / warmup
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def pairs(peer: nn.Module | Tensor, ours: nn.Module | Tensor) -> list[tuple[Tensor, Tensor]]:
    """Weights that correspond, in order. A bias that the loss cannot see may stand on the peer's side alone."""
    if isinstance(peer, Tensor) or isinstance(ours, Tensor):
        return [(peer, ours)]  # type: ignore[list-item]
    found, waiting = [], list(ours.parameters())
    for p in peer.parameters():
        if waiting and p.shape == waiting[0].shape:
            found.append((p, waiting.pop(0)))
        else:
            assert p.ndim == 1, p.shape
            nn.init.zeros_(p)
    assert not waiting
    return found


def keys(network: nn.Module, images: Tensor, order: Tensor) -> Tensor:
    """MoCo's keys: no gradient, and batch norm sees the images in another order."""
    with torch.no_grad():
        return F.normalize(network(images[order]))[torch.argsort(order)]


def against_queue(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE of each query with its own key among the queue's."""
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


@dataclass
class Recipe:
    """One published recipe."""

    parts: Parts
    """By their name in our method; all are trained."""
    optimizer: torch.optim.Optimizer
    loss: Callable[[Batch], Tensor]
    rate: Callable[[float], float] = cosine
    """Factor on the rates that the optimizer was made with, by the share of the steps done."""
    after: Callable[[float], None] = lambda progress: None
    """Called after each step with the share done."""
    before_step: Callable[[float], None] = lambda progress: None
    """Called between the gradients and the step."""
    shown: Callable[[float], float] = lambda loss: loss
    """Our loss from the published one, where they differ by a constant."""
    steps: int = field(default=0, init=False)
    run: Any = field(default=None, init=False)
    """Our method, for what a recipe cannot compute by itself (PCL's clusters)."""

    def adopt(self, ours: nn.Module) -> None:
        """Start from our weights."""
        self.run = ours
        with torch.no_grad():
            for peer, own in self.weights(ours).values():
                peer.copy_(own)

    def weights(self, ours: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
        """Every trained weight here and there."""
        found = {}
        for name, part in self.parts.items():
            own = ours.get_parameter(name) if isinstance(part, Tensor) else ours.get_submodule(name)
            found |= {f"{name}.{i}": pair for i, pair in enumerate(pairs(part, own))}
        return found

    def step(self, batch: Batch) -> float:
        """One optimizer step; the loss before it."""
        progress = self.steps / STEPS
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("first", group["lr"]) * (1 if group.get("constant") else self.rate(progress))
        self.before_step(progress)
        self.optimizer.step()
        self.steps += 1
        self.after(self.steps / STEPS)
        return self.shown(loss.item())


def trained(parts: Parts) -> list[Tensor]:
    """All weights of the parts that want a gradient."""
    every: list[Tensor] = []
    for part in parts.values():
        every += [part] if isinstance(part, Tensor) else list(part.parameters())
    return [p for p in every if p.requires_grad]


def sgd(parts: Parts, lr: float, decay: float = 5e-4, **options: Any) -> torch.optim.SGD:
    """SGD on everything, decay on everything."""
    return torch.optim.SGD(trained(parts), lr=lr, momentum=0.9, weight_decay=decay, **options)


def split(weights: Iterable[Tensor], decay: float) -> list[dict[str, Any]]:
    """Two groups: norms and biases are not decayed."""
    weights = list(weights)
    matrices, others = [p for p in weights if p.ndim > 1], [p for p in weights if p.ndim == 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def follow(slow: Iterable[Tensor], fast: Iterable[Tensor], momentum: float) -> None:
    """The exponential moving average of MoCo, BYOL and DINO."""
    with torch.no_grad():
        for s, f in zip(slow, fast, strict=True):
            s.mul_(momentum).add_(f, alpha=1 - momentum)


def rising(base: float, progress: float) -> float:
    """BYOL's and DINO's momentum: from ``base`` to 1."""
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2


class ClippedLars(torch.optim.SGD):
    """solo-learn's LARS: q = eta |w| / (|g| + wd |w|), at most lr; norms and biases by plain SGD."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Scale and decay the gradients, then SGD."""
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.ndim == 1 or p.grad is None or not p.grad.any():
                        continue
                    q = 0.02 * p.norm() / (p.grad.norm() + group["decay"] * p.norm() + 1e-8)
                    p.grad.add_(p, alpha=group["decay"]).mul_(min(float(q) / max(group["lr"], 1e-12), 1.0))
        super().step()


def clipped(parts: Parts, lr: float, decay: float) -> ClippedLars:
    """solo-learn's optimizer."""
    return ClippedLars([{"params": trained(parts), "decay": decay}], lr=lr, momentum=0.9)
