"""What MLflow shows of a run besides its numbers: an encoder with scores tied to the data, a description, no tag twice."""

import json
import time

from tasks.tracking import logged_models
from tasks.tracking.journal import Journal
from tasks.tracking.tracker import Tracker
from tests.tasks.tracking.test_tracking import empty_store, evaluated, finished, only_run, query, root, training

__all__ = ["empty_store", "root"]


def test_an_encoder_is_found_by_its_scores_which_are_tied_to_the_data(root):
    finished(root)
    for fingerprint, top1 in (("A", 0.5), ("A", 0.5), ("B", 0.7)):
        evaluated(root, fingerprint=fingerprint, top1=top1)
        tracker = Tracker(root)
        tracker.sync()
        found = tracker.client.search_logged_models([tracker.experiment], filter_string=f"metrics.`eval/knn_top1` >= {top1}")
        assert [model.name for model in found] == ["simclr-0"]
    (model,) = tracker.client.search_logged_models([tracker.experiment])
    run = only_run(root)
    assert (model.source_run_id, model.params) == (run.info.run_id, {"method": "simclr", "seed": "0"})
    assert run.outputs.model_outputs[0].model_id == model.model_id
    (dataset,) = [each.dataset for each in run.inputs.dataset_inputs]
    shown = {(m.dataset_name, m.dataset_digest) for m in model.metrics if m.key == "eval/knn_top1"}
    assert shown == {(dataset.name, dataset.digest)}
    assert query(root, "SELECT count(*) FROM metrics WHERE key = 'eval/knn_top1'") == [(2,)]  # one of A and one of B


def test_the_models_tab_names_the_registered_versions(root):
    finished(root)
    evaluated(root, fingerprint="A", top1=0.5)
    tracker = Tracker(root)
    tracker.sync()
    first, second = ({"name": "ssl-x", "version": number} for number in "12")
    fingerprint = only_run(root).data.tags["ssl.fingerprint"]
    for version in (first, first, second):
        logged_models.link(tracker.client, tracker.experiment, fingerprint, version)
    (model,) = tracker.client.search_logged_models([tracker.experiment])
    assert json.loads(model.tags["mlflow.modelVersions"]) == [first, second]


def test_a_run_says_what_it_is_and_repeats_no_tag(root):
    facts = {"torch": "2.14", "dataset": "sample", "host": "here"}
    with training(root / "out/journal/simclr-0.jsonl", tags=facts) as journal:
        journal.end("FINISHED", encoder_sha256="e0")
    for fingerprint, host in (("A", "there"), ("B", "here")):
        with Journal(evaluated(root, fingerprint=fingerprint), position=0) as journal:
            where = {"stage": "evaluate@simclr-0", "name": "simclr", "seed": 0, "params": {"knn_k": [20]}}
            journal.start(fingerprint=fingerprint, tags=facts | {"host": host}, **where)
            journal.tags({"verdict": "healthy", "protocol": {"torch": "2.14", "k": 20}})
            journal.end("FINISHED", encoder_sha256="e0")
        Tracker(root).sync()
        tags = only_run(root).data.tags
        assert tags.get("evaluation.host") == ("there" if host == "there" else None)
    assert not {"evaluation.torch", "evaluation.dataset", "protocol.torch", "git_commit"} & tags.keys()
    assert (tags["protocol.k"], tags["protocol.knn_k"], tags["torch"]) == ("20", "[20]", "2.14")
    assert tags["mlflow.note.content"] == (
        "**SimCLR** (contrastive, 2020, arXiv 2002.05709), trained without labels on sample, seed 0. Made by `dvc repro -s"
        " pretrain@simclr-0`."
    )


def test_the_scores_of_a_task_are_tied_to_its_own_data(root):
    finished(root)
    evaluated(root)
    with Journal(root / "out/journal/evaluate-tiles-simclr-0.jsonl") as journal:
        data = {"name": "tiles", "sha256": "e" * 64}
        stage = "evaluate_task@tiles-simclr-0"
        journal.start(fingerprint="T", stage=stage, name="simclr", seed=0, tags={}, params={}, data=data)
        journal.metrics(0, {"tiles/linear_top1": 0.6})
        journal.end("FINISHED", encoder_sha256="e0")
    tracker = Tracker(root)
    tracker.sync()
    (model,) = tracker.client.search_logged_models([tracker.experiment])
    tied = {m.key: (m.dataset_name, m.dataset_digest) for m in model.metrics}
    assert tied["tiles/linear_top1"] == ("tiles", "e" * 32) and tied["eval/knn_top1"] == ("sample", "d" * 32)
    inputs = {each.dataset.name: each.tags[0].value for each in only_run(root).inputs.dataset_inputs}
    assert inputs == {"sample": "training", "tiles": "evaluation"}


def test_the_run_of_a_training_says_how_the_newest_report_finds_it_beside_its_start(root):
    finished(root)
    for number, tags in enumerate(({"standing.simclr-0": "worse than its start"}, {})):
        with Journal(root / f".ssl/work/report/{number}/journal.jsonl") as journal:
            facts = {"stage": "report", "name": "pipeline", "seed": None, "params": {}, "children": ["simclr-0"]}
            journal.start(fingerprint=f"r{number}", tags=tags, **facts)
            journal.end("FINISHED")
        time.sleep(0.002)
        tracker = Tracker(root)
        tracker.sync()
        run = tracker.client.get_run(tracker.run_id(f"{0:064d}"))
        assert run.data.tags.get("standing") == tags.get("standing.simclr-0")
