"""Whether a longer training would help, and what is said of it."""

from dataclasses import replace

import pytest

from tasks.cautions import guesses
from tasks.pretrain.training import knn_rise
from tasks.results import Result
from tasks.trainings import Training, advice, still_rising
from tests.support.example_results import metrics_of

RECIPE = {"images": 16_000, "health_images": 1000}


def history(*knn: float, every: int = 1) -> list[dict[str, float]]:
    return [{"epoch": every * row, "step": 10 * row, "knn": value} for row, value in enumerate(knn)]


def trained(rise: float | None, steps: int = 2000) -> Training:
    return Training(epochs=8, steps=steps, knn_rise=rise, recipe=RECIPE)


def test_the_rise_is_that_of_the_last_doubling_of_the_epochs() -> None:
    assert knn_rise(history(0.3, 0.4, 0.5, 0.55, 0.6)) == pytest.approx(0.1)
    assert knn_rise(history(0.3, 0.4, 0.5, 0.6, every=5)) == pytest.approx(0.16)  # from epoch 7 to 15
    assert knn_rise(history(0.3, 0.4)) is None and knn_rise([]) is None
    assert knn_rise([{"epoch": epoch, "step": epoch} for epoch in range(5)]) is None  # no labels


def test_a_training_that_still_gets_better_is_named_with_its_rise() -> None:
    said = still_rising({"simclr": [trained(0.12), trained(0.08)], "byol": [trained(-0.01)], "moco": [trained(None)]})
    assert said == (
        "Points over the last doubling of epochs (less than 2.8 may be chance); still rising: simclr +10.0; flat: byol −1.0."
    )
    assert still_rising({"simclr": [trained(None)]}) == ""


@pytest.mark.parametrize(
    ("made", "end"),
    [
        (trained(0.1), "and its kNN still rises (+10.0 points over the last doubling): set train.images to about 32,000."),
        (
            trained(0.01),
            "(+1.0 points over the last doubling): more of the same will hardly help; add images, which need no"
            " labels, or try other methods.",
        ),
        (
            replace(trained(0.1), epochs=250),
            "and its kNN still rises (+10.0 points over the last doubling): set train.images to about 32,000.",
        ),
        (
            replace(trained(0.01), epochs=250),
            "more of the same will hardly help with so few images; add images, which need no labels.",
        ),
        (trained(0.01, steps=100), "8 epochs, 100 steps, which is short: set train.images to about 240,000."),
        (
            replace(trained(0.1), seconds=30.0),
            "set train.images to about 32,000, about 60 s at the pace it had.",
        ),
        (trained(None), "2,000 steps: set train.images to about 32,000, if its curve in the report still rises."),
    ],
)
def test_the_advice_follows_from_the_curve(made: Training, end: str) -> None:
    assert advice("simclr", made).endswith(end)


@pytest.mark.parametrize(("accuracy", "guessed"), [(0.24, True), (0.26, True), (0.28, False)])
def test_hardly_more_than_chance_in_its_own_task_is_guessing(accuracy: float, guessed: bool) -> None:
    made = Training(pretext_accuracy=accuracy, pretext_chance=0.25)
    assert guesses(Result(metrics_of("rotation"), made)) == guessed
