"""Several registrations at once."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from tasks.register.registration import register
from tasks.tracking import own_store
from tasks.tracking.registered import ask_file, unreadable
from tests.support import registered as made

REGISTERS = """
from pathlib import Path
from tasks.register.registration import register
from tasks.runtime.errors import run
run(lambda: print(register(Path()).versions))
"""


@pytest.mark.stress
@pytest.mark.fault("F35", "F66")
def test_eight_checkouts_that_register_at_once_make_each_version_once(tmp_path):
    """Copies of a project have locks of their own and share a store."""
    made.write_project(tmp_path / "p0", methods=("simclr", "byol"))
    for number in range(1, 8):
        shutil.copytree(tmp_path / "p0", tmp_path / f"p{number}")
    env = os.environ | made.environment(tmp_path / "shared")
    (tmp_path / "shared/mlruns").mkdir(parents=True)
    command = [sys.executable, "-c", REGISTERS]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, cwd=tmp_path / f"p{n}", env=env, **pipes) for n in range(8)]
    said = [process.communicate(timeout=500) for process in running]
    for process, (_, words) in zip(running, said, strict=True):
        assert process.returncode == 0 or (process.returncode == 4 and words.count("\n") == 1), words
    assert 0 in [process.returncode for process in running], said
    stored = ask_file(tmp_path / "shared/mlruns/mlflow.db", "ssl-example")
    with contextlib.closing(sqlite3.connect(tmp_path / "shared/mlruns/mlflow.db")) as store:
        (count,) = store.execute("SELECT count(*) FROM model_versions WHERE current_stage != 'Deleted_Internal'").fetchone()
    assert count == len(stored.versions) == 2
    simclr = next(v.number for v in stored.versions.values() if v.tags["method"] == "simclr")
    assert stored.aliases["champion"] == stored.aliases["simclr"] == simclr
    assert not any(unreadable(v.source, v.seal, whole=True) for v in stored.versions.values())


@pytest.mark.fault("F66")
def test_a_version_that_another_checkout_has_just_made_is_the_one(root, monkeypatch):
    from mlflow import MlflowClient

    made.write_encoder(root, "simclr", weights=1)
    create, numbers = MlflowClient.create_model_version, []

    def twice(*args, **kwargs):  # the other one is faster
        numbers.extend(int(create(*args, **kwargs).version) for _ in range(2))
        return MlflowClient().get_model_version(args[1], str(numbers[-1]))

    monkeypatch.setattr(MlflowClient, "create_model_version", twice)
    versions = register(root, made.exporter).versions
    assert versions["simclr-0"] == numbers[0] < numbers[1]
    stored = ask_file(root / "mlruns/mlflow.db", "ssl-example")
    assert stored.aliases["simclr"] == numbers[0] and numbers[1] not in {v.number for v in stored.versions.values()}


@pytest.mark.fault("F66")
def test_checkouts_that_share_a_server_never_write_over_each_others_packages(tmp_path, monkeypatch):
    """A server's store has no lock that both know. Both saw that the encoder was not there; the second one registers it first,
    with another card."""
    from mlflow import MlflowClient

    made.write_project(tmp_path / "first", methods=("simclr",))
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    made.write_encoder(tmp_path / "second", "simclr", linear_top1=0.71)
    (tmp_path / "shared/mlruns").mkdir(parents=True)
    made.enter(tmp_path / "first", monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.environment(tmp_path / "shared")["MLFLOW_TRACKING_URI"])
    monkeypatch.setattr(own_store, "alone", lambda *lock: contextlib.nullcontext())
    upload = MlflowClient.log_artifacts

    def meanwhile(*asked):
        monkeypatch.setattr(MlflowClient, "log_artifacts", upload)
        monkeypatch.chdir(tmp_path / "second")
        register(tmp_path / "second", made.exporter)
        monkeypatch.chdir(tmp_path / "first")
        return upload(*asked)

    monkeypatch.setattr(MlflowClient, "log_artifacts", meanwhile)
    register(tmp_path / "first", made.exporter)
    stored = ask_file(tmp_path / "shared/mlruns/mlflow.db", "ssl-example")
    (version,) = stored.versions.values()
    assert stored.aliases == {"champion": version.number, "simclr": version.number}
    assert not unreadable(version.source, version.seal, whole=True)
