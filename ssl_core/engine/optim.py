"""Optimizers and the learning-rate schedule, without host-device synchronization."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ssl_core.config import BelowOne, Count, Positive, Share
from ssl_core.engine.method import Method


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train; the comments are in params.yaml."""

    epochs: int
    epoch_share: Positive
    """Share of ``epochs`` that a method trains for, by what its epoch costs, so that one number sets the budget of all."""
    batch_size: Count
    optimizer: Literal["sgd", "adamw", "lars"]
    lr: Positive
    """For 256 images per step; scaled linearly with the batch (Goyal et al., arXiv 1706.02677)."""
    momentum: BelowOne
    weight_decay: float
    decay_norm_and_bias: bool
    """Whether one-dimensional parameters are decayed too (MoCo, SimSiam: yes; BYOL, SimCLR: no)."""
    warmup: Share
    final_lr: Share
    clip_grad: float
    precision: Literal["auto", "bf16", "float32"]
    mode: Literal["fast", "deterministic"]
    threads: Count
    """CPU threads of the training: part of the result, since sums in another order differ in their last bits."""
    processes: Count
    """Processes that share each batch, one per GPU; part of the result for the same reason."""
    stop_on_collapse: bool
    health_images: Count

    @property
    def own_epochs(self) -> int:
        """Epochs this method trains for."""
        return max(1, round(self.epochs * self.epoch_share)) if self.epochs else 0


class Lars(torch.optim.Optimizer):
    """SGD with layer-wise trust ratios (You, Gitman, Ginsburg, arXiv 1708.03888), eta 0.001 as in SimCLR and Barlow Twins.

    For a weight w with gradient g: g' = g + wd * w; buf = mu * buf + eta * |w| / |g'| * g'; w -= lr * buf. The ratio is 1
    where a norm is 0 and for groups with ``adapt`` False (biases, norms). All tensors in a handful of fused calls.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float, eta: float = 0.001):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "adapt": True, "eta": eta})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = torch._foreach_add([p.grad for p in params], params, alpha=group["weight_decay"])
            if group["adapt"]:
                w = torch.stack(torch._foreach_norm(params))
                g = torch.stack(torch._foreach_norm(grads))
                ratio = torch.where((w > 0) & (g > 0), group["eta"] * w / g, 1.0)
                torch._foreach_mul_(grads, list(ratio.unbind()))
            buffers = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in params]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, grads)
            torch._foreach_add_(params, buffers, alpha=-group["lr"])


def build_optimizer(method: Method, config: TrainConfig) -> torch.optim.Optimizer:
    """One group per (method group, decayed or not); the peak learning rate is stored as ``peak_lr``."""
    groups = []
    for group in method.param_groups():
        scale = group.get("lr_scale", 1.0) * config.lr * config.batch_size / 256
        decay = group.get("weight_decay", config.weight_decay)
        for is_matrix in (True, False):
            params = [p for p in group["params"] if (p.ndim > 1) == is_matrix]
            if params:
                decayed = decay if is_matrix or config.decay_norm_and_bias else 0.0
                extra = {"adapt": is_matrix} if config.optimizer == "lars" else {}
                constant = group.get("constant_lr", False)
                groups.append({"params": params, "weight_decay": decayed, "peak_lr": scale, "constant_lr": constant, **extra})
    if config.optimizer == "lars":
        return Lars(groups, lr=0.0, momentum=config.momentum)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(config.momentum, 0.999), foreach=True)
    return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, foreach=True)


def set_lr(optimizer: torch.optim.Optimizer, config: TrainConfig, progress: float) -> float:
    """Linear warm-up, then cosine (per step); returns the factor on the peak rate."""
    if progress < config.warmup:
        factor = progress / config.warmup
    else:
        done = (progress - config.warmup) / max(1e-12, 1 - config.warmup)
        factor = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * (1.0 if group["constant_lr"] else factor)
    return factor


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as flat named tensors (``<parameter index>.<name>``)."""
    state = optimizer.state_dict()["state"]
    named = {f"{i}.{name}": value for i, values in state.items() for name, value in values.items()}
    return {name: torch.as_tensor(value) for name, value in named.items() if value is not None}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Inverse of ``optimizer_tensors``."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    whole = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
