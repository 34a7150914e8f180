"""The evaluate stage on a tiny project: its files, and data without labels or without a test split."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_core.engine import encoders as core_encoders
from ssl_core.engine.health import effective_rank, watched
from tasks import metrics as tasks_metrics
from tasks.cautions import how_few, in_groups
from tasks.evaluate import evaluation
from tasks.judged import Judged
from tasks.metrics import load as load_metrics
from tasks.register.export import layer_index
from tasks.results import Result
from tasks.runtime import dataset, files, saved_encoder
from tasks.runtime.errors import Diverged
from tasks.runtime.stage import Stage
from tasks.runtime.stage_name import StageName
from tasks.tracking import journal
from tests.support.configs import ENCODER, encoder_of
from tests.support.encoders import HEALTH, project_with_encoder, write_encoder
from tests.support.project import rewrite, set_params

CPU = torch.device("cpu")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prepared data and one encoder, in the current directory."""
    quick = {"evaluate": {"linear_lambdas": 3, "label_seeds": 2, "bootstrap": 50, "batch_size": 40, "knn_k": [5, 200]}}
    return project_with_encoder(tmp_path, monkeypatch, quick)


def run(method: str = "simclr") -> dict:
    """The stage, in this process; its metrics."""
    stage = Stage(StageName("evaluate", method, 0), {"device": "cpu"})
    evaluation.Evaluation(stage, method, 0, CPU).run()
    return json.loads(stage.out(f"out/metrics/{method}-0.json").read_text())


def outs(method: str = "simclr") -> Path:
    """Where the stage leaves its outputs until they are published."""
    return Stage(StageName("evaluate", method, 0), {"device": "cpu"}).work / "outs/out"


def test_the_stage_writes_every_output_and_they_agree(project):
    metrics, out = run(), outs()
    features = files.load_tensors(out / "features/simclr-0.safetensors")
    blocks = encoder_of(seed=3, width=8).eval().blocks(torch.zeros(1, 1, 16, 16))
    index = layer_index(metrics["layer"], len(blocks))
    assert index >= len(blocks) - 2
    assert features["train"].shape == (96, blocks[index].shape[1]) and features["test"].shape == (32, blocks[index].shape[1])
    assert features["train"].dtype == np.float16
    rows = list(csv.DictReader((out / "predictions/simclr-0.csv").open()))
    assert np.mean([row["actual"] == row["predicted"] for row in rows]) == pytest.approx(metrics["linear_top1"])
    assert [row["actual"] for row in rows] == [name for _ in range(8) for name in "abcd"]
    assert set(metrics["per_class"]) == set("abcd")
    assert metrics["health"] == metrics["random_health"] == HEALTH and metrics["verdict"] == "healthy"
    assert metrics["protocol"]["image_size"] == 16 and len(metrics["protocol"]["split_sha256"]) == 64
    assert {"k", "temperature", "knn_layer", "lambda", "layer", "epoch", "precision", "data_sha256"} <= set(metrics["protocol"])
    assert metrics["encoder_sha256"] == files.sha256(project / "out/encoders/simclr-0/encoder.safetensors")


