"""How long a training is: the budget in images or epochs, and where it ends."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from ssl_core.engine.optim import TrainConfig
from ssl_core.engine.train import LEAST_ROWS, Trainer
from tasks.runtime import params
from tests.ssl_core.engine.test_contract import BATCH, N, build

pytestmark = pytest.mark.slow


@pytest.fixture
def config(shipped: dict[str, Any]) -> TrainConfig:
    own = params.method_params(shipped, "simclr").train
    return replace(own, images=10_000, epochs=None, epoch_share=0.5, batch_size=100)


def with_budget(shipped: dict[str, Any], images: int, n: int = N) -> Trainer:
    """The tiny SimCLR of the contract with a budget in images."""
    method, made = build(shipped, "simclr", n=n)
    return Trainer(method, made.images, replace(made.config, images=images, epochs=None), seed=0)


def test_a_budget_in_images_is_the_same_for_few_images_and_many(config: TrainConfig) -> None:
    assert config.steps(200) == config.steps(60_000) == 50
    assert replace(config, batch_size=50).steps(200) == 100, "twice the steps of half the batch, as many images"


def test_a_budget_in_epochs_grows_with_the_images(config: TrainConfig) -> None:
    epochs = replace(config, epochs=10)
    assert (epochs.steps(200), epochs.steps(60_000)) == (10, 3000)
    assert replace(epochs, epoch_share=0.01).steps(200) == 1, "at least one"
    assert [replace(epochs, epoch_share=share, epochs=3).steps(2000) for share in (1.26, 1.1, 0.32)] == [76, 66, 19], (
        "of an epoch too"
    )
    assert replace(epochs, epochs=0).steps(200) == 0 and not replace(epochs, epochs=0).trains


def test_a_training_may_end_within_an_epoch_and_says_where(shipped: dict[str, Any]) -> None:
    trainer = with_budget(shipped, images=6 * BATCH)
    last: list[Any] = []
    trainer.run(on_step=last.append)
    assert [(row["epoch"], row["step"]) for row in trainer.history] == [(0, 0), (1, 4), (2, 6)]
    assert (last[-1].step, last[-1].steps, last[-1].epochs) == (6, 6, 2)


def test_a_row_is_the_mean_of_its_own_steps(shipped: dict[str, Any]) -> None:
    trainer = with_budget(shipped, images=6 * BATCH)
    losses: list[float] = []
    honest = trainer.forward
    trainer.forward = lambda batch: (out := honest(batch), losses.append(float(out["loss"].detach())))[0]
    trainer.run()
    _, first, second = (row.get("loss") for row in trainer.history)
    assert first == pytest.approx(sum(losses[:4]) / 4) and second == pytest.approx(sum(losses[4:]) / 2)


def test_the_average_of_the_weights_follows_each_step(shipped: dict[str, Any]) -> None:
    trainer = with_budget(shipped, images=3 * BATCH)
    trainer.method.keep_average(0.5)
    expected = [parameter.detach().clone() for parameter in trainer.method.encoder.parameters()]

    def follow(position: Any) -> None:
        for mean, own in zip(expected, trainer.method.encoder.parameters(), strict=True):
            mean.lerp_(own.detach(), 0.5)

    trainer.run(on_step=follow)
    torch.testing.assert_close(list(trainer.method.exported.parameters()), expected)


def test_few_images_are_looked_at_less_often_but_the_curve_keeps_its_points(shipped: dict[str, Any]) -> None:
    """Epochs of 4 steps: every thirteenth would do for 50 steps, but of 60 epochs ten rows are to be had."""
    trainer = with_budget(shipped, images=60 * N)
    trainer.run()
    assert [row["epoch"] for row in trainer.history] == [0, *range(6, 61, 60 // LEAST_ROWS)]
    assert all(math.isfinite(row["loss"]) for row in trainer.history[1:])


def test_a_training_that_ends_within_an_epoch_resumes_with_the_same_bits(shipped: dict[str, Any]) -> None:
    whole, first = with_budget(shipped, images=110 * BATCH, n=2 * BATCH), with_budget(shipped, images=110 * BATCH, n=2 * BATCH)
    kept: dict[int, Any] = {}

    def keep(progress: Any) -> None:
        if progress.step in (3, 109):  # within a row of five epochs, and in the last epoch
            kept[progress.step] = copy.deepcopy((first.tensors(), first.scalars()))

    whole.run()
    first.run(on_step=keep)
    assert len(kept) == 2
    for tensors, scalars in kept.values():
        resumed = with_budget(shipped, images=110 * BATCH, n=2 * BATCH)
        resumed.load(tensors, scalars)
        resumed.run()
        assert resumed.history == whole.history
        assert all((value == whole.tensors()[key]).all() for key, value in resumed.tensors().items())
