"""The model card of an encoder with tasks, of one below its start, and of a start that is the champion."""

from dataclasses import replace

from tasks.judged import Judged
from tasks.metrics import Metrics
from tasks.register.card import model_card
from tasks.results import Result
from tasks.verdict import judge_one, remarks
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
    assert "further labelled sets" not in card_of(WORSE) and "\nScores, of `block4`" in card_of(WORSE)


def test_an_encoder_below_its_start_says_so_and_a_start_says_what_it_is() -> None:
    card = card_of(WORSE)
    assert "simclr-0 is worse than its start, the row pretrained: use that." in card[: card.index("**Input**")]
    start = card_of(START)
    assert "An image encoder as it was before this training: `pretrained`, which training on signs began with." in start
    assert "Do not use" not in start and "license of these weights: MIT" in start


def test_a_start_that_is_the_champion_says_what_training_on_from_it_gave() -> None:
    first, second = (replace(r, judged=Judged({"linear": r.right["linear"].astype(float)})) for r in (WORSE, START))
    said = remarks(judge_one(second, [first, second]), [first, second])
    assert said[0].startswith("Training on your images is not worth it, use ImageNet features: −")
    assert "(the same: not worth it)" in said[1]
    assert said[2] == "Take pretrained-0, which training started from: by the score that chooses no training is better."
