"""MLflow shows what the journals say, once, whatever happens to the tracker, the network or the process."""

import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks import sync
from tasks.doctor import Doctor
from tasks.runtime import recorded, settings
from tasks.runtime.errors import TrackerDown
from tasks.runtime.redaction import redact
from tasks.runtime.work import discard
from tasks.tracking import patience, registered
from tasks.tracking.journal import Journal
from tasks.tracking.mirror import Mirror
from tasks.tracking.records import clean, read_record, records
from tasks.tracking.tracker import Tracker
from tests.conftest import ROOT
from tests.support.damage import mutated

PYTHON = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An initialized sqlite store: copying it saves the migrations."""
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(root)
        Tracker(root)
    return root / "mlruns" / "mlflow.db"


@pytest.fixture
def root(tmp_path, empty_store, monkeypatch):
    """A project with a fresh store of its own."""
    (tmp_path / "mlruns").mkdir()
    shutil.copyfile(empty_store, tmp_path / "mlruns" / "mlflow.db")
    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as store:
        store.execute("UPDATE experiments SET artifact_location = ?", [(tmp_path / "mlruns" / "artifacts").as_uri()])
    for name in settings.DEFAULTS:
        monkeypatch.setenv(name, settings.DEFAULTS[name])
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.store_uri(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def training(path, seed=0, steps=3, **changes):
    """An open journal of a training with ``steps`` steps."""
    journal = Journal(path)
    facts = {"fingerprint": f"{seed:064d}", "stage": f"pretrain@simclr-{seed}", "name": "simclr", "seed": seed}
    data = {"name": "sample", "sha256": "d" * 64, "num_train": 10}
    journal.start(**facts | {"tags": {"dataset": "sample"}, "params": {"train": {"lr": 0.1}}, "data": data} | changes)
    for step in range(steps):
        journal.metrics(step, {"loss": 1.0 / (step + 1), "lr": 0.1})
    return journal


def finished(root, seed=0, **changes):
    """The journal of a finished training."""
    with training(root / f"out/journal/simclr-{seed}.jsonl", seed, **changes) as journal:
        journal.end("FINISHED", cost={"seconds": 2.0}, encoder_sha256=f"e{seed}")
    return journal.path


def evaluated(root, seed=0, fingerprint="v", top1=0.5, name="out/journal/evaluate-simclr-0.jsonl"):
    """The journal of an evaluation of it."""
    (root / name).unlink(missing_ok=True)
    with Journal(root / name) as journal:
        stage = f"evaluate@simclr-{seed}"
        journal.start(fingerprint=fingerprint, stage=stage, name="simclr", seed=seed, tags={}, params={"knn_k": [20]})
        journal.metrics(0, {"holdout_knn_top1": top1, "holdout_linear_top1": top1, "knn_top1": top1})
        journal.tags({"verdict": "healthy"})
        journal.end("FINISHED", encoder_sha256=f"e{seed}")
    return journal.path


def query(root, sql, *values):
    with contextlib.closing(sqlite3.connect(root / "mlruns" / "mlflow.db")) as store:
        return store.execute(sql, values).fetchall()


def rows(root):
    """(run, metric, step, value) of every row in the store, in order."""
    sql = "SELECT name, key, step, value FROM metrics JOIN runs USING (run_uuid) ORDER BY name, key, step, timestamp"
    return query(root, sql)


def only_run(root):
    """The one run of the store."""
    tracker = Tracker(root)
    (run,) = tracker.client.search_runs([tracker.experiment])
    return run


def test_a_finished_journal_becomes_one_complete_run(root):
    (root / "views.png").write_bytes(b"picture")
    with training(root / "out/journal/simclr-0.jsonl") as journal:
        journal.artifact(Path("views.png"), "views")
        journal.end("FINISHED", cost={"seconds": 2.0}, encoder_sha256="e0")
    assert Tracker(root).sync() == 1
    run = only_run(root)
    assert (run.info.run_name, run.info.status) == ("simclr-0", "FINISHED")
    assert run.data.params == {"Family": "contrastive", "Method": "simclr", "Year": "2020", "seed": "0", "train.lr": "0.1"}
    assert run.data.metrics == {"train/loss": pytest.approx(1 / 3), "train/lr": 0.1, "resources/seconds": 2.0}
    assert not {"method", "family", "year", "seed"} & run.data.tags.keys()  # which are parameters
    assert {k: run.data.tags[k] for k in ("dataset", "stage", "ssl.encoder_sha256")} == {
        "dataset": "sample",
        "stage": "pretrain@simclr-0",
        "ssl.encoder_sha256": "e0",
    }
    assert [d.dataset.name for d in run.inputs.dataset_inputs] == ["sample"]
    assert (root / "mlruns/artifacts" / run.info.run_id / "artifacts/views/views.png").read_bytes() == b"picture"
    times = [t for (t,) in query(root, "SELECT timestamp FROM metrics WHERE key = 'train/loss' ORDER BY step")]
    assert times == [t for t, _, name, _ in read_record(journal.path).rows if name == "train/loss"]


def test_a_picture_of_a_stage_that_has_ended_but_not_published_is_sent(root):
    work = root / ".ssl/work/pretrain@simclr-0/f"
    (work / "outs/out").mkdir(parents=True)
    (work / "outs/out/views.png").write_bytes(b"picture")
    with training(work / "journal.jsonl") as journal:
        journal.artifact(Path("out/views.png"))
        journal.artifact(Path("out/gone.png"))
        journal.end("FINISHED")
    Tracker(root).sync()
    run = only_run(root)
    assert (root / "mlruns/artifacts" / run.info.run_id / "artifacts/views.png").read_bytes() == b"picture"
    assert run.data.tags["ssl.missing_artifacts"] == "out/gone.png"


def test_the_run_of_a_report_stands_beside_its_champion_in_a_comparison(root):
    """What MLflow compares by default: the first parameters that differ, the first metric that all have."""
    finished(root)
    evaluated(root)
    with Journal(root / "reports/journal.jsonl") as journal:
        tags = {"champion": "simclr-0"}
        journal.start(fingerprint="r", stage="report", name="pipeline", seed=None, tags=tags, params={}, children=["simclr-0"])
        journal.metrics(0, {"eval/knn_top1": 0.5, "eval/holdout_linear_top1": 0.6})
        journal.end("FINISHED", cost={"report_seconds": 1.0})
    tracker = Tracker(root)
    tracker.sync()
    one, other = tracker.client.search_runs([tracker.experiment])
    assert {one.info.run_name, other.info.run_name} == {"simclr-0", "pipeline"}
    for here, there in ((one, other), (other, one)):  # whichever the user ticks first
        assert next(name for name in here.data.metrics if name in there.data.metrics) == "eval/holdout_linear_top1"
    for run in (one, other):
        assert {k: run.data.params[k] for k in ("Family", "Method", "Year")} == {
            "Family": "contrastive",
            "Method": "simclr",
            "Year": "2020",
        }
        assert sorted(run.data.params)[:3] == ["Family", "Method", "Year"]


def test_sending_again_from_anywhere_changes_nothing(root):
    finished(root)
    evaluated(root)
    Tracker(root).sync()
    before = rows(root), query(root, "SELECT * FROM tags ORDER BY key"), query(root, "SELECT * FROM runs")
    tracker = Tracker(root)
    tracker.sync()
    tracker.sync()
    assert before == (rows(root), query(root, "SELECT * FROM tags ORDER BY key"), query(root, "SELECT * FROM runs"))


def test_a_lost_store_is_rebuilt_from_the_journals(root, empty_store):
    finished(root)
    evaluated(root)
    Tracker(root).sync()
    before = rows(root)
    shutil.copyfile(empty_store, root / "mlruns" / "mlflow.db")
    Tracker(root).sync()
    assert rows(root) == before


@pytest.mark.fault("F59")
def test_a_crash_at_any_call_leaves_what_the_next_sync_completes(root):
    """The N-th call to MLflow fails, N = 1, 2, ...; after the repair the rows are those of an undisturbed sync."""
    for seed in (0, 1):
        finished(root, seed)
    evaluated(root)
    store, spare = root / "mlruns" / "mlflow.db", root / "spare.db"
    shutil.copyfile(store, spare)
    Tracker(root).sync()
    wanted, runs = rows(root), query(root, "SELECT name, status FROM runs ORDER BY name")
    for fail_at in range(1, 100):
        shutil.copyfile(spare, store)
        tracker, calls = Tracker(root), iter(range(1, 1000))

        def broken(name, real, calls=calls, fail_at=fail_at):
            def call(*arguments, **named):
                if next(calls) == fail_at:
                    raise RuntimeError("crash")
                return real(*arguments, **named)

            return call

        models = ("create_logged_model", "finalize_logged_model", "log_outputs")
        for name in ("create_run", "log_batch", "log_inputs", "set_terminated", "set_tag", *models):
            setattr(tracker.client, name, broken(name, getattr(tracker.client, name)))
        try:
            tracker.sync()
        except RuntimeError:
            Tracker(root).sync()
            assert (rows(root), query(root, "SELECT name, status FROM runs ORDER BY name")) == (wanted, runs), fail_at
        else:
            break
    assert fail_at > 12


@pytest.mark.fault("F60")
def test_a_killed_run_is_closed_and_goes_on_as_the_same_run(root):
    work = root / ".ssl/work/pretrain@simclr-0/0000"
    journal = training(work / "journal.jsonl")
    position = journal.position
    journal.metrics(3, {"loss": 0.1})
    with (work / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        Tracker(root).sync()
        assert only_run(root).info.status == "RUNNING"
    Tracker(root).sync()
    assert only_run(root).info.status == "KILLED"
    journal.close()
    with (work / ".lock").open("w") as lock, Journal(journal.path, position) as resumed:
        fcntl.flock(lock, fcntl.LOCK_EX)
        resumed.metrics(3, {"loss": 0.1})  # replayed: the row is there already
        resumed.metrics(4, {"loss": 0.05})
        Tracker(root).sync()
        assert only_run(root).info.status == "RUNNING"
        resumed.end("FINISHED", cost={"seconds": 3.0})
        resumed.publish(root / "out/journal/simclr-0.jsonl")
    Tracker(root).sync()
    assert only_run(root).info.status == "FINISHED"
    assert [step for _, key, step, _ in rows(root) if key == "train/loss"] == [0, 1, 2, 3, 4]


def test_the_journal_of_a_removed_work_directory_is_sent_then_forgotten(root):
    work = root / ".ssl/work/pretrain@simclr-0/0000"
    training(work / "journal.jsonl").close()
    assert discard(work) and not work.exists()
    sync.once(root)
    assert only_run(root).info.status == "KILLED" and len(rows(root)) == 6
    assert records(root) == []


def test_a_failed_run_says_so_and_has_no_cost(root):
    with training(root / ".ssl/work/p/f/journal.jsonl") as journal:
        journal.end("FAILED", cost={"seconds": 9.0}, reason="the loss is nan")
    Tracker(root).sync()
    run = only_run(root)
    assert (run.info.status, run.data.tags["ssl.reason"]) == ("FAILED", "the loss is nan")
    assert "resources/seconds" not in run.data.metrics


@pytest.mark.fault("F62")
def test_numbers_that_are_not_finite_are_tags_and_never_rows(root):
    with training(root / "out/journal/simclr-0.jsonl") as journal:
        journal.metrics(7, {"loss": float("nan"), "lr": float("inf"), "other": 1e300})
        journal.end("FINISHED")
    Tracker(root).sync()
    run = only_run(root)
    assert run.data.tags["nonfinite.train/loss"] == "nan at step 7"
    assert run.data.tags["nonfinite.train/lr"] == "inf at step 7"
    assert {(k, s) for _, k, s, _ in rows(root) if s == 7} == {("train/other", 7)}


@pytest.mark.fault("F63")
def test_odd_names_and_long_values_are_kept_apart_and_whole(root):
    params = {
        "a?": 1,
        "a!": 2,
        "": 3,
        "../up": 4,
        "long": "x" * 20_000,
        "ключ": "значение",
        "k" * 400: 5,
        "uri": "s3://me:pw@host/x",
    }
    path = finished(root, params=params)
    tracker = Tracker(root)
    assert (tracker.sync(), tracker.problems) == (1, [])
    run = only_run(root)
    assert sorted(v for v in run.data.params.values() if len(v) == 1) == ["0", "1", "2", "3", "4", "5"]  # 0: the seed
    assert run.data.params["ключ"] == "значение"
    assert run.data.params["uri"] == "s3://***@host/x"
    assert "cut, sha256" in run.data.params["long"]
    folder = tracker.client.download_artifacts(run.info.run_id, "params.yaml", str(root))
    assert "x" * 20_000 in Path(folder).read_text()
    assert read_record(path).run["params"] == params
    assert clean("train/loss") == "train/loss"


def test_an_evaluation_adds_to_the_row_of_its_training(root):
    """As the stages leave them: in the work directory, and published."""
    for path in (finished(root), evaluated(root)):
        work = root / ".ssl/work" / path.stem / "f"
        work.mkdir(parents=True)
        shutil.copyfile(path, work / "journal.jsonl")
    assert Tracker(root).sync() == 2
    run = only_run(root)
    assert run.data.metrics["eval/knn_top1"] == 0.5
    assert (run.data.tags["verdict"], run.data.tags["protocol.knn_k"]) == ("healthy", "[20]")


def test_a_fine_tuning_adds_to_the_row_of_its_training_beside_its_evaluation(root):
    finished(root)
    evaluated(root, top1=0.7)
    with Journal(root / "out/journal/finetune-simclr-0.jsonl") as journal:
        stage, recipe = "finetune@simclr-0", {"config": {"layer_decay": 0.75}}
        journal.start(fingerprint="f", stage=stage, name="simclr", seed=0, tags={"device": "cpu"}, params=recipe)
        journal.metrics(0, {"top1_1pct": 0.4, "top1_100pct": 0.8})
        journal.end("FINISHED", encoder_sha256="e0")
    with Journal(root / "out/journal/evaluate-tiles-simclr-0.jsonl") as journal:
        stage, data = "evaluate_task@tiles-simclr-0", {"name": "tiles", "sha256": "e" * 64}
        tags = {"tiles": {"data_sha256": data["sha256"]}}
        journal.start(fingerprint="u", stage=stage, name="simclr", seed=0, tags=tags, params={}, data=data)
        journal.tags({"tiles": {"protocol": {"data_sha256": data["sha256"], "verdict": "healthy", "k": 5}}})
        journal.end("FINISHED", encoder_sha256="e0")
    with Journal(root / "out/journal/finetune-tiles-simclr-0.jsonl") as journal:
        stage, data = "finetune_task@tiles-simclr-0", {"name": "tiles", "sha256": "e" * 64}
        tags = {"tiles": {"data_sha256": data["sha256"]}}
        journal.start(fingerprint="t", stage=stage, name="simclr", seed=0, tags=tags, params=recipe, data=data)
        journal.metrics(0, {"tiles/finetune_top1_1pct": 0.3})
        journal.end("FINISHED", encoder_sha256="e0")
    Tracker(root).sync()
    Tracker(root).sync()
    run = only_run(root)
    assert run.data.metrics["finetune/top1_1pct"] == 0.4 and run.data.metrics["finetune/top1_100pct"] == 0.8
    assert run.data.metrics["eval/knn_top1"] == 0.7 and run.data.metrics["tiles/finetune_top1_1pct"] == 0.3
    assert run.data.tags["ssl.finetune.tiles"].startswith("t ") and run.data.tags["finetune.tiles.data_sha256"] == "e" * 64
    assert run.data.tags["evaluation.tiles.data_sha256"] == "e" * 64 and run.data.tags["tiles.protocol.k"] == "5"
    assert not {"tiles.protocol.data_sha256", "tiles.protocol.verdict"} & run.data.tags.keys()  # said already
    assert run.data.tags["ssl.finetune"].startswith("f ") and run.data.tags["ssl.evaluation"].startswith("v ")
    assert run.data.tags["finetune.recipe.config.layer_decay"] == "0.75" and run.data.tags["verdict"] == "healthy"


def test_an_evaluation_of_other_weights_is_not_shown(root):
    finished(root)
    path = evaluated(root)
    path.write_text(path.read_text().replace('"e0"', '"other"'))
    assert Tracker(root).sync() == 1
    assert "eval/knn_top1" not in only_run(root).data.metrics


def test_the_evaluation_that_holds_now_is_the_one_shown(root):
    """Protocol A, then B, then A again from a cache with its old times: MLflow's latest value must follow."""
    finished(root)
    old = evaluated(root, fingerprint="A", top1=0.5).read_bytes()
    for content, value in ((None, 0.5), (0.7, 0.7), (old, 0.5)):
        if isinstance(content, bytes):
            (root / "out/journal/evaluate-simclr-0.jsonl").write_bytes(content)
        elif content:
            evaluated(root, fingerprint="B", top1=content)
        Tracker(root).sync()
        Tracker(root).sync()
        assert only_run(root).data.metrics["eval/knn_top1"] == value
    assert len([r for r in rows(root) if r[1] == "eval/knn_top1"]) == 3


