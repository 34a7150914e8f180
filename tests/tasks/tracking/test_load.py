"""Many journals sent by several processes at once, into SQLite and PostgreSQL: every number is there once."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.runtime import settings
from tasks.tracking.tracker import Tracker
from tests.support.processes import wait_for
from tests.tasks.tracking.test_tracking import PYTHON, evaluated, training

TRAININGS, STEPS, SENDERS = 64, 30, 4
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@contextlib.contextmanager
def postgres(place: Path) -> Iterator[str]:
    """A server of its own on loopback, with an empty database; yields the address."""
    pytest.importorskip("psycopg2", reason="MLflow's driver for PostgreSQL is not installed")
    if not POSTGRES:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
    place.mkdir()
    place.chmod(0o777)
    for folder in place.parents[:3]:
        folder.chmod(folder.stat().st_mode | 0o011)
    quiet = {"stdout": subprocess.DEVNULL, "cwd": place}
    made = [*user, str(POSTGRES[-1] / "initdb"), "-D", str(place / "db"), "-A", "trust", "-U", "ssl", "-N"]
    subprocess.run(made, check=True, **quiet)
    started = [str(POSTGRES[-1] / "postgres"), "-D", str(place / "db"), "-p", str(port), "-h", "127.0.0.1", "-k", str(place)]
    server = subprocess.Popen([*user, *started], stderr=subprocess.DEVNULL, **quiet)
    try:
        ready = [str(POSTGRES[-1] / "pg_isready"), "-qh", "127.0.0.1", "-p", str(port)]
        wait_for(lambda: subprocess.run(ready).returncode == 0)
        yield f"postgresql://ssl@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # SIGTERM would wait for those that are connected
        server.wait(30)


@contextlib.contextmanager
def sqlite(place: Path) -> Iterator[str]:
    yield settings.store_uri(place)


@pytest.mark.stress
@pytest.mark.fault("F35", "F59", "F67")
@pytest.mark.parametrize("store", [sqlite, postgres], ids=lambda store: store.__name__)
def test_nothing_is_lost_or_doubled_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: object) -> None:
    for seed in range(TRAININGS):
        with training(tmp_path / f"out/journal/simclr-{seed}.jsonl", seed, STEPS) as journal:
            journal.end("FINISHED", cost={"seconds": 2.0}, encoder_sha256=f"e{seed}")
        evaluated(tmp_path, seed, f"v{seed}", seed / TRAININGS, f"out/journal/evaluate-simclr-{seed}.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    with store(tmp_path / "store") as address:  # type: ignore[operator]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        environment = os.environ | PYTHON | settings.DEFAULTS
        command = [sys.executable, "-m", "tasks.sync"]
        senders = [
            subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(SENDERS)
        ]
        said = [sender.communicate(timeout=600) for sender in senders]
        gave_up = [words for sender, (_, words) in zip(senders, said, strict=True) if sender.returncode]
        assert all("run python -m tasks.sync later" in words for words in gave_up) and len(gave_up) < SENDERS, said
        assert f"{2 * TRAININGS} journals are in MLflow" in "".join(words for words, _ in said)
        check(tmp_path)


def check(root: Path) -> None:
    """One run of each training, with each of its rows once."""
    tracker = Tracker(root)
    runs = tracker.client.search_runs([tracker.experiment], max_results=1000)
    assert sorted(run.info.run_name for run in runs) == sorted(f"simclr-{seed}" for seed in range(TRAININGS))
    for run in runs:
        seed = int(run.info.run_name.rpartition("-")[2])
        rows = tracker.client.get_metric_history(run.info.run_id, "train/loss")
        assert sorted((row.step, row.value) for row in rows) == [(step, 1.0 / (step + 1)) for step in range(STEPS)]
        (score,) = tracker.client.get_metric_history(run.info.run_id, "eval/knn_top1")
        assert (run.info.status, score.value) == ("FINISHED", seed / TRAININGS)
