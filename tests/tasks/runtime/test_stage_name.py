"""Names of stages, taken apart and put together, and what a stage's command is given."""

import shutil
from pathlib import Path

import pytest
import yaml

from tasks.evaluate.__main__ import command as evaluate
from tasks.runtime import declared, params, recorded
from tasks.runtime.stage_name import StageName, method_and_seed, with_task
from tests.conftest import ROOT
from tests.support.project import set_params


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("report", StageName("report")),
        ("pretrain@simclr-0", StageName("pretrain", "simclr", 0)),
        ("evaluate@random_init-12", StageName("evaluate", "random_init", 12)),
        ("export@simclr", StageName("export", "simclr")),  # a matrix of methods alone
        ("export@simclr-small", StageName("export", "simclr-small")),
        ("prepare_task@tiles", StageName("prepare_task", task="tiles")),
        ("finetune_task@tiles-simclr-0", StageName("finetune_task", "simclr", 0, "tiles")),
        ("evaluate_task@my_tiles-random_init-12", StageName("evaluate_task", "random_init", 12, "my_tiles")),
    ],
)
def test_a_name_and_its_parts_say_the_same(name: str, parts: StageName) -> None:
    assert StageName.parse(name) == parts and str(parts) == name


def test_a_command_takes_a_method_and_a_seed_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert method_and_seed("tasks.evaluate", ["simclr", "3"]) == ("simclr", 3)
    assert with_task("tasks.evaluate", ["simclr", "3"]) == ("simclr", 3, None)
    assert with_task("tasks.evaluate", ["simclr", "3", "tiles"]) == ("simclr", 3, "tiles")
    for wrong in ([], ["simclr"], ["simclr", "one"], ["simclr", "-1"], ["simclr", "0", "1"]):
        with pytest.raises(SystemExit) as end:
            evaluate(wrong)
        assert end.value.code == 2
        assert capsys.readouterr().err == "error: usage: python -m tasks.evaluate METHOD SEED\n"


def test_outputs_of_what_params_list_no_more_are_asked_for_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older dvc.lock records others of them than lie there (git stash, a branch): no stage that reads the folder minds."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    set_params(tmp_path, {"run": {"methods": ["simclr"], "seeds": [0, 1], "tasks": ["tiles"]}})
    monkeypatch.chdir(tmp_path)
    names = ["prepare", "report", "evaluate@simclr-0", "prepare_task@tiles", "evaluate_task@tiles-simclr-1"]
    others = ["evaluate@byol-0", "evaluate@simclr-2", "prepare_task@other", "evaluate_task@tiles-byol-0"]
    out = {"outs": [{"path": "x", "md5": "0", "hash": "md5"}]}
    stages = {name: {"outs": [out["outs"][0] | {"path": name}]} for name in names + others}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    assert set(recorded.outputs(Path(), declared.listed(params.load()))) == set(map(Path, names))
    assert len(recorded.outputs(Path())) == len(stages)
