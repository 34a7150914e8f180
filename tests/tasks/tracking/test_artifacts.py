"""The files of a run may not get through: its numbers and its state do, and the files follow later."""

import json
from pathlib import Path

import pytest
import yaml

from tasks import sync
from tasks.runtime import recorded
from tasks.tracking import artifacts
from tasks.tracking.journal import Journal
from tasks.tracking.tracker import Tracker
from tests.tasks.tracking.test_tracking import empty_store, evaluated, only_run, query, root, rows, training

__all__ = ["empty_store", "root"]


def with_files(root: Path) -> None:
    """A training and its evaluation with a picture each, and a parameter too long for MLflow."""
    for name in ("views.png", "map.png"):
        (root / name).write_bytes(b"picture")
    with training(root / "out/journal/simclr-0.jsonl", params={"note": "x" * 7000}) as journal:
        journal.artifact(Path("views.png"), "views")
        journal.end("FINISHED", encoder_sha256="e0")
    with Journal(evaluated(root)) as journal:
        journal.artifact(Path("map.png"))
        journal.end("FINISHED", encoder_sha256="e0")


def block(root: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Close the way of the files; what MLflow says of it."""
    from mlflow.exceptions import MlflowException

    if kind == "a folder that cannot be made":  # that of a server without artifact proxy, on another machine
        (root / "mlruns/artifacts").write_text("")
        return "Not a directory"
    error = MlflowException("403 Client Error: Forbidden") if kind == "a server that refuses" else PermissionError(13, "no")

    def refuse(*arguments: object, **named: object) -> None:
        raise error

    for name in ("log_artifact", "log_dict", "log_text"):
        monkeypatch.setattr(f"mlflow.tracking.client.MlflowClient.{name}", refuse)
    return "403" if kind == "a server that refuses" else "no"


@pytest.mark.parametrize("kind", ["a folder that cannot be made", "a server that refuses", "a folder of somebody else"])
def test_numbers_and_states_arrive_without_the_files_which_follow(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    with_files(root)
    with monkeypatch.context() as patch:
        reason = block(root, kind, patch)
        for _ in range(2):
            sync.once(root)
            said = capsys.readouterr()
            assert "the files of simclr-0 (views.png, params.yaml): " in said.err and "(map.png): " in said.err
            assert reason in said.err and "Traceback" not in said.err and "tracking: 0 journals" in said.out
        run = only_run(root)
        assert run.info.status == "FINISHED" and run.data.tags["ssl.missing_artifacts"] == "views.png, params.yaml"
        assert run.data.tags["ssl.missing_artifacts.evaluation"] == "map.png"
        assert all(reason in run.data.tags[f"ssl.missing_reason{of}"] for of in ("", ".evaluation"))
        before = rows(root)
        assert {(name, step) for _, name, step, _ in before} >= {("train/loss", 2), ("eval/knn_top1", 0)}
    (root / "mlruns/artifacts").unlink(missing_ok=True)
    sync.once(root)
    said = capsys.readouterr()
    assert not said.err and "tracking: 2 journals" in said.out
    run = only_run(root)
    assert rows(root) == before and not [tag for tag in run.data.tags if tag.startswith("ssl.missing")]
    stored = root / "mlruns/artifacts" / run.info.run_id / "artifacts"
    assert (stored / "views/views.png").read_bytes() == (stored / "map.png").read_bytes() == b"picture"
    assert len(yaml.safe_load((stored / "params.yaml").read_text())["note"]) == 7000
    assert query(root, "SELECT count(*) FROM runs") == [(1,)]


def test_a_bug_on_the_way_is_not_taken_for_a_refusal(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_files(root)
    monkeypatch.setattr("mlflow.tracking.client.MlflowClient.log_artifact", lambda *arguments: {}["bug"])
    with pytest.raises(KeyError):
        Tracker(root).sync()


def test_a_training_has_its_parameters_and_the_confusion_matrix_of_its_evaluation(root: Path) -> None:
    params = {"train": {"lr": 0.1, "betas": [0.9, 0.99]}, "method": {"temperature": 0.2, "uri": "s3://me:pw@host/x"}}
    with training(root / "out/journal/simclr-0.jsonl", params=params) as journal:
        journal.end("FINISHED", encoder_sha256="e0")
    predictions = root / "out/predictions/simclr-0.csv"
    predictions.parent.mkdir()
    predictions.write_text("actual,predicted,knn\nBag,Bag,Coat\nBag,Coat,Coat\nCoat,Coat,Coat\nBag,Coat,Bag\n")
    with Journal(evaluated(root)) as journal:
        journal.artifact(Path("out/predictions/simclr-0.csv"), "predictions")
        journal.end("FINISHED", encoder_sha256="e0")
    Tracker(root).sync()
    stored = root / "mlruns/artifacts" / only_run(root).info.run_id / "artifacts"
    assert (stored / "predictions/confusion.csv").read_text() == "actual,Bag,Coat\nBag,1,2\nCoat,0,1\n"
    shown = {"temperature": 0.2, "uri": "s3://***@host/x"}
    assert yaml.safe_load((stored / "params.yaml").read_text()) == params | {"method": {"simclr": shown}}
    predictions.write_text("actual,predicted,knn\n")  # no labelled test image
    assert artifacts.confusion(predictions) == ""


def test_files_that_are_gone_from_the_store_or_cut_there_are_sent_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_files(root)
    sync.once(root)
    (kept,) = (root / "mlruns/artifacts").glob("*/artifacts")
    sync.once(root, files_too=True)
    assert "sent again" not in capsys.readouterr().out
    (kept / "views/views.png").write_bytes(b"pict")
    (kept / "map.png").unlink()
    (kept / "params.yaml").unlink()
    sync.once(root)
    assert not (kept / "map.png").exists()  # a usual sync asks no store for files
    sync.once(root, files_too=True)
    said = capsys.readouterr().out
    assert "simclr-0: files that were gone from MLflow or cut there were sent again: params.yaml, views/views.png" in said
    assert "were sent again: map.png" in said
    assert (kept / "views/views.png").read_bytes() == (kept / "map.png").read_bytes() == b"picture"
    assert (kept / "params.yaml").exists()


def test_a_file_that_is_not_what_was_recorded_replaces_no_good_one(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was edited or damaged here, and the next run makes it again."""
    with_files(root)
    sync.once(root)
    (kept,) = (root / "mlruns/artifacts").glob("*/artifacts")
    out = {"path": "map.png", "md5": recorded.digest(root / "map.png"), "hash": "md5"}
    (root / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"evaluate@simclr-0": {"outs": [out]}}}))
    (root / "map.png").write_bytes(b"another picture")
    sync.once(root, files_too=True)
    said = capsys.readouterr().out
    assert "map.png in MLflow stays, for map.png here is not what dvc.lock records" in said
    assert (kept / "map.png").read_bytes() == b"picture"
