"""DVC's own commands, as its users know them, on one project of stages of no work."""

import csv
import subprocess
from pathlib import Path

import pytest

from tests.support import tiny_graph as tiny
from tests.support.project import commit


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was run once and committed, with a folder as its remote."""
    project = tiny.make(tmp_path_factory.mktemp("commands") / "p")
    dvc(project, "remote", "add", "--default", "store", str(project.parent / "store"))
    dvc(project, "repro")
    commit(project, "results")
    return project


def dvc(project: Path, *arguments: str) -> str:
    done = tiny.dvc(project, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pushed_results_are_pulled_into_another_clone_without_computing(project: Path) -> None:
    dvc(project, "push")
    clone = project.parent / "clone"
    subprocess.run(["git", "clone", "-q", str(project), str(clone)], check=True)
    (clone / ".ssl").mkdir()
    dvc(clone, "pull")
    assert "up to date" in dvc(clone, "status")
    for out in ("out/encoders/byol-0/leaderboard.csv", "reports/leaderboard.csv"):
        assert (clone / out).read_bytes() == (project / out).read_bytes()
    assert tiny.computed(clone) == []


def test_an_experiment_runs_what_its_parameter_changes_and_is_shown_and_compared(project: Path) -> None:
    before = len(tiny.computed(project))
    dvc(project, "exp", "run", "--name", "try", "--set-param", "method.byol.train.lr=7")
    assert tiny.computed(project)[before:] == ["pretrain@byol-0"]  # its output is the same: nothing follows
    shown = dvc(project, "exp", "show", "--csv")
    assert "try" in shown and "knn_top1" in shown
    (project / "out/metrics/byol-0.json").write_text('{"knn_top1": 1}')
    difference = dvc(project, "metrics", "diff", "HEAD", "--md")
    assert "out/metrics/byol-0.json" in difference and "-14" in difference
    assert "knn_top1" in dvc(project, "metrics", "show", "--md")


def test_queued_experiments_run_in_copies_of_the_workspace(project: Path) -> None:
    params, before = (project / "params.yaml").read_bytes(), len(tiny.computed(project))
    dvc(project, "exp", "run", "--queue", "--set-param", "method.simclr.train.lr=8,9", "pretrain@simclr-0")
    assert len(tiny.computed(project)) == before
    dvc(project, "exp", "run", "--run-all")
    assert tiny.computed(project)[before:] == ["pretrain@simclr-0"] * 2  # prepare is there, from the workspace's cache
    assert (project / "params.yaml").read_bytes() == params
    rows = csv.DictReader(dvc(project, "exp", "show", "--csv").splitlines())
    assert {"8", "9"} == {row["method.simclr.train.lr"] for row in rows if row["State"] == "Success"}
