"""A registered project to work in."""

import shutil

import pytest

from tasks.tracking import own_store
from tests.support import registered as made


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A copy of the registered project to work in."""
    shutil.copytree(made.registered(), tmp_path / "project")
    own_store.follow(tmp_path / "project/mlruns/mlflow.db")
    return made.enter(tmp_path / "project", monkeypatch)


@pytest.fixture
def original(monkeypatch):
    """The registered project itself, to be left as it is."""
    return made.enter(made.registered(), monkeypatch)
