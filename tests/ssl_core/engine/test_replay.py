"""A step under watch: it is the step of the training, and the first number that is not finite is found."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ssl_core.engine.replay import advance, repeat
from ssl_core.engine.train import NonFinite, Trainer
from tests.ssl_core.engine.test_contract import TRAINED, build, state


def weight(trainer: Trainer) -> None:
    dict(trainer.method.named_modules())["encoder.stem.0"].weight.data[0] = math.inf


def view(trainer: Trainer) -> None:
    views = trainer.method.views
    trainer.method.views = lambda images, rng: tuple(v * math.nan for v in views(images, rng))  # type: ignore[method-assign]


def loss(trainer: Trainer) -> None:
    forward = trainer.forward
    trainer.forward = lambda batch: {"loss": forward(batch)["loss"] * math.inf}


def gradient_of_an_output(trainer: Trainer) -> None:
    def spoil(module: Any, given: Any, out: torch.Tensor) -> None:
        out.register_hook(lambda gradient: gradient * math.inf)

    trainer.method.encoder.register_forward_hook(spoil)


def gradient_of_a_weight(trainer: Trainer) -> None:
    next(trainer.method.parameters()).register_hook(lambda gradient: gradient * math.nan)


FAULTS: list[tuple[Callable[[Trainer], None], str]] = [
    (weight, "the first output that is not finite is that of encoder.stem.0 (Conv2d), whose weights are not finite"),
    (view, "a view of the batch is not finite"),
    (loss, "the loss itself is not finite; every output of a module is"),
    (gradient_of_an_output, "the first gradient that is not finite is that of the output of encoder"),
    (gradient_of_a_weight, "the gradient of encoder.stem.0.weight is not finite; that of every output is"),
]


@pytest.mark.fault("F36", "F37")
@pytest.mark.parametrize(("spoil", "where"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_first_number_that_is_not_finite_is_named(
    shipped: dict[str, Any], spoil: Callable[[Trainer], None], where: str
) -> None:
    method, trainer = build(shipped, "simclr")
    advance(trainer, 2)
    spoil(trainer)
    before, forward = state(method), trainer.forward
    found = repeat(trainer)
    assert found.where is not None and found.where.startswith(where)
    assert trainer.step == 2 and trainer.forward == forward
    for name, parameter in method.named_parameters():
        assert torch.equal(parameter, before[name]), f"{name} was touched"


@pytest.mark.parametrize("name", TRAINED)
def test_a_repeated_step_is_the_step_of_the_training(shipped: dict[str, Any], name: str) -> None:
    """From the state before it: its loss to the bit, and what it leaves, though every output is looked at."""
    _, trainer = build(shipped, name)
    seen, forward = [], trainer.forward

    def remember(batch: Any) -> dict[str, torch.Tensor]:
        out = forward(batch)
        seen.append(out["loss"].detach())
        return out

    trainer.forward = remember
    advance(trainer, 4)  # the next step begins an epoch
    tensors = {name: value.clone() for name, value in trainer.tensors().items()}
    scalars = copy.deepcopy(trainer.scalars())
    advance(trainer, 5)
    _, again = build(shipped, name)
    again.load(tensors, scalars)
    found = repeat(again)
    assert found.where is None and int(found.loss, 16) == int(seen[-1].view(torch.int32)) & 0xFFFFFFFF
    assert found.shown == f"{seen[-1].item():g}" and len(found.ids) == again.config.batch_size
    expected = trainer.tensors()
    assert all(torch.equal(value, expected[key]) for key, value in again.tensors().items())


def test_a_device_that_looks_now_and_then_is_watched_at_every_step(shipped: dict[str, Any]) -> None:
    _, trainer = build(shipped, "simclr")
    trainer.guard_steps = 1000
    advance(trainer, 1)
    loss(trainer)
    assert repeat(trainer).where is not None
    with pytest.raises(NonFinite) as caught:
        trainer.tensors()
    assert caught.value.step == 1


@pytest.mark.fault("F38")
def test_features_that_are_not_finite_before_the_first_step_leave_no_step_to_repeat(shipped: dict[str, Any]) -> None:
    _, trainer = build(shipped, "simclr")
    for parameter in trainer.method.parameters():
        parameter.data *= 1e30
    found = repeat(trainer)
    assert found.where is None and found.loss == ""
