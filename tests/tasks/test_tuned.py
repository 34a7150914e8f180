"""Fine-tuned encoders beside a start from scratch: the table, its marks, and what is missing or damaged."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_core.evaluation import comparison
from tasks import leaderboard, tuned
from tasks.report import small
from tasks.report.page import documents
from tasks.results import load_results
from tasks.runtime import files
from tasks.runtime.errors import IntegrityError
from tasks.verdict import judge
from tasks.worth import RESAMPLES
from tests.support.example_results import write_project
from tests.support.project import set_params

METHODS = ("simclr", "byol", "random_init")
SKILL = {"simclr": 0.9, "byol": 0.61, "random_init": 0.6}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Three encoders fine-tuned with 1 % (twice) and all of the labels."""
    root = write_project(tmp_path / "p", METHODS)
    set_params(root, {"run": {"finetune": list(METHODS)}})
    for method in METHODS:
        write(root, method)
    return root


def write(root: Path, method: str, lr: float = 1e-3, task: str = ".") -> None:
    """What the stage leaves."""
    rng, actual = np.random.default_rng(len(method)), np.arange(300) % 10
    shares = {"0.01": 2, "1": 1}
    guesses = {s: np.where(rng.random((n, 300)) < SKILL[method], actual, (actual + 1) % 10) for s, n in shares.items()}
    metrics = {s: {"labels": 4 if s == "0.01" else 400, "mean": 0.5, "lr": [lr] * n} for s, n in shares.items()}
    recipe = {"config": {"lr": [1e-4, 1e-3, 1e-2]}}
    for kind in ("metrics", "predictions"):
        (root / f"out/{kind}/finetune/{task}").mkdir(parents=True, exist_ok=True)
    files.write_json(root / f"out/metrics/finetune/{task}/{method}-0.json", {"shares": metrics, "recipe": recipe})
    arrays = {"actual": actual, **guesses}
    files.save_tensors(
        root / f"out/predictions/finetune/{task}/{method}-0.safetensors", {k: v.astype(np.int32) for k, v in arrays.items()}
    )


def copied(root: Path, method: str, seed: int) -> None:
    """The files of the first seed as those of another one."""
    for first in root.glob(f"out/*/finetune/{method}-0.*"):
        shutil.copy(first, first.with_stem(f"{method}-{seed}"))


def test_shares_that_are_the_same_labels_are_one_column_with_the_share_that_they_are(project: Path) -> None:
    for method in METHODS:
        for kind, load, save in (
            ("metrics/finetune/{}-0.json", files.read_json, files.write_json),
            ("predictions/finetune/{}-0.safetensors", files.load_tensors, files.save_tensors),
        ):
            path = project / "out" / kind.format(method)
            found = load(path)
            shares = found.get("shares", found)
            shares["0.1"] = shares["0.01"]
            if "shares" in found:
                shares["0.01"]["labels"] = 40
            save(path, found)
    found = tuned.load(project)
    assert found is not None and tuned.table(found)[0] == ["method", "10 % (40)", "100 % (400)"]


def test_rows_stand_beside_a_start_from_scratch_on_the_same_labels(project: Path) -> None:
    found = tuned.load(project)
    assert found is not None and found.shares == ("0.01", "1") and not found.missing and not found.edges
    assert next(iter(found.rows)) == "simclr"
    simclr, byol, scratch = (found.rows[method]["0.01"] for method in METHODS)
    guesses = files.load_tensors(project / "out/predictions/finetune/simclr-0.safetensors")
    assert simclr.mean == pytest.approx(np.mean(guesses["0.01"] == guesses["actual"])) == simclr.each["simclr-0"]
    assert simclr.interval[0] < simclr.mean < simclr.interval[1] and scratch.over_scratch is None
    assert simclr.over_scratch is not None and simclr.over_scratch.mean == pytest.approx(simclr.mean - scratch.mean)
    assert simclr.over_scratch.is_clear and byol.over_scratch is not None and not byol.over_scratch.is_clear
    head, lines = tuned.table(found)
    assert head == ["method", "1 % (4)", "100 % (400)"] and lines[0][1].endswith(" +")
    assert {line[0]: line[1][-1] for line in lines} == {"simclr": "+", "byol": ")", "from scratch *": ")"}


