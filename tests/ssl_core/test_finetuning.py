"""Fine-tuning: which labels, which rates, and that an encoder learns."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ssl_core import finetuning
from ssl_core.engine.continued import first_blocks
from ssl_core.engine.method import DataInfo
from ssl_core.engine.train import NonFinite
from ssl_core.evaluation.protocol import Labels
from ssl_core.finetuning import Finetuned, best_rate, draws, finetune
from tasks.runtime import params
from tests.conftest import ROOT, textured_images
from tests.support.configs import STILL, encoder_of

CPU = torch.device("cpu")
LABELS = Labels(torch.arange(40) % 4, torch.arange(40) % 10 == 0, torch.arange(8) % 4, 4)
TRAIN = replace(params.finetune_params(params.load(ROOT / params.PARAMS)).train, precision="float32", threads=1)


def test_all_labels_are_drawn_once_and_choose_by_those_held_out() -> None:
    (draw,) = draws(LABELS, 1.0, 3, 0)
    assert draw.check.tolist() == [0, 10, 20, 30] and sorted(draw.all.tolist()) == list(range(40))


def test_few_labels_are_balanced_and_drawn_several_times_and_none_is_unknown() -> None:
    unknown = replace(LABELS, train=LABELS.train.masked_fill(torch.arange(40) < 20, -1))
    found = draws(unknown, 0.2, 3, 0)
    assert len(found) == 3 and len({tuple(sorted(d.all.tolist())) for d in found}) == 3
    for draw in found:
        assert not set(draw.fit.tolist()) & set(draw.check.tolist()) and draw.all.min() >= 20
        assert unknown.train[draw.fit].bincount().tolist() == unknown.train[draw.check].bincount().tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("changes", [{}, {"name": "vit", "width": 16, "depth": 3}], ids=["small", "vit"])
def test_the_rate_falls_with_each_block_towards_the_input(changes: dict[str, object]) -> None:
    encoder = encoder_of(**changes)
    numbers, count = first_blocks(encoder, 1, 16)
    assert numbers[0] == 0 and max(numbers) == count - 1
    info = DataInfo(8, 16, 1, (0.5,), (0.2,), torch.zeros(8, dtype=torch.int64), 4)
    groups = Finetuned(encoder, STILL, info, 0.5).param_groups()
    assert groups[0].get("lr_scale", 1.0) == 1.0 and len(groups[0]["params"]) == 2
    assert {g["lr_scale"] for g in groups[1:]} == {0.5**k for k in range(1, count + 1)}
    assert sum(len(g["params"]) for g in groups) == 2 + len(list(encoder.parameters()))
    first = next(g for g in groups[1:] if g["lr_scale"] == 0.5**count)
    assert any(p is next(encoder.parameters()) for p in first["params"])


def test_an_encoder_learns_its_labels_and_stays_as_it_was_outside() -> None:
    images, encoder = textured_images(40, 1, 16, 0), encoder_of(width=8)
    images[torch.arange(40).numpy() % 2 == 0] //= 4  # two classes, dark and bright
    labels = torch.arange(40) % 2
    info = DataInfo(40, 16, 1, (0.5,), (0.2,), labels, 2)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    train = replace(TRAIN, images=64 * 40, lr=4e-3)
    tuned, head = finetune(encoder, images, info, STILL, train, 0.75, 0, CPU)
    x = (torch.from_numpy(images).float() / 255 - 0.5) / 0.2
    with torch.no_grad():
        assert float((head(tuned(x)).argmax(1) == labels).float().mean()) == 1.0
    assert not tuned.training and all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert not torch.equal(next(tuned.parameters()), next(encoder.parameters()))


@pytest.mark.parametrize("budget", [{"images": 64 * 5}, {"epochs": 5}], ids=["images", "epochs"])
def test_a_batch_larger_than_the_labels_takes_as_many_steps_at_the_same_rate(
    budget: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, rates = [], []

    class Watched(finetuning.Trainer):
        def run(self, *rest: Any) -> None:
            rates.append(max(group["peak_lr"] for group in self.optimizer.param_groups))
            super().run(*rest)

    monkeypatch.setattr(finetuning, "Trainer", Watched)
    images, labels = textured_images(6, 1, 16, 0), torch.arange(6) % 2
    info = DataInfo(6, 16, 1, (0.5,), (0.2,), labels, 2)
    train = replace(TRAIN, **{"batch_size": 64, **budget})
    finetune(encoder_of(), images, info, STILL, train, 0.75, 0, CPU, lambda position: seen.append(position.steps))
    assert seen == [5] * 5 and rates == [pytest.approx(TRAIN.lr * 64 / 256)]


def test_a_rate_that_is_too_high_is_said_to_be() -> None:
    info = DataInfo(8, 16, 1, (0.5,), (0.2,), torch.arange(8) % 2, 2)
    broken = np.zeros((8, 1, 16, 16), np.uint8)
    with pytest.raises(NonFinite):
        finetune(encoder_of(), broken, info, STILL, replace(TRAIN, images=64 * 30, lr=1e30), 0.75, 0, CPU)


def test_the_best_rate_is_the_lower_one_on_a_tie() -> None:
    assert best_rate([0.5, 0.7, 0.7], [0.1, 0.01, 0.2]) == 0.01
