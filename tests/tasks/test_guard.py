"""The row for what trainings start from comes into params.yaml by itself, and goes."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from ssl_core.config import ConfigError
from tasks import guard
from tasks.dvc.graph import PlannedStage
from tasks.runtime import files, params
from tasks.runtime.errors import UsageError
from tasks.runtime.stage_name import StageName
from tasks.runtime.start_rows import rows_of
from tasks.tracking import packages
from tests.conftest import ROOT
from tests.support.configs import ENCODER, encoder_of
from tests.support.project import command, copy_project, rewrite, set_params, write_prepared

TRY = guard._try
MINE = {"weights": "weights/mine.safetensors"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing but the shipped params.yaml. Weights that are not there count as good, but where they are the subject."""
    monkeypatch.setattr(guard, "_try", lambda *_: None)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def run(root: Path) -> tuple[list[str], dict[str, Any]]:
    values = params.load(root / "params.yaml")
    return values["run"]["methods"], values["method"]["start"]


def test_nothing_changes_where_nothing_starts_from_weights(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    assert not guard.is_wanted(project) and guard.complete(project) == []
    assert (project / "params.yaml").read_bytes() == before


def test_the_row_comes_with_the_weights_and_goes_with_them(project: Path) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("  weights: null   ", f"  weights: {MINE['weights']}   "))
    (said,) = guard.complete(project)
    assert "the row start is what exemplar, context" in said
    methods, row = run(project)
    assert methods[-1] == "start" and row == {"train": {"epochs": 0}}
    assert not guard.is_wanted(project) and "# what to compare" in path.read_text()
    set_params(project, {"encoder": {"weights": None}})
    (said,) = guard.complete(project)
    assert "taken out" in said and "start" not in run(project)[0]


def test_the_row_has_the_encoder_of_the_one_method_that_starts_there(project: Path) -> None:
    set_params(project, {"method": {"simclr": {"encoder": MINE | {"width": 8, "continued": {"lr": 0.2}}}}})
    guard.complete(project)  # what a training does with the weights is no matter of a row that is not trained
    assert run(project)[1] == {"train": {"epochs": 0}, "encoder": MINE | {"width": 8}}
    set_params(project, {"method": {"simclr": {"encoder": {"weights": "weights/other.pth"}}}})
    guard.complete(project)
    methods, row = run(project)
    assert methods.count("start") == 1 and row["encoder"] == {"weights": "weights/other.pth", "width": 8}
    assert not guard.is_wanted(project)
    set_params(project, {"method": {"simclr": {"encoder": {"weights": None}}}})
    (said,) = guard.complete(project)
    assert "taken out" in said and "start" not in run(project)[0]


def test_an_empty_block_of_the_row_is_filled_in(project: Path) -> None:
    set_params(project, {"encoder": MINE, "method": {"start": None}})
    guard.complete(project)
    assert run(project)[1] == {"train": {"epochs": 0}} and not guard.is_wanted(project)


def test_two_starts_are_two_rows_where_one_of_them_is_the_row_of_another_name(project: Path) -> None:
    lite0 = {"name": "timm/tf_efficientnet_lite0", "weights": "package", "input_size": 96}
    set_params(project, {"method": {"simclr": {"encoder": lite0}, "byol": {"encoder": MINE}}})
    (said,) = guard.complete(project)
    assert "the row start is what byol starts from" in said and run(project)[1]["encoder"] == MINE
    values = params.load(project / "params.yaml")
    assert rows_of(values, ["simclr"]) == ["pretrained"] and rows_of(values, ["byol"]) == ["start"]


def test_two_starts_are_too_many_for_one_row_and_nothing_is_written(project: Path) -> None:
    set_params(project, {"method": {"simclr": {"encoder": MINE}, "byol": {"encoder": {"weights": "weights/other.pth"}}}})
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(UsageError, match="simclr and byol start from different weights"):
        guard.complete(project)
    assert (project / "params.yaml").read_bytes() == before


