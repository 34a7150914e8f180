"""Optimizers and their schedules, without host-device synchronization."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ssl_core.config import BelowOne, Count, Fraction, Positive, Share
from ssl_core.engine.method import Method


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train; the comments are in params.yaml."""

    images: Count
    """Training images seen, each as often as it comes up: a budget that fits few images and many."""
    epochs: int | None
    """Passes over the training images instead of ``images``, as published recipes count; 0: no training."""
    epoch_share: Positive
    """A method's share of the budget, by what an image costs it, so that one number gives all the same time."""
    batch_size: Count
    optimizer: Literal["sgd", "adam", "adamw", "lars"]
    lr: Positive
    """For 256 images per step; scaled linearly with the batch (Goyal et al., arXiv 1706.02677)."""
    momentum: BelowOne
    beta2: BelowOne
    """Second beta of AdamW. MAE: 0.95."""
    nesterov: bool
    """Whether SGD looks ahead. RotNet: yes."""
    lars_eta: Positive
    """Trust of LARS. SimCLR, BYOL, Barlow Twins, VICReg: 0.001; solo-learn, with ``lars_clip``: 0.02."""
    lars_clip: bool
    """Whether LARS's ratio may only lower the rate."""
    weight_decay: float
    final_weight_decay: float | None
    """Where a cosine takes the weight decay by the end; null: it is constant. DINO on ViTs: from 0.04 to 0.4."""
    decay_norm_and_bias: bool
    """Whether one-dimensional parameters are decayed too (MoCo, SimSiam: yes; BYOL, SimCLR: no)."""
    norm_and_bias_lr: Positive
    """Rate of one-dimensional parameters in multiples of ``lr``. Barlow Twins: 0.024, most others: 1."""
    warmup: Share
    final_lr: Share
    lr_steps: tuple[Share, ...]
    """Shares of the training at which the rate falls by ``lr_step_factor``, instead of a cosine; empty: a cosine."""
    lr_step_factor: Fraction
    clip_grad: float
    clip_each: bool
    """Clip the gradient of each parameter by itself (DINO), not that of all together."""
    precision: Literal["auto", "bf16", "float32"]
    mode: Literal["fast", "deterministic"]
    threads: Count
    """CPU threads of the training: part of the result, since sums in another order differ in their last bits."""
    processes: Count
    """Processes that share each batch, one per GPU; part of the result for the same reason."""
    stop_on_collapse: bool
    health_images: Count

    @property
    def trains(self) -> bool:
        """Whether there is a training at all."""
        return self.epochs != 0

    def steps(self, num_images: int) -> int:
        """Optimizer steps of this method's share of the budget, on so many training images."""
        if self.epochs is None:
            return max(1, round(self.images * self.epoch_share / self.batch_size))
        return max(1, round(num_images // self.batch_size * self.epochs * self.epoch_share)) if self.epochs else 0


class _Plain(torch.optim.Optimizer):
    """torch's optimizer without the wrappers that keep its compiler out: a first call imports the whole compiler, for 1.6 s."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class Sgd(_Plain, torch.optim.SGD):
    """SGD, as torch has it."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class Adam(_Plain, torch.optim.Adam):
    """Adam, as torch has it."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class AdamW(_Plain, torch.optim.AdamW):
    """AdamW, as torch has it."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class Lars(_Plain):
    """SGD with layer-wise trust ratios (You, Gitman, Ginsburg, arXiv 1708.03888), as the codes of SimCLR and BYOL have it: the
    norm is of the gradient with its decay, where the paper adds two norms, and the rate is outside the momentum.

    For a weight w with gradient g: g' = g + wd * w; q = eta * |w| / |g'|; buf = mu * buf + q * g'; w -= lr * buf. The ratio
    q is 1 where a norm is 0 and for groups with ``adapt`` False (biases, norms). With ``clip``, as in solo-learn, it is
    min(q / lr, 1), so that lr alone decides where it is smaller than q, |g| + wd * |w| stands for |g'|, and a weight without
    a gradient is not decayed. All tensors in a handful of fused calls.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float, eta: float = 0.001, clip: bool = False):
        options = {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "adapt": True, "eta": eta, "clip": clip}
        super().__init__(groups, options)

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
                if group["clip"]:
                    plain = torch.stack(torch._foreach_norm([p.grad for p in params]))
                    g = plain + group["weight_decay"] * w
                else:
                    g = torch.stack(torch._foreach_norm(grads))
                ratio = torch.where((w > 0) & (g > 0), group["eta"] * w / g, 1.0)
                if group["clip"]:
                    ratio = torch.where(plain > 0, (ratio / max(group["lr"], 1e-12)).clamp(max=1.0), 0.0)
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
                extra: dict[str, Any] = {"adapt": is_matrix} if config.optimizer == "lars" else {}
                constant = group.get("constant_lr", False)
                peak = scale * (1.0 if is_matrix else config.norm_and_bias_lr)
                extra |= {"peak_lr": peak, "constant_lr": constant, "first_weight_decay": decayed}
                groups.append({"params": params, "weight_decay": decayed, **extra})
    if config.optimizer == "lars":
        return Lars(groups, 0.0, config.momentum, config.lars_eta, config.lars_clip)
    if config.optimizer in ("adam", "adamw"):
        adam = Adam if config.optimizer == "adam" else AdamW
        return adam(groups, lr=0.0, betas=(config.momentum, config.beta2), foreach=True)
    return Sgd(groups, lr=0.0, momentum=config.momentum, nesterov=config.nesterov, foreach=True)


def set_lr(optimizer: torch.optim.Optimizer, config: TrainConfig, progress: float) -> float:
    """Linear warm-up, then a cosine or steps (per step); returns the factor on the peak rate."""
    if progress < config.warmup:
        factor = progress / config.warmup
    elif config.lr_steps:
        factor = config.lr_step_factor ** sum(progress >= step for step in config.lr_steps)
    else:
        done = (progress - config.warmup) / max(1e-12, 1 - config.warmup)
        factor = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * (1.0 if group["constant_lr"] else factor)
    return factor


def set_weight_decay(optimizer: torch.optim.Optimizer, config: TrainConfig, progress: float) -> None:
    """Move the weight decay of the groups that have one along a cosine to ``final_weight_decay``, if that is given."""
    if config.final_weight_decay is None:
        return
    left = 0.5 * (1 + math.cos(math.pi * progress))
    for group in optimizer.param_groups:
        if group["first_weight_decay"]:
            group["weight_decay"] = config.final_weight_decay + (group["first_weight_decay"] - config.final_weight_decay) * left


def clip(grads: list[Tensor], norms: Sequence[Tensor], total: Tensor, config: TrainConfig) -> None:
    """Scale the gradients in place to ``clip_grad``: each to its own norm, or all to the norm of them together, ``total``."""
    if config.clip_grad > 0 and config.clip_each:
        torch._foreach_mul_(grads, [(config.clip_grad / (norm + 1e-6)).clamp(max=1.0) for norm in norms])
    elif config.clip_grad > 0:
        torch._foreach_mul_(grads, (config.clip_grad / (total + 1e-6)).clamp(max=1.0))


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