def test_a_report_is_the_parent_of_what_it_compares(root):
    for seed in (0, 1, 2):
        finished(root, seed)
    for number, children in enumerate((["simclr-0", "simclr-1"], ["simclr-0"])):
        with Journal(root / f".ssl/work/report/{number}/journal.jsonl") as journal:
            journal.start(
                fingerprint=f"r{number}", stage="report", name="report", seed=None, tags={}, params={}, children=children
            )
            journal.end("FINISHED")
        time.sleep(0.002)
        Tracker(root).sync()
    sql = "SELECT runs.name, value FROM tags JOIN runs USING (run_uuid) WHERE key = 'mlflow.parentRunId' ORDER BY runs.name"
    fingerprints = dict(query(root, "SELECT run_uuid, value FROM tags WHERE key = 'ssl.fingerprint'"))
    assert [(name, fingerprints[parent]) for name, parent in query(root, sql)] == [("simclr-0", "r1"), ("simclr-1", "r0")]


def test_the_summary_of_a_flow_links_to_every_run_and_to_the_report_in_mlflow(root):
    from flows import artifacts

    finished(root)
    with Journal(root / "reports/journal.jsonl") as journal:
        journal.start(fingerprint="r", stage="report", name="pipeline", seed=None, tags={}, params={}, children=["simclr-0"])
        journal.end("FINISHED")
    (root / "reports/report.html").touch()
    sync.once(root)
    links = dict(re.findall(r"\[([^]]*)\]\(([^)]*)\)", artifacts.page(root, "2 stages: 2 ran\nand more")))
    ids = dict(query(root, "SELECT name, run_uuid FROM runs"))
    address, layout = "http://127.0.0.1:5000/#/experiments/1/runs/", "?workflowType=machine_learning"
    names = ("simclr-0", "pipeline")
    assert [links[name] for name in names] == [address + ids[name] + layout for name in names]
    assert links["in MLflow"] == f"{address}{ids['pipeline']}/artifacts/report/report.html{layout}" and len(links) == 4


