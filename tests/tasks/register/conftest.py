"""A registered project to work in."""

import contextlib
import shutil
import sqlite3

import pytest

from tests.support import registered as made


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A copy of the registered project to work in."""
    source = made.registered()
    shutil.copytree(source, tmp_path / "project")
    store = tmp_path / "project/mlruns/mlflow.db"
    with contextlib.closing(sqlite3.connect(store)) as connection, connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("model_versions", "source")):
            connection.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", [str(source), str(tmp_path / "project")]
            )
    return made.enter(tmp_path / "project", monkeypatch)


@pytest.fixture
def original(monkeypatch):
    """The registered project itself, to be left as it is."""
    return made.enter(made.registered(), monkeypatch)
