"""The model card of an encoder with tasks, of one below its start, and of a start that is the champion."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssl_core.engine.encoders import EncoderConfig, build, description, open_residuals
from tasks.conclusions import remarks
from tasks.judged import Judged
from tasks.metrics import Metrics
from tasks.register import modeling
from tasks.register.card import model_card
from tasks.results import Result
from tasks.runtime import files
from tasks.verdict import judge_one
from tests.support.example_results import metrics_of
from tests.tasks.test_starts import START, result

FACTS = {
    "encoder": {"config": {"name": "small"}, "channels": 1, "image_size": 28},
    "mean": [0],
    "std": [1],
    "data_sha256": "",
    "start": {"source": "weights/mine.pth", "sha256": "a" * 64, "license": "MIT"},
}
WORSE = result("simclr", 0.7, 4)


def card_of(found: Result, tasks: dict[str, Metrics] | None = None, chose: str | None = None) -> str:
    said = remarks(judge_one(found, [WORSE, START]))
    return model_card(found.name, FACTS, found.metrics, {"name": "signs", "num_train": 9}, said, tasks, chose)


def test_the_tasks_have_a_table_and_the_one_that_chose_is_named() -> None:
    tiles = metrics_of("simclr", linear_top1=0.625, knn_top1=0.5)
    card = card_of(WORSE, {"tiles": tiles, "other": metrics_of("simclr")}, "tiles")
    assert "| tiles | 0.6250 | 0.5000 | `block4` |" in card and "| other | – | – | `block4` |" in card
    assert "Scores on the test images of the task tiles, of `block4`" in card
    made = {**FACTS["encoder"], "config": {"name": "timm/x", "input_size": 64}}
    seen = model_card("simclr-0", FACTS | {"encoder": made}, tiles, {"name": "signs", "num_train": 9}, [])
    assert "resized to 28 and normalized" in card and "resized to 28, by the network to 64, and normalized" in seen
    assert "further labelled sets" not in card_of(WORSE) and "\nScores, of `block4`" in card_of(WORSE)


def test_what_changes_after_the_card_is_dated_and_what_nothing_chose_is_not_claimed() -> None:
    assert "description of this version in MLflow's registry is kept up to date" in card_of(WORSE)
    chosen = "Choices were made on held-out training labels"
    unlabelled = replace(WORSE.metrics, found={})
    assert chosen in card_of(WORSE) and chosen not in card_of(replace(WORSE, metrics=unlabelled))


def test_an_encoder_below_its_start_says_so_and_a_start_says_what_it_is() -> None:
    card = card_of(WORSE)
    assert "simclr-0 is worse than its start, the row pretrained: use that." in card[: card.index("**Input**")]
    start = card_of(START)
    assert "An image encoder as it was before this training: `pretrained`, which training on signs began with." in start
    assert "Do not use" not in start and "license of these weights: MIT" in start
    baseline, data = replace(START.metrics, method="supervised"), {"name": "signs", "num_train": 9}
    other = model_card("supervised-0", FACTS, baseline, data, began=False)
    assert "signs without labels were compared with: `supervised`, all labels, same budget." in other


def test_a_start_that_is_the_champion_says_what_training_on_from_it_gave() -> None:
    first, second = (replace(r, judged=Judged({"linear": r.right["linear"].astype(float)})) for r in (WORSE, START))
    said = remarks(judge_one(second, [first, second]), [first, second])
    assert said[0].startswith("Training on your images is not worth it, use ImageNet features: −")
    assert "(the same: not worth it)" in said[1]
    assert said[2] == "Take pretrained-0, which training started from: by the score that chooses no training is better."


@pytest.mark.parametrize(
    ("name", "channels", "side", "size", "norm"),
    [
        ("resnet18", 1, 28, None, "batch"),
        ("resnet18", 3, 64, None, "group"),
        ("resnet18", 3, 128, None, "batch"),
        ("resnet18", 1, 128, None, "batch"),
        ("resnet18", 3, 32, 128, "batch"),
        ("resnet34", 1, 64, 32, "batch"),
    ],
)
def test_the_lines_for_torchvision_give_the_features(
    tmp_path: Path, name: str, channels: int, side: int, size: int | None, norm: str
) -> None:
    config = EncoderConfig(name=name, width=8, depth=1, patch_size=4, norm=norm, input_size=size)
    encoder = open_residuals(build(config, channels, side, seed=3)).eval()
    files.save_tensors(tmp_path / modeling.WEIGHTS, {key: value.numpy() for key, value in encoder.state_dict().items()})
    facts = FACTS | {"encoder": description(config, channels, side)}
    card = model_card("x", facts, WORSE.metrics, {"name": "signs", "num_train": 9})
    code = re.findall(r"```python\n(.*?)```", card, re.S)[-1]
    assert len(code.split("\n\n")[1].splitlines()) == 3
    space: dict[str, object] = {"torch": torch, "x": torch.rand(2, channels, side, side)}
    exec(code.replace("FOLDER", str(tmp_path)), space)
    for sized in re.findall(r"`(torch\.nn\.functional\.interpolate.*?)`", card):
        space["given"], space["x"] = space["x"], eval(sized, space)
    with torch.no_grad():
        expected = encoder(space.get("given", space["x"]))
        found = eval("net.eval()(x)", space)
    assert abs(found - expected).max() < 1e-5 * abs(expected).max()