def test_encoders_of_other_seeds_are_no_pairs(project: Path) -> None:
    set_params(project, {"run": {"seeds": [0, 1, 2]}})
    copied(project, "simclr", 1)
    copied(project, "random_init", 2)
    found = tuned.load(project)
    assert found is not None
    told = found.rows["simclr"]["1"].over_scratch
    ours, theirs = (
        torch.from_numpy(np.concatenate([read["1"] == read["actual"]] * 2))
        for method in ("simclr", "random_init")
        for read in [files.load_tensors(project / f"out/predictions/finetune/{method}-0.safetensors")]
    )
    apart, paired = (compare(ours, theirs, RESAMPLES, 0) for compare in (comparison.difference, comparison.paired))
    assert told is not None and (told.low, told.high) == (apart.low, apart.high) != (paired.low, paired.high)


def test_images_that_belong_together_are_drawn_together(project: Path) -> None:
    for path in (project / "out/predictions/finetune").iterdir():
        files.save_tensors(path, files.load_tensors(path) | {"group": (np.arange(300) // 20).astype(np.int32)})
    found = tuned.load(project)
    assert found is not None
    over = found.rows["simclr"]["1"].over_scratch
    assert over is not None and over.groups == 15


def test_what_is_of_earlier_parameters_can_be_left_out(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaderboard.show(project, {"finetune@byol-0"})
    said = capsys.readouterr().out
    assert "not up to date: finetune@byol-0" in said and "byol" not in said[said.index("Fine-tuning") :]
    assert tuned.load_all(project, {f"finetune@{method}-0" for method in METHODS}) == []


def test_the_report_the_csv_and_the_small_numbers_have_it(project: Path) -> None:
    results, missing = load_results(project)
    texts = documents(project, judge(results), missing)
    assert '<h2 id="finetuning">' in texts["report.html"] and "## Fine-tuning" in texts["leaderboard.md"]
    lines = texts["finetune.csv"].splitlines()
    assert lines[0].startswith("method,share,labels,accuracy") and len(lines) == 1 + 3 * 2
    numbers = small.scores(judge(results), tuned.load(project))["simclr-0"]
    assert 0.85 < numbers["finetune_1pct"] < 0.95 and "finetune_100pct" in numbers


def test_a_task_has_a_table_of_its_own_and_a_pool_without_labels_none(project: Path) -> None:
    set_params(project, {"run": {"tasks": ["tiles"]}, "tasks": {"tiles": {"source": "folder", "path": "tiles"}}})
    write(project, "simclr", task="tiles")
    results, missing = load_results(project)
    texts = documents(project, judge(results), missing)
    assert [line.split(",")[0] for line in texts["finetune-tiles.csv"].splitlines()] == ["method", "simclr", "simclr"]
    assert '<h2 id="finetuning">' in texts["report.html"] and "Fine-tuning on tiles</h2>" in texts["report.html"]
    assert "## Fine-tuning\n" in texts["leaderboard.md"] and "## Fine-tuning on tiles\n" in texts["leaderboard.md"]
    assert texts["leaderboard.md"].endswith("Not fine-tuned yet: byol-0, random_init-0.\n")
    for method in METHODS:
        path = project / f"out/metrics/finetune/{method}-0.json"
        files.write_json(path, files.read_json(path) | {"shares": {}})
    (only,) = tuned.load_all(project)
    assert only.task == "tiles" and "finetune.csv" not in documents(project, judge(results), missing)


def test_nothing_is_shown_where_nothing_is_asked_for(project: Path) -> None:
    set_params(project, {"run": {"finetune": []}})
    assert tuned.load(project) is None
    results, missing = load_results(project)
    texts = documents(project, judge(results), missing)
    assert "finetune.csv" not in texts and 'id="finetuning"' not in texts["report.html"]


def test_what_is_missing_and_a_rate_at_the_edge_are_named(project: Path) -> None:
    (project / "out/metrics/finetune/random_init-0.json").unlink()
    write(project, "byol", lr=1e-2)
    found = tuned.load(project)
    assert found is not None and found.missing == ("random_init-0",) and found.edges == ("byol-0",)
    said = " ".join(tuned.sentences(found))
    assert "no start from scratch" not in said and "chosen for byol-0" in said and "Not fine-tuned yet: random_init-0" in said


def test_a_rate_at_the_edge_counts_only_where_it_was_chosen_with_the_most_labels(project: Path) -> None:
    path = project / "out/metrics/finetune/byol-0.json"
    values = files.read_json(path)
    values["shares"]["0.01"]["lr"] = [1e-4, 1e-2]
    files.write_json(path, values)
    found = tuned.load(project)
    assert found is not None and found.edges == ()


def test_fine_tuning_that_loses_against_the_frozen_encoder_is_told_with_what_to_raise(project: Path) -> None:
    for method in METHODS:
        set_frozen(project, method, SKILL[method])
    found = tuned.load(project)
    assert found is not None and not found.below and "frozen" not in " ".join(tuned.sentences(found))
    for method, score in (("byol", 0.8), ("random_init", 0.66)):  # clearly above, and not clearly
        set_frozen(project, method, score)
    found = tuned.load(project)
    assert found is not None and found.below == {"byol": 0.8}
    (said,) = (sentence for sentence in tuned.sentences(found) if "frozen" in sentence)
    assert f"byol {100 * found.rows['byol']['1'].mean:.1f} % against 80.0 %. The fine-tuning is too short" in said
    assert "raise finetune.train.images, and give finetune.lr further rates" in said
    copied(project, "byol", 1)
    set_params(project, {"run": {"seeds": [0, 1]}})
    unknown = tuned.load(project)
    assert unknown is not None and not unknown.below, "of one frozen encoder of two the score is not known"
    set_params(project, {"run": {"seeds": [0]}})
    old = tuned.load(project, out_of_date={"evaluate@byol-0"})
    assert old is not None and not old.below, "of other images or parameters"
    path = project / "out/metrics/finetune/byol-0.json"
    files.write_json(path, files.read_json(path) | {"recipe": {"config": {"lr": [1e-3]}, "train": {"epochs": 3}}})
    for method in ("simclr", "random_init"):
        (project / f"out/metrics/finetune/{method}-0.json").unlink()
    found = tuned.load(project)
    assert found is not None and "raise finetune.train.epochs," in " ".join(tuned.sentences(found))


def set_frozen(root: Path, method: str, score: float) -> None:
    path = root / f"out/metrics/{method}-0.json"
    files.write_json(path, files.read_json(path) | {"linear_top1": score, "linear_interval": [score - 0.03, score + 0.03]})


def test_a_damaged_file_is_named(project: Path) -> None:
    path = project / "out/metrics/finetune/byol-0.json"
    path.write_text(json.dumps({"shares": {"0.5": {"labels": 1, "lr": []}}}))
    with pytest.raises(IntegrityError, match="byol-0"):
        tuned.load(project)


def test_what_is_of_another_recipe_or_other_images_than_the_latest_is_still_to_be_made(project: Path) -> None:
    path = project / "out/metrics/finetune/byol-0.json"
    for change in ({"recipe": {"config": {"lr": [1e-3]}}}, {"data_sha256": "other"}):
        write(project, "byol")
        files.write_json(path, files.read_json(path) | change)
        os.utime(path, ns=(1, 1))
        found = tuned.load(project)
        assert found is not None and found.missing == ("byol-0",) and "byol" not in found.rows
