"""Few images: the shipped values of every method are lowered to what they allow, said and stored."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_core.catalogue import METHODS, load_class
from ssl_core.engine.data import Images
from ssl_core.engine.encoders import build
from ssl_core.engine.method import DataInfo
from ssl_core.engine.train import Trainer
from ssl_core.methods.moco import MoCo
from tasks.pretrain import fitting
from tasks.pretrain.training import make_trainer
from tasks.runtime import dataset, params
from tests.conftest import ROOT, textured_images

SHIPPED = params.load(ROOT / "params.yaml")


@pytest.mark.parametrize("count", [19, 150])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_on_few_images_with_the_shipped_values(name: str, count: int) -> None:
    asked = params.method_params(SHIPPED, name)
    chosen = fitting.fit(asked, count)
    assert min(asked.train.batch_size, count) // 2 < chosen.train.batch_size <= count
    config = replace(chosen.encoder, width=4) if chosen.encoder.name == "small" else replace(chosen.encoder, depth=1)
    images = torch.from_numpy(textured_images(count, 1, 28))
    encoder = build(config, 1, 28, seed=0)
    method = load_class(name)(encoder, chosen.config, chosen.augment, DataInfo(count, 28, 1, (0.5,), (0.3,)))
    train = replace(chosen.train, epochs=2, epoch_share=1.0, precision="float32")
    trainer = Trainer(method, Images(images.numpy(), torch.device("cpu")), train, 0)
    trainer.run()
    assert trainer.step == 2 * (count // chosen.train.batch_size) and math.isfinite(trainer.history[-1]["loss"])


def test_enough_images_change_nothing() -> None:
    for name in METHODS:
        asked = params.method_params(SHIPPED, name)
        assert fitting.fit(asked, 1024) == asked


def test_what_is_lowered_is_the_largest_that_fits_and_is_said() -> None:
    asked = params.method_params(SHIPPED, "pcl")
    used = fitting.fit(asked, 150)
    assert (
        fitting.in_words(fitting.lowered(asked, used))
        == "queue 128 instead of 1024, clusters 75 instead of 100 and 200 and 400"
    )
    used = fitting.fit(asked, 19)
    assert (used.train.batch_size, used.config.queue, used.config.clusters) == (16, 16, (9,))


def test_a_step_of_both_views_and_several_processes_share_the_images() -> None:
    asked = params.method_params(SHIPPED, "moco")
    config = replace(asked.config, symmetric=True)
    for count, batch in ((50, 24), (150, 72)):
        used = fitting.fit(replace(asked, config=config), count)
        assert (used.train.batch_size, used.config.queue) == (batch, 2 * batch) and MoCo.largest_batch(config, count) == batch
    shared = fitting.fit(replace(asked, train=replace(asked.train, processes=2), config=replace(asked.config, splits=2)), 19)
    assert shared.train.batch_size == 18


def test_a_queue_that_is_no_multiple_of_the_batch_stays_a_mistake_of_its_user() -> None:
    asked = params.method_params(SHIPPED, "nnclr")
    asked = replace(asked, config=replace(asked.config, queue=1000))
    assert fitting.fit(asked, 10_000) == asked


def test_the_supervised_baseline_learns_from_the_labelled_images_alone_in_as_many_steps() -> None:
    """As it would from a data set that has no others; its steps are those of the methods that learn from all."""
    images, labels = textured_images(100, 1, 28), np.arange(100) % 3
    labels[40:] = -1
    values = copy.deepcopy(SHIPPED)
    values["train"] |= {"epochs": 3, "precision": "float32"}
    values["encoder"] |= {"width": 4}
    asked = params.method_params(values, "supervised")
    some, whole = (_dataset(images[:n], labels[:n]) for n in (40, 100))
    chosen = fitting.fit_to(asked, whole)
    assert chosen.train.batch_size == 40 and chosen == fitting.fit_to(asked, some)
    assert fitting.fit_to(params.method_params(values, "simclr"), whole).train.batch_size == 100
    cut, trainer = (make_trainer(chosen, data, 0, torch.device("cpu")) for data in (some, whole))
    assert (cut.steps_per_epoch, trainer.steps_per_epoch) == (1, 1)
    assert trainer.steps == chosen.train.steps(100) > cut.steps == chosen.train.steps(40)
    cut.steps = trainer.steps
    seen: list[Tensor] = []
    trainer.run(lambda position: seen.extend(trainer._rest_of_epoch(position.epoch)))
    cut.run()
    assert max(int(ids.max()) for ids in seen) == 39
    for name, value in trainer.method.encoder.state_dict().items():
        assert torch.equal(value, cut.method.encoder.state_dict()[name]), name


def _dataset(images: Any, labels: Any) -> dataset.Dataset:
    meta = {"image_size": 28, "channels": 1, "mean": [0.5], "std": [0.3], "classes": ["a", "b", "c"]}
    return dataset.Dataset(images, labels, np.zeros(len(labels), bool), images[:0], labels[:0], meta, "")