def test_a_run_deleted_by_its_user_does_not_come_back(root):
    finished(root)
    tracker = Tracker(root)
    tracker.sync()
    tracker.client.delete_run(only_run(root).info.run_id)
    Tracker(root).sync()
    assert query(root, "SELECT count(*) FROM runs") == [(1,)]


def test_a_run_created_twice_by_a_late_answer_becomes_one(root):
    path = finished(root)
    tracker = Tracker(root)
    for _ in range(2):
        tracker._create(read_record(path))
    Tracker(root).sync()
    Tracker(root).sync()
    assert query(root, "SELECT count(*) FROM runs WHERE lifecycle_stage = 'active'") == [(1,)]
    assert len(rows(root)) == 7


@pytest.mark.fault("F35")
def test_many_processes_on_a_store_that_does_not_exist_yet(tmp_path, monkeypatch):
    for seed in range(2):
        finished(tmp_path, seed)
    environment = os.environ | PYTHON | {"MLFLOW_TRACKING_URI": settings.store_uri(tmp_path)}
    command = [sys.executable, "-m", "tasks.sync"]
    processes = [subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [p.communicate(timeout=120)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], errors
    assert query(tmp_path, "SELECT count(*) FROM runs") == [(2,)]
    assert len(rows(tmp_path)) == 14


@pytest.mark.parametrize("damage", ["garbage", "forbidden"])
@pytest.mark.fault("F55", "F67")
def test_a_store_that_cannot_be_used_is_one_line_and_loses_nothing(root, monkeypatch, damage):
    finished(root)
    store = root / "mlruns" / "mlflow.db"
    good = store.read_bytes()
    with monkeypatch.context() as patch:
        if damage == "garbage":
            store.write_bytes(b"this is no database" * 1000)
        else:
            patch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/mlflow.db")
        started = time.monotonic()
        with pytest.raises(TrackerDown) as raised:
            Tracker(root).sync()
        assert "\n" not in str(raised.value)
        assert time.monotonic() - started < 10
    store.write_bytes(good)
    assert Tracker(root).sync() == 1


@pytest.mark.parametrize(
    "words", ["[Errno 28] No space left on device: 'weights'", "(OperationalError) database or disk is full"]
)
@pytest.mark.fault("F19")
def test_a_full_disk_is_named_whoever_found_it(root, words):
    """MLflow wraps what its threads met; its first line says only that something failed."""
    from mlflow.exceptions import MlflowException

    tracker = Tracker(root)
    with pytest.raises(TrackerDown, match="no space left on the device of sqlite:"), tracker.errors():
        raise MlflowException(
            f"The following failures occurred while downloading artifacts:\n##### File weights #####\n{words}"
        )


@pytest.mark.fault("F67")
def test_a_store_locked_by_somebody_is_waited_for(root):
    finished(root)
    with contextlib.closing(sqlite3.connect(root / "mlruns" / "mlflow.db", check_same_thread=False)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        threading.Timer(1.0, holder.rollback).start()
        started = time.monotonic()
        assert Tracker(root).sync() == 1
        assert time.monotonic() - started > 0.5


# ------------------------------------------------------------------ trackers that misbehave


@contextlib.contextmanager
def scripted(behave):
    """A server on loopback whose every connection is handled by ``behave(connection)``; yields its address."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection = server.accept()[0]
                    threading.Thread(target=behave, args=[connection], daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://user:canary@127.0.0.1:{server.getsockname()[1]}"


def answer(status, body, length=None):
    def behave(connection):
        with contextlib.suppress(OSError):
            connection.recv(65536)
            head = f"HTTP/1.1 {status}\r\nContent-Length: {length or len(body)}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode() + body)
            connection.close()

    return behave


BAD = {
    "500": answer("500 Internal Server Error", b"no"),
    "429": answer("429 Too Many Requests", b"{}"),
    "html": answer("200 OK", b"<html>a proxy's login page</html>"),
    "half": answer("200 OK", b'{"experiment": {', 4000),
    "drop": lambda connection: connection.close(),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.fault("F58", "F77")
def test_a_tracker_that_answers_nonsense_is_one_line_without_secrets(root, monkeypatch, capsys, kind):
    finished(root)
    with scripted(BAD[kind]) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        started = time.monotonic()
        with pytest.raises(TrackerDown) as raised:
            sync.once(root)
    assert time.monotonic() - started < 10
    assert "canary" not in str(raised.value) + "".join(capsys.readouterr())
    assert "\n" not in str(raised.value)


def hang(connection):
    time.sleep(60)


def trickle(connection):
    """A byte every 0.1 s: no request ever times out."""
    with contextlib.suppress(OSError):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            connection.sendall(b" ")
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("ask", "raises"),
    [
        (sync.once, True),
        (lambda root: registered.ask("any"), True),
        (lambda root: registered.unreadable("mlflow-artifacts:/0/encoder", ""), False),
    ],
    ids=["sync", "registry", "package"],
)
@pytest.mark.fault("F57")
def test_a_tracker_that_sends_a_byte_now_and_then_is_given_up_on(root, monkeypatch, ask, raises):
    finished(root)
    monkeypatch.setattr(patience, "FREE_SECONDS", 0.5)
    monkeypatch.setattr(patience, "ALL_SECONDS", 1.0)
    monkeypatch.setattr(patience, "_waited", [0.0])
    with scripted(trickle) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        for seconds in (1.5, 0.5):  # of the second call nothing is left but what is free
            started = time.monotonic()
            if raises:
                with pytest.raises(TrackerDown, match="cannot be used now"):
                    ask(root)
            else:
                reason = ask(root)
                assert "kept this waiting" in reason and "canary" not in reason
            assert seconds <= time.monotonic() - started < seconds + 5
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_is_sent_to_a_server_may_take_the_time_of_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setattr(patience, "ALL_SECONDS", 0.0)
    monkeypatch.setattr(patience, "FREE_SECONDS", 0.2)
    monkeypatch.setattr(patience, "BYTES_PER_SECOND", 10.0)
    (tmp_path / "file").write_bytes(b"0123456789")

    class Client:
        def log_artifacts(self, run, folder):
            time.sleep(0.6)
            return "sent"

        log_batch = log_artifacts

    client = patience.Patient(Client())
    assert client.log_artifacts("run", str(tmp_path)) == "sent"
    with pytest.raises(TrackerDown, match="kept this waiting"):
        client.log_batch("run", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///x")
    assert client.log_batch("run", str(tmp_path)) == "sent"


def test_a_command_that_gives_up_waits_for_no_thread_that_does_not(tmp_path):
    program = """
import threading, time
from tasks.runtime.errors import TrackerDown, run
def main():
    threading.Thread(target=time.sleep, args=[60]).start()
    raise TrackerDown("MLflow is gone")
run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (4, "error: MLflow is gone\n")


@pytest.mark.parametrize("behave", [hang, trickle, BAD["500"]], ids=["hangs", "sends a byte now and then", "answers 500"])
@pytest.mark.fault("F55", "F57", "R7")
def test_a_training_beside_a_broken_tracker_neither_waits_nor_loses_a_point(root, monkeypatch, capfd, behave):
    with monkeypatch.context() as patch, scripted(behave) as address:
        patch.setenv("MLFLOW_TRACKING_URI", address)
        patch.setenv("PYTHONPATH", str(ROOT))
        with training(root / "out/journal/simclr-0.jsonl", steps=0) as journal:
            pauses = []
            started = time.monotonic()
            mirror = Mirror(journal.path, delay=0.0, interval=0.2).start()
            for step in range(60):
                before = time.monotonic()
                journal.metrics(step, {"loss": 1.0})
                pauses.append(time.monotonic() - before)
                time.sleep(0.05)
            stopping = time.monotonic()
            mirror.stop()
            assert time.monotonic() - stopping < 2
            assert max(pauses) < 0.5
            assert time.monotonic() - started < 12
            journal.end("FINISHED")
    warned = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert len(warned) <= 1 and "canary" not in "".join(warned)
    Tracker(root).sync()
    assert [step for _, key, step, _ in rows(root) if key == "train/loss"] == list(range(60))


def test_the_mirror_shows_a_training_while_it_runs_and_its_killing(root, monkeypatch):
    """A real stage process is killed: its mirror, started at once for system metrics, outlives it and closes the run."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    code = (
        "import fcntl, sys, time; from pathlib import Path\n"
        "from tasks.tracking.journal import Journal; from tasks.tracking.mirror import Mirror\n"
        "work = Path(sys.argv[1]); work.mkdir(parents=True)\n"
        "lock = (work / '.lock').open('w'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "journal = Journal(work / 'journal.jsonl')\n"
        "journal.start(fingerprint='f', stage='pretrain@simclr-0', name='simclr', seed=0, tags={}, params={})\n"
        "with Mirror(journal.path, interval=0.2):\n"
        "    for step in range(10**6): journal.metrics(step, {'loss': 1.0}); time.sleep(0.1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(root / ".ssl/work/pretrain@simclr-0/f")])
    try:
        _until(lambda: query(root, "SELECT 1 FROM runs WHERE status = 'RUNNING'") and rows(root))
        _until(lambda: any(key.startswith("system/cpu") for _, key, *_ in rows(root)))
    finally:
        process.kill()
        process.wait()
    _until(lambda: query(root, "SELECT 1 FROM runs WHERE status = 'KILLED'"))


@pytest.mark.fault("F59")
def test_the_next_mirror_sends_what_the_last_one_could_not(root, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    finished(root, seed=1)
    with training(root / ".ssl/work/p/f/journal.jsonl") as journal, Mirror(journal.path, delay=0.0, interval=0.2):
        _until(lambda: query(root, "SELECT 1 FROM runs WHERE name = 'simclr-1' AND status = 'FINISHED'"))


def test_a_short_stage_does_not_even_start_a_mirror(tmp_path):
    with Mirror(tmp_path / "journal.jsonl", delay=5.0) as mirror:
        pass
    assert mirror._process is None


def _until(condition, seconds=180.0):  # the mirror gives way to whatever else computes
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# ------------------------------------------------------------------ a real server


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def mlflow_server(root, port):
    """A real MLflow server; leaves the process to kill."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", settings.store_uri(root), "--artifacts-destination", str(root / "mlruns" / "served")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen([*command, *store], env=environment, start_new_session=True, cwd=root, **quiet)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.fault("F56")
def test_a_server_killed_in_the_middle_costs_nothing(root, monkeypatch):
    """A training is mirrored to a real server, which is killed; later everything is there exactly once."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    (root / "note.txt").write_text("an artifact")
    journal = training(root / ".ssl/work/pretrain@simclr-0/f/journal.jsonl", steps=0)
    with mlflow_server(root, port) as server, journal:
        mirror = Mirror(journal.path, delay=0.0, interval=0.2).start()
        pauses, step, deadline = [], 0, time.monotonic() + 90
        while len(rows(root)) < 20:
            assert time.monotonic() < deadline
            pauses.append(_timed(lambda step=step: journal.metrics(step, {"loss": 1.0})))
            step += 1
            time.sleep(0.05)
        os.killpg(server.pid, signal.SIGKILL)
        for late in range(step, step + 40):
            pauses.append(_timed(lambda late=late: journal.metrics(late, {"loss": 1.0})))
            time.sleep(0.02)
        stopping = time.monotonic()
        mirror.stop()
        assert time.monotonic() - stopping < 2
        assert max(pauses) < 0.5
        journal.artifact(Path("note.txt"))
        journal.end("FINISHED")
    with pytest.raises(TrackerDown):
        Tracker(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.store_uri(root))  # the same store, without the server
    Tracker(root).sync()
    assert [s for _, key, s, _ in rows(root) if key == "train/loss"] == list(range(step + 40))
    assert query(root, "SELECT count(*), max(status) FROM runs") == [(1, "FINISHED")]


def _timed(action):
    started = time.monotonic()
    action()
    return time.monotonic() - started


@pytest.mark.fault("F77")
def test_addresses_are_printed_without_user_and_password():
    assert redact("http://me:secret@host:5000/x failed") == "http://***@host:5000/x failed"


def test_a_damaged_line_is_named_by_sync_and_doctor_and_the_rest_is_sent(root, capsys, monkeypatch):
    for seed in (0, 1):
        finished(root, seed, fingerprint=f"{seed}" * 8)
    damaged = root / "out/journal/simclr-0.jsonl"
    lines = damaged.read_text().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if '"metrics"' in line)
    damaged.write_text("".join([*lines[:at], lines[at].replace('"time"', '"thme"'), *lines[at + 1 :]]))
    sync.once(root)
    told = capsys.readouterr()
    assert f"warning: {damaged}: line {at + 1}: time is missing; the line was left out" in told.err
    assert "2 journals are in MLflow" in told.out and "Traceback" not in told.err
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    doctor = Doctor(root)
    doctor.tracking()
    assert any(f"{damaged}: line {at + 1}" in line for line in doctor.fixed) and not doctor.problems


def test_a_published_journal_that_dvc_records_otherwise_is_passed_over(root):
    for seed in (0, 1):
        finished(root, seed, fingerprint=f"{seed}" * 8)
    paths = [root / f"out/journal/simclr-{seed}.jsonl" for seed in (0, 1)]
    outs = [{"path": str(p.relative_to(root)), "hash": "md5", "md5": recorded.digest(p)} for p in paths]
    (root / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"pretrain": {"outs": outs}}}))
    paths[0].write_text(paths[0].read_text().replace("0.", "9.", 1))
    found: list[str] = []
    assert [record.path for record in records(root, found)] == paths[1:]
    assert len(found) == 1 and found[0].startswith(f"{paths[0]} is not the one that dvc.lock records and was passed over")


def mutated_journals(root, count, seed):
    """``count`` journals with a fault each are sent together with a sound one."""
    chance = random.Random(seed)
    finished(root)
    data = (root / "out/journal/simclr-0.jsonl").read_bytes()
    for number in range(count):
        own = data.replace(b"pretrain@simclr-0", b"pretrain@simclr-%d" % (number + 1))
        own = re.sub(rb'"fingerprint": "', b'"fingerprint": "%d-' % number, own)
        (root / f"out/journal/simclr-{number + 1}.jsonl").write_bytes(mutated(own, chance))
    tracker = Tracker(root)
    assert tracker.sync() >= 1
    assert (root / "mlruns/mlflow.db").exists() and tracker.run_id(
        read_record(root / "out/journal/simclr-0.jsonl").run["fingerprint"]
    )


@pytest.mark.fault("F76")
def test_mutated_journals_stop_nothing(root):
    mutated_journals(root, 25, seed=0)


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(1, 6))
def test_hundreds_of_mutated_journals_stop_nothing(root, seed):
    mutated_journals(root, 200, seed)
