"""Presets: each fits the parameters, and writing one keeps the comments."""

from pathlib import Path

import pytest

from ssl_core.catalogue import BASELINES, METHODS
from tasks import preset
from tasks.runtime import params
from tests.conftest import ROOT
from tests.support.project import command, copy_project

NAMES = sorted(p.stem for p in (ROOT / "presets").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_gives_valid_parameters(shipped_copy: dict, name: str) -> None:  # type: ignore[type-arg]
    values = params.read(ROOT / f"presets/{name}.yaml")
    preset.merge(shipped_copy, values)
    params.check(shipped_copy)


def test_a_preset_keeps_the_comments_and_changes_only_what_it_names(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p")
    before = (project / "params.yaml").read_text()
    result = command(project, "tasks.preset", "tiny")
    assert result.returncode == 0, result.stderr
    after = (project / "params.yaml").read_text()
    assert "# regularization strengths" in after and "max_train: 1000" in after
    assert params.load(project / "params.yaml")["evaluate"]["knn_k"] == params.load(ROOT / "params.yaml")["evaluate"]["knn_k"]
    assert "name: null" in after
    assert len(after.splitlines()) > 0.8 * len(before.splitlines())


def test_a_method_is_switched_on_by_removing_its_comment_sign_also_after_a_preset(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p")
    assert command(project, "tasks.preset", "cifar10").returncode == 0
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("# - ", "- "))
    assert set(params.load(file)["run"]["methods"]) == {*METHODS, *BASELINES}


def test_an_unknown_preset_lists_those_there_are(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p")
    before = (project / "params.yaml").read_bytes()
    result = command(project, "tasks.preset", "tinny")
    assert result.returncode == 2 and "tiny" in result.stderr and "Traceback" not in result.stderr
    assert (project / "params.yaml").read_bytes() == before