def test_make_run_adds_the_row_before_it_asks_what_is_to_be_done(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p", git=True)
    (project / "weights").mkdir(exist_ok=True)
    save_file(encoder_of().state_dict(), project / MINE["weights"])
    set_params(project, {"encoder": MINE | {"width": ENCODER.width}})
    done = command(project, "tasks.run", "pretrain@nothing-0")
    assert done.returncode == 2 and "no such stage" in done.stderr, done.stderr
    assert "the row start is what" in done.stdout and run(project)[0][-1] == "start"


def planned(**stale: bool) -> list[PlannedStage]:
    """The trainings of these methods, with seed 0."""
    names = {method: f"pretrain@{method}-0" for method in stale}
    return [PlannedStage(name, StageName.parse(name), (), (), stale[method]) for method, name in names.items()]


def test_trainings_from_an_alias_that_moved_run_again_with_the_one_that_is_to_run(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(packages, "current", lambda uri: asked.append(uri) or "models:/mine/2")
    set_params(project, {"encoder": {"weights": "models:/mine@champion"}, "method": {"moco": {"encoder": {"weights": None}}}})
    for name, source in {"start": 1, "simclr": 1, "byol": 2, "moco": 0}.items():
        facts = {"start": {"source": f"models:/mine/{source}"}} if source else {}
        files.write_json(project / f"out/encoders/{name}-0/encoder.json", facts)
    assert not guard.moved(project, planned(start=False, simclr=False, moco=True)) and not asked
    assert guard.moved(project, planned(start=False, simclr=True, moco=False)) == {"pretrain@start-0"}
    assert guard.moved(project, planned(start=False, simclr=False, byol=False)) == {"pretrain@start-0", "pretrain@simclr-0"}
    assert not guard.moved(project, planned(start=True, simclr=True))  # all run
    set_params(project, {"encoder": {"weights": "models:/mine/1"}})
    assert not guard.moved(project, planned(start=False, simclr=True))


def tried(project: Path, stale: bool = True, **of_method: Any) -> None:
    """The check of one training of SimCLR with these parameters of its own."""
    set_params(project, {"method": {"simclr": of_method}})
    stage: Any = SimpleNamespace(stale=stale, parts=StageName("pretrain", "simclr", 0))
    guard.try_encoders(project, [stage])


def test_weights_are_tried_before_anything_is_computed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_try", TRY)
    monkeypatch.chdir(project)
    (project / "weights").mkdir()
    save_file(encoder_of().state_dict(), project / MINE["weights"])
    own = {"width": ENCODER.width}
    tried(project, encoder=MINE | own)
    with pytest.raises(ConfigError, match=r"^method simclr: encoder.weights: .* weights of another network"):
        tried(project, encoder=MINE | {"width": 2 * own["width"]})
    with pytest.raises(UsageError, match=r"^method simclr: encoder.weights: weights/other.pth does not exist"):
        tried(project, encoder={"weights": "weights/other.pth"})
    with pytest.raises(ConfigError, match=r"^method simclr: .*resnte18"):
        tried(project, encoder={"name": "timm/resnte18", "weights": None})
    tried(project, stale=False)
    set_params(project, {"method": {"pretrained": {"encoder": {"input_size": 8}}}})
    stage: Any = SimpleNamespace(stale=True, parts=StageName("pretrain", "pretrained", 0))
    with pytest.raises(ConfigError, match=r"^method pretrained: .*smaller than the 32 px"):
        guard.try_encoders(project, [stage])


def test_weights_in_a_registry_that_is_away_stop_no_other_training(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_try", TRY)
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    set_params(project, {"encoder": {"weights": None}, "method": {"simclr": {"encoder": {"weights": "models:/mine/1"}}}})
    assert len(guard.complete(project)) == 1 and run(project)[0][-1] == "start"
    (line,) = guard.try_encoders(project, planned(simclr=True, byol=True))
    assert re.match(
        r"warning: method simclr: MLflow at http://127.0.0.1:9 cannot be used now .*take simclr out of run.methods", line
    )


def test_a_run_with_weights_of_another_network_ends_before_it_begins(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p", git=True)
    (project / "weights").mkdir(exist_ok=True)
    save_file(encoder_of().state_dict(), project / MINE["weights"])
    set_params(project, {"encoder": MINE | {"name": "resnet18"}})
    before = (project / "params.yaml").read_bytes()
    done = command(project, "tasks.run")
    assert done.returncode == 2 and (project / "params.yaml").read_bytes() == before, done.stderr
    assert done.stderr.count("\n") == 1 and "method exemplar: encoder.weights: " in done.stderr
    assert not (project / "data/prepared").exists()


def test_fine_tuning_without_the_labels_for_it_is_refused_before_anything_is_trained(project: Path) -> None:
    write_prepared(project)
    stages = ["prepare", "pretrain@simclr-0", "finetune@simclr-0"]
    guard.check_images(project, stages)
    rewrite(project, test_labels=np.full(32, -1))
    guard.check_images(project, stages[:2])
    with pytest.raises(ConfigError, match=r"run\.finetune needs labels, of training images \(some held out\)"):
        guard.check_images(project, stages)
    set_params(project, {"tasks": {"other": {"path": "elsewhere"}}, "run": {"tasks": ["other"]}})
    guard.check_images(project, stages)  # those of the task are used
