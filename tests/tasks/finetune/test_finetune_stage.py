"""The finetune stage on a tiny project: its files, what it refuses, and that it goes on where it was stopped."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ssl_core.config import ConfigError
from tasks.finetune import trials
from tasks.finetune.__main__ import make
from tasks.runtime import dataset, files, params
from tasks.runtime.errors import Diverged, Preempted
from tasks.runtime.stage import Stage
from tasks.runtime.stage_name import StageName
from tasks.tracking import journal
from tests.support.encoders import project_with_encoder, write_encoder
from tests.support.project import rewrite, set_params, write_prepared

SMALL = {"shares": [0.1, 1.0], "draws": 2, "lr": [1e-3, 1e-2], "train": {"images": 96, "batch_size": 32}}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prepared data and one encoder, in the current directory."""
    run = {"methods": ["simclr", "random_init"], "finetune": ["simclr", "random_init"]}
    values = {"run": run, "evaluate": {"bootstrap": 50}, "finetune": SMALL}
    return project_with_encoder(tmp_path, monkeypatch, values)


def stage(method: str = "simclr", task: str | None = None) -> Stage:
    return Stage(StageName("finetune_task" if task else "finetune", method, 0, task), {"device": "cpu"})


def run(method: str = "simclr", own: Stage | None = None, task: str | None = None) -> dict[str, Any]:
    """The stage, in this process; its metrics."""
    own = own or stage(method, task)
    trials.Trials(own, method, 0, torch.device("cpu"), params.finetune_params(params.load()), task).run()
    file = f"{task}/{method}-0" if task else f"{method}-0"
    found: dict[str, Any] = json.loads(own.out(f"out/metrics/finetune/{file}.json").read_text())
    return found


def without_labels(folder: Path, labels: str) -> None:
    """Take the labels of a prepared split away."""
    path = folder / f"{labels}.npy"
    np.save(path, np.full_like(np.load(path), -1))
    files.seal(folder)


def with_task(project: Path, **values: Any) -> None:
    """The project has a task ``other`` with 60 training images."""
    set_params(project, {"run": {"tasks": ["other"]}, "tasks": {"other": {"source": "folder", "path": "images"}}} | values)
    write_prepared(project, n=60, m=20, where="data/tasks/other")


def test_shares_that_are_the_same_labels_are_trained_once(project: Path) -> None:
    set_params(project, {"finetune": {"shares": [0.01, 0.1]}})
    shares = run()["shares"]
    assert shares["0.01"] == shares["0.1"] and shares["0.1"]["labels"] == 8
    assert {path.name.partition("-")[0] for path in (stage().work / "trials").iterdir()} == {"0.01"}


def test_the_stage_writes_what_its_predictions_say(project: Path) -> None:
    before = (project / "out/encoders/simclr-0/encoder.safetensors").read_bytes()
    metrics = run()
    out = stage().work / "outs/out"
    guesses = files.load_tensors(out / "predictions/finetune/simclr-0.safetensors")
    assert set(guesses) == {"actual", "0.1", "1"} and guesses["0.1"].shape == (2, 32) and guesses["1"].shape == (1, 32)
    for share, own in metrics["shares"].items():
        assert own["mean"] == pytest.approx(np.mean(guesses[share] == guesses["actual"]))
        assert own["interval"][0] <= own["mean"] <= own["interval"][1]
        assert len(own["lr"]) == len(guesses[share]) and set(own["lr"]) <= {1e-3, 1e-2}
    assert metrics["shares"]["0.1"]["labels"] == 8 and metrics["shares"]["1"]["labels"] == 96
    assert (project / "out/encoders/simclr-0/encoder.safetensors").read_bytes() == before
    events = list(journal.read(out / "journal/finetune-simclr-0.jsonl"))
    assert events[1]["metrics"] == {
        f"top1_{name}pct": metrics["shares"][key]["mean"] for key, name in (("0.1", 10), ("1", 100))
    }
    assert (
        events[-1]["encoder_sha256"]
        == metrics["encoder_sha256"]
        == files.sha256(project / "out/encoders/simclr-0/encoder.safetensors")
    )


def test_the_best_rate_gets_all_labels_of_a_choice_and_images_look_as_they_did_in_the_pretraining(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_encoder(project, "simclr", mean=[0.4], std=[0.1])
    labels, looks, real = [], set(), trials.finetune

    def watched(encoder: nn.Module, images: np.ndarray, info: Any, *rest: Any) -> Any:
        labels.append(len(images))
        looks.add((info.mean, info.std))
        return real(encoder, images, info, *rest)

    monkeypatch.setattr(trials, "finetune", watched)
    run()
    assert labels == [4, 4, 8] * 2 + [86, 86, 96], "two rates, and the one that is best"
    assert looks == {((0.4,), (0.1,))}


def test_what_was_stopped_goes_on_with_the_next_training_and_ends_alike(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run()
    shutil.rmtree(stage().work)
    own, trained, real = stage(), [], trials.finetune

    def counted(*arguments: Any) -> Any:
        trained.append(1)
        return real(*arguments)

    monkeypatch.setattr(trials, "finetune", counted)
    monkeypatch.setattr(own, "stop_requested", lambda wait=0.0: len(trained) == 4)
    with pytest.raises(Preempted):
        run(own=own)
    assert run() == whole and len(trained) == 4 + (9 - 3)  # three candidates a choice of labels; the fourth was not ended


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(b"{}"),
        lambda path: files.save_tensors(path, {"guess": np.zeros(3, np.int64)}),
    ],
    ids=["cut off", "no tensors", "of other images"],
)
def test_a_damaged_memory_of_a_training_is_made_again(
    project: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object]
) -> None:
    whole = run()
    damage(sorted((stage().work / "trials").iterdir())[0])
    assert run() == whole
    assert "is damaged, and that training made again" in capsys.readouterr().err


