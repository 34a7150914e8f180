"""One list of methods everywhere: catalogue, files, params.yaml, DVC stages, README."""

import re
from pathlib import Path
from typing import Any

import yaml

from ssl_core.catalogue import BASELINES, METHODS, load_class
from ssl_core.method import Method
from tasks import params

ROOT = Path(__file__).resolve().parent.parent
TWELVE = {"exemplar", "context", "jigsaw", "counting", "rotation", "npid", "cpc", "moco", "simclr", "pirl", "byol", "pcl"}


def test_every_method_has_its_file_and_every_file_is_listed() -> None:
    files = {p.stem for p in (ROOT / "ssl_core/methods").glob("[a-z]*.py")}
    assert files == METHODS.keys() | BASELINES.keys()
    for name in files:
        assert issubclass(load_class(name), Method)


def test_params_hold_a_valid_block_for_every_name(shipped: dict[str, Any]) -> None:
    assert shipped["method"].keys() == METHODS.keys() | BASELINES.keys()
    for name in shipped["method"]:
        assert params.method_params(shipped, name).name == name


def test_the_twelve_run_by_default_and_the_others_are_one_word_away(shipped: dict[str, Any]) -> None:
    run = params.run_config(shipped)
    assert set(run.learned) == TWELVE
    assert set(run.baselines) == BASELINES.keys()
    commented = set(re.findall(r"^    # - (\w+)$", (ROOT / "params.yaml").read_text(), re.M))
    assert commented == METHODS.keys() - TWELVE


def test_dvc_stages_follow_the_list() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name in ("pretrain", "evaluate"):
        assert stages[name]["matrix"] == {"method": "${run.methods}", "seed": "${run.seeds}"}


def test_the_readme_lists_every_method() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), re.M)
    assert set(rows) == METHODS.keys() | BASELINES.keys() and len(rows) == len(set(rows))
