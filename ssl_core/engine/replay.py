"""One step of a training under watch: where the first number that is not finite comes from."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from ssl_core.engine.method import Batch
from ssl_core.engine.train import NonFinite, Position, Trainer


class _Reached(Exception):
    """The training is where it was to stop."""


@dataclass(frozen=True)
class Repeated:
    """A step that was made again."""

    ids: Tensor
    """(B,) int64 positions of the images of its batch; of several processes, this one's."""
    loss: str
    """The bits of the float32, 8 hexadecimal digits: two that are not a number differ by them."""
    shown: str
    """The loss as a decimal number."""
    where: str | None
    """What was not finite first; None if all of it was finite."""


def advance(trainer: Trainer, step: int, on_step: Callable[[Position], None] = lambda position: None) -> None:
    """Train up to ``step``; nothing of that step is done yet."""

    def stop(position: Position) -> None:
        on_step(position)
        if position.step >= step:
            raise _Reached

    if trainer.step < step:
        with contextlib.suppress(_Reached):
            trainer.run(stop)


def repeat(trainer: Trainer) -> Repeated:
    """Make the next step of ``trainer`` and look at every output of a module and at its gradient.

    A step that is not finite leaves the weights as they were.
    """
    watch, trainer.guard_steps, where = _Watch(trainer), 1, None
    hook = register_module_forward_hook(watch.after_module)
    trainer.forward = watch.forward
    try:
        advance(trainer, trainer.step + 1)
    except NonFinite:
        where = watch.where()
    finally:
        hook.remove()
        trainer.forward = watch.unwatched
    if watch.loss.dim():  # no step was made: the features before it are not finite
        return Repeated(watch.ids.cpu(), "", "", None)
    loss = watch.loss.float().cpu()
    bits = int(loss.view(torch.int32)) & 0xFFFFFFFF
    return Repeated(watch.ids.cpu(), f"{bits:08x}", f"{loss.item():g}", where)


class _Watch:
    """What was seen of a step; ``found`` is the first thing that was not finite."""

    def __init__(self, trainer: Trainer):
        self.unwatched = trainer.forward
        self.parameters = list(trainer.method.named_parameters())
        self.names = {module: name for name, module in trainer.method.named_modules()}
        self.found: str | None = None
        self.ids = self.loss = torch.empty(0)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """In the place of ``Trainer.forward``."""
        self.ids = batch.ids
        self._look("a view of the batch is not finite", batch.views)
        out = self.unwatched(batch)
        self.loss = out["loss"].detach()
        self._look("the loss itself is not finite; every output of a module is", self.loss)
        return out

    def after_module(self, module: nn.Module, given: Any, out: Any) -> None:
        """A module has given ``out``."""
        if module not in self.names:  # of a copy, whose health is looked at
            return
        name = f"{self.names[module]} ({type(module).__name__})"
        own = ", whose weights are not finite" if self._broken(list(module.parameters(recurse=False))) else ""
        self._look(f"the first output that is not finite is that of {name}{own}", out)
        if isinstance(out, Tensor) and out.requires_grad:
            what = f"the first gradient that is not finite is that of the output of {name}"
            out.register_hook(partial(self._look, what))  # type: ignore[no-untyped-call]

    def where(self) -> str:
        """What was not finite first; the gradients of weights come last."""
        for name, parameter in self.parameters:
            self._look(f"the gradient of {name} is not finite; that of every output is", parameter.grad)
        return self.found or "the norm of the gradient is not finite; each gradient is"

    def _look(self, what: str, values: Any) -> None:
        if self.found is None and self._broken(values):
            self.found = what

    def _broken(self, values: Any) -> bool:
        if isinstance(values, Tensor):
            return values.is_floating_point() and not bool(torch.isfinite(values).all())
        return isinstance(values, (list, tuple)) and any(map(self._broken, values))