def test_a_share_that_leaves_one_image_to_train_on_is_refused(project: Path) -> None:
    kept = np.load(project / "data/prepared/train_holdout.npy")
    labels = np.full(len(kept), -1)
    labels[[*np.nonzero(kept)[0][:3], *np.nonzero(~kept)[0][:3]]], labels[np.nonzero(~kept)[0][5]] = 1, 0
    rewrite(project, train_labels=labels)
    set_params(project, {"finetune": {"shares": [0.01]}})
    with pytest.raises(ConfigError, match=r"finetune.shares: 0.01 of the labels leaves one image to train on"):
        run()


def test_a_rate_that_diverges_is_not_chosen_and_none_that_does_not_ends_the_stage(project: Path) -> None:
    set_params(project, {"finetune": {"shares": [1.0], "lr": [1e-3, 1e30]}})
    assert run()["shares"]["1"]["lr"] == [1e-3]
    set_params(project, {"finetune": {"lr": [1e30]}})
    with pytest.raises(Diverged, match=r"finetune\.lr"):
        run()


@pytest.mark.parametrize("labels", ["train_labels", "test_labels"])
def test_images_without_labels_are_refused(project: Path, labels: str) -> None:
    without_labels(project / "data/prepared", labels)
    with pytest.raises(ConfigError, match=r"run\.finetune needs labels"):
        run()


def test_an_encoder_is_fine_tuned_with_the_labels_of_a_task_though_its_pool_has_none(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_task(project, finetune={"shares": [1.0], "lr": [1e-3]})
    without_labels(project / "data/prepared", "train_labels")
    metrics, own = run(task="other"), stage(task="other")
    assert metrics["shares"]["1"]["labels"] == 60 and own.full_name == "finetune_task@other-simclr-0"
    out = own.work / "outs/out"
    guesses = files.load_tensors(out / "predictions/finetune/other/simclr-0.safetensors")
    assert metrics["shares"]["1"]["mean"] == pytest.approx(np.mean(guesses["1"] == guesses["actual"]))
    first, said, *rest = journal.read(out / "journal/finetune-other-simclr-0.jsonl")
    assert said["metrics"] == {"other/finetune_top1_100pct": metrics["shares"]["1"]["mean"]}
    assert first["run"]["data"] == {"name": "blobs", "sha256": metrics["data_sha256"]}
    assert [e["path"] for e in rest if e["event"] == "artifact"] == [
        "out/metrics/finetune/other/simclr-0.json",
        "out/predictions/finetune/other/simclr-0.safetensors",
    ]
    assert run()["shares"] == {} and "have no labels to fine-tune with" in capsys.readouterr().err
    without_labels(project / "data/tasks/other", "test_labels")
    with pytest.raises(ConfigError, match=r"run\.finetune needs labels, of training images of other"):
        run(task="other")


def test_an_encoder_without_weights_is_refused(project: Path) -> None:
    write_encoder(project, "random_init", name="pixels")
    with pytest.raises(ConfigError, match="random_init has no weights to train"):
        run("random_init")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"run": {"finetune": ["byol"]}}, r"run\.finetune: 'byol'"),
        ({"run": {"finetune": ["simclr", "simclr"]}}, r"run\.finetune must name nothing twice"),
        ({"run": {"finetune": ["random_init"]}}, "simclr is not in run.finetune"),
        ({"finetune": {"lr": []}}, r"finetune\.lr must name at least one"),
        ({"finetune": {"shares": [1.5]}}, r"finetune\.shares"),
        ({"finetune": {"speed": 1}}, r"finetune\.speed"),
        ({"finetune": {"train": {"speed": 1}}}, r"finetune\.train\.speed"),
        ({"finetune": {"train": {"epochs": 0}}}, r"finetune\.train must train"),
    ],
)
def test_what_params_say_wrongly_is_named(project: Path, values: dict[str, Any], message: str) -> None:
    set_params(project, values)
    with pytest.raises(ConfigError, match=message):
        make("simclr", 0)


def test_images_that_are_stored_larger_are_looked_at_at_the_side_that_the_encoder_takes(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = dataset.load(), set()
    larger = {f"{s}_images": getattr(data, f"{s}_images").repeat(2, 2).repeat(2, 3) for s in ("train", "test")}
    monkeypatch.setattr(trials.dataset, "load", lambda path: replace(data, **larger))

    def watched(encoder: nn.Module, batches: Iterable[torch.Tensor], precision: str, honest: Any = trials.frozen) -> Any:
        return honest(encoder, (x for x in batches if not seen.add(x.shape[-1])), precision)

    monkeypatch.setattr(trials, "frozen", watched)
    run()
    assert seen == {data.meta["image_size"]} != {larger["test_images"].shape[-1]}


def test_a_task_that_is_not_listed_is_refused(project: Path) -> None:
    with_task(project)
    with pytest.raises(ConfigError, match="task 'others'"):
        make("simclr", 0, "others")