def test_images_that_belong_together_are_drawn_together_in_the_numbers_and_wherever_they_are_compared(project):
    before = run()
    rows = csv.DictReader((outs() / "predictions/simclr-0.csv").open())
    order = np.argsort([row["actual"] == row["predicted"] for row in rows], kind="stable")  # right and wrong ones together
    together = np.empty(32, np.int64)
    together[order] = np.arange(32) // 8
    rewrite(project, train_groups=np.arange(96) // 20, test_groups=together)
    metrics = run()
    assert metrics["protocol"]["test_groups"] == 4 and metrics["protocol"]["holdout_groups"] == 5
    assert metrics["linear_top1"] == before["linear_top1"] and metrics["linear_interval"] != before["linear_interval"]
    judged = Judged.read(outs() / "predictions/simclr-0.safetensors")
    assert set(judged.held_out) == {"0.01", "0.1", "linear", "knn"}
    assert judged.groups["test"].tolist() == together.tolist() and len(judged.groups["held_out"]) == 10
    result = Result(load_metrics(outs() / "metrics/simclr-0.json")[0], judged=judged)
    assert result.groups("test", 32) is not None and result.groups("test", 31) is None
    assert in_groups(result) == [
        "The 32 test images are 4 groups (tiles of one picture, or what the column group says): intervals and comparisons draw"
        " whole groups."
    ]
    assert "one of the 4 groups of test images is 25.0 points" in how_few(result)[0]


def test_the_journal_ties_the_evaluation_to_the_training_and_carries_the_protocol(project):
    metrics = run()
    events = list(journal.read(outs() / "journal/evaluate-simclr-0.jsonl"))
    assert [e["event"] for e in events] == ["start", "metrics", "tags", "artifact", "artifact", "artifact", "end"]
    assert [e["path"] for e in events if e["event"] == "artifact"] == [
        "out/predictions/simclr-0.csv",
        "out/predictions/simclr-0.safetensors",
        "out/metrics/simclr-0.json",
    ]
    assert events[-1]["encoder_sha256"] == metrics["encoder_sha256"]
    assert events[1]["step"] == 0 and events[1]["metrics"]["linear_top1"] == metrics["linear_top1"]
    assert events[1]["metrics"]["linear_top1_10pct"] == metrics["few_label"]["0.1"]["mean"]
    assert events[2]["tags"]["protocol"]["lambda"] == metrics["protocol"]["lambda"]


@pytest.mark.fault("R1", "R7")
def test_two_runs_give_the_same_bytes_for_any_batch_size(project):
    def everything() -> list[bytes]:
        run()
        return [(outs() / name).read_bytes() for name in ("metrics/simclr-0.json", "predictions/simclr-0.csv")]

    first = everything()
    assert everything() == first
    set_params(project, {"evaluate": {"batch_size": 7}})
    assert json.loads(everything()[0])["linear_top1"] == json.loads(first[0])["linear_top1"]


@pytest.mark.fault("F42")
def test_features_of_an_image_do_not_depend_on_its_batch_and_leave_the_encoder_alone(project):
    encoder, facts = saved_encoder.load(project / "out/encoders/simclr-0")
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    images = dataset.load().train_images
    whole, single = (evaluation.extract(encoder.train(), images, facts, batch, CPU) for batch in (96, 1))
    assert all(torch.allclose(whole[name], single[name], atol=1e-5) for name in whole)
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert encoder.training
    assert torch.allclose(
        whole["block4"], encoder.eval()((torch.from_numpy(images.copy()).float() / 255 - 0.5) / 0.2), atol=1e-5
    )


def test_raw_pixels_have_one_layer(project):
    write_encoder(project, "raw_pixels", name="pixels")
    metrics = run("raw_pixels")
    assert metrics["layer"] == "block1"
    assert list(metrics["holdout_linear_top1_by_layer"]) == ["block1"] == [metrics["protocol"]["knn_layer"]]


def test_data_without_labels_gives_label_free_numbers_and_complete_outputs(project):
    rewrite(project, train_labels=np.full(96, -1), test_labels=np.full(32, -1), train_holdout=np.zeros(96, bool))
    metrics, out = run(), outs()
    assert metrics["health"] == HEALTH and metrics["layer"] == "block4"
    assert not {"knn_top1", "linear_top1", "nmi", "per_class", "holdout_linear_top1"} & metrics.keys()
    assert (out / "predictions/simclr-0.csv").read_text() == "actual,predicted,knn\n"
    assert files.load_tensors(out / "features/simclr-0.safetensors")["test"].shape[0] == 32


def test_an_empty_test_split_leaves_the_held_out_numbers(project):
    rewrite(project, test_images=np.zeros((0, 1, 16, 16), np.uint8), test_labels=np.zeros(0, np.int64))
    metrics = run()
    assert "holdout_linear_top1" in metrics and "linear_top1" not in metrics
    assert "no labelled test images" in metrics["protocol"]["test"]
    assert files.load_tensors(outs() / "features/simclr-0.safetensors")["test"].shape[0] == 0


def test_rank_and_spread_are_those_of_the_layer_that_is_handed_out(project):
    metrics = run()
    kept = torch.from_numpy(files.load_tensors(outs() / "features/simclr-0.safetensors")["train"]).float()
    few = metrics["protocol"]["health_images"]
    assert 1 < few < len(kept)
    spaced = kept[[number * len(kept) // few for number in range(few)]]  # images lie class by class
    assert (metrics["protocol"]["dim"], metrics["effective_rank"]) == (kept.shape[1], pytest.approx(effective_rank(spaced)))
    assert metrics["health"]["effective_rank"] != metrics["effective_rank"]  # of the last layer, which the verdict judges
    (read,) = tasks_metrics.load(outs() / "metrics/simclr-0.json")
    assert read.score("effective_rank") == metrics["effective_rank"] and read.score("alignment") == read.health.alignment


@pytest.mark.fault("F38")
def test_features_that_are_not_finite_stop_the_stage_with_one_line(project):
    write_encoder(project, "simclr", poison=True)
    with pytest.raises(Diverged, match="not finite"):
        run()


@pytest.mark.fault("F38")
def test_features_of_test_images_that_are_not_finite_stop_the_stage_too(project, monkeypatch):
    whole = evaluation.Evaluation._extract

    def broken(self, encoder, split):
        return {layer: x * (torch.nan if split == "test" else 1) for layer, x in whole(self, encoder, split).items()}

    monkeypatch.setattr(evaluation.Evaluation, "_extract", broken)
    with pytest.raises(Diverged, match="not finite"):
        run()


@pytest.mark.fault("F39")
def test_a_collapsed_encoder_is_called_so(project):
    write_encoder(project, "simclr", health={**HEALTH, "feature_std": 1e-6})
    assert run()["verdict"] == "collapsed"


def test_an_untrained_encoder_is_scored_beside_others_as_their_own_stages_would(project):
    write_encoder(project, "random_init")
    set_params(project, {"evaluate": {"untrained": 3}})
    run("random_init")
    first, *others = tasks_metrics.load(outs("random_init") / "metrics/random_init-0.json")
    assert [m.seed for m in (first, *others)] == [0, 1, 2]
    assert len({m.score("linear_top1") for m in (first, *others)}) > 1 and len({m.health.effective_rank for m in others}) == 2
    rows = list(csv.DictReader((outs("random_init") / "predictions/random_init-0.csv").open()))
    assert set(rows[0]) == {"actual", "predicted", "knn", "predicted-1", "knn-1", "predicted-2", "knn-2"}
    for found, (linear, near) in zip((first, *others), map(tasks_metrics.prediction_columns, (None, 1, 2)), strict=True):
        assert np.mean([row["actual"] == row[linear] for row in rows]) == pytest.approx(found.score("linear_top1"))
        assert np.mean([row["actual"] == row[near] for row in rows]) == pytest.approx(found.score("knn_top1"))
    made = core_encoders.open_residuals(core_encoders.build(dataclasses.replace(ENCODER, width=8), 1, 16, 1))
    prepared = dataset.load()
    facts = json.loads((project / "out/encoders/random_init-0/encoder.json").read_text())
    seen = prepared.train_images[watched(len(prepared.train_images), facts["train"]["health_images"]).numpy()]
    with torch.no_grad():
        rank = effective_rank(made.eval()((torch.from_numpy(seen).float() / 255 - 0.5) / 0.2))
    assert others[0].health.effective_rank == pytest.approx(rank, rel=1e-3)
