"""The list of runs that our links open: best first, with the scores that encoders are compared by."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tasks.tracking import view
from tasks.tracking.tracker import Tracker


def shared(tracker: Tracker) -> dict[str, Any]:
    experiment = tracker.client.get_experiment(tracker.experiment)
    return dict(json.loads(experiment.tags[view.TAG]))


def test_an_experiment_has_the_view_of_scores_and_gets_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    tracker = Tracker(tmp_path)
    found = shared(tracker)
    assert found["orderByKey"] == "metrics.`eval/holdout_linear_top1`" and not found["orderByAsc"]
    scores = {"holdout_linear_top1", "linear_top1", "knn_top1", "effective_rank"}
    assert {f"metrics.`eval/{score}`" for score in scores} <= set(found["selectedColumns"])
    assert found["selectedColumns"][-2:] == ["tags.`dataset`", "tags.`data_sha256`"]  # two weeks have runs of the same names
    tracker.client.set_experiment_tag(tracker.experiment, view.TAG, "of an earlier version")
    assert shared(Tracker(tmp_path)) == found

    def refuse(*given: object) -> None:
        raise MlflowException("Permission denied")

    tracker.client.set_experiment_tag(tracker.experiment, view.TAG, "of an earlier version")
    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    assert Tracker(tmp_path).experiment == tracker.experiment
