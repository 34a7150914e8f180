"""Who may be the champion: the methods, and what one of them started from, but no other row to compare with."""

from dataclasses import replace

from tasks.choice import best_method, candidates, champion, is_start
from tasks.conclusions import sentences
from tasks.register.registration import aliases
from tasks.results import Result
from tasks.trainings import Training
from tasks.verdict import judge
from tests.tasks.test_starts import START, result

BETTER, WORSE = result("simclr", 0.9, 4), result("byol", 0.7, 4)


def test_the_champion_is_never_below_what_a_training_started_from() -> None:
    assert champion([WORSE, START]) is START and best_method([WORSE, START]) is WORSE
    assert champion([BETTER, WORSE, START]) is BETTER
    verdict = judge([WORSE, START])
    assert verdict.best is WORSE and verdict.champion is START
    taken = "Take pretrained-0, which training started from: by the score that chooses no training is better."
    assert taken in sentences(verdict)
    assert not any(said.startswith("Take ") for said in sentences(judge([BETTER, START])))


def test_a_row_that_nothing_started_from_is_no_candidate() -> None:
    anew = result("simclr", 0.7, 4, start=None)
    assert candidates([anew, START]) == [anew] and champion([anew, START]) is anew and champion([START]) is None


def test_seeds_of_a_row_with_the_same_weights_are_one_candidate_and_those_with_others_are_more() -> None:
    second, third = (replace(START, metrics=replace(START.metrics, seed=seed)) for seed in (1, 2))
    assert candidates([WORSE, third, second, START]) == [WORSE, START]
    assert champion([WORSE, third, START]) is START and aliases([WORSE, third, second, START])["champion"] == "pretrained-0"
    drawn = replace(third, metrics=replace(third.metrics, encoder_sha256="e" * 64))
    assert {r.name for r in candidates([WORSE, second, START, drawn])} == {"byol-0", "pretrained-0", "pretrained-2"}


def test_the_same_weights_in_another_network_are_no_start() -> None:
    larger = replace(START, training=Training(epochs=0, network={"name": "timm/x", "input_size": 96}))
    smaller = replace(BETTER, training=Training(epochs=4, network={"name": "timm/x", "input_size": 64}))
    assert not is_start(larger, smaller)
    normed = replace(BETTER, training=Training(epochs=4, network={"name": "timm/x", "input_size": 96, "norm": "group"}))
    assert is_start(larger, normed)


def test_aliases_name_the_start_and_the_champion_of_each_task() -> None:
    tiles = [replace(r, task="tiles") for r in (result("simclr", 0.4, 4), result("byol", 0.9, 4), START)]
    stranger = [replace(result("moco", 0.9, 4), task="other")]
    named = aliases([BETTER, WORSE, START], {"tiles": tiles, "other": stranger})
    assert named == {
        "simclr": "simclr-0",
        "byol": "byol-0",
        "pretrained": "pretrained-0",
        "champion": "simclr-0",
        "champion-tiles": "byol-0",
    }


def test_of_equal_encoders_the_start_is_taken_and_of_equal_methods_the_first_by_name() -> None:
    byol, simclr = result("byol", 0.8, 4), result("simclr", 0.8, 4)
    assert champion([simclr, byol, START]) is START and champion([START, byol]) is START
    assert best_method([simclr, byol, START]) is byol


def test_one_lucky_seed_does_not_make_a_method_the_best() -> None:
    def seeds(name: str, *scores: float) -> list[Result]:
        made = [result(name, score, 4) for score in scores]
        return [replace(r, metrics=replace(r.metrics, seed=seed)) for seed, r in enumerate(made)]

    even, lucky = seeds("simclr", 0.8, 0.81, 0.82), seeds("byol", 0.5, 0.9, 0.5)
    assert champion([*lucky, *even]) is even[2] and best_method([*lucky, *even]) is even[2]
    assert aliases([*lucky, *even]) == {"simclr": "simclr-2", "byol": "byol-1", "champion": "simclr-2"}


def near(method: str, knn: float) -> Result:
    """A method with the same held-out linear score as others, and its own by kNN."""
    found = result(method, 0.8, 4, start=None)
    scores = {**found.metrics.found, "holdout_knn_top1": knn}
    return replace(found, metrics=replace(found.metrics, found=scores))


def test_among_methods_with_the_same_held_out_score_the_held_out_knn_chooses_and_the_tie_is_said() -> None:
    equal = [near("byol", 0.7), near("simclr", 0.9), near("moco", 0.8)]
    best = best_method(equal)
    assert best is not None and best.method == "simclr"
    said = " ".join(sentences(judge(equal)))
    assert "not by the test. So have moco, byol; among equals the held-out kNN chose, then the alphabet." in said
    assert [line.method for line in judge(equal).rows] == ["simclr", "moco", "byol"], "the table has the same order"
    assert "among equals" not in " ".join(sentences(judge([BETTER, WORSE])))
