"""One list of methods everywhere: catalogue, files, params.yaml, DVC stages, README."""

import ast
import dataclasses
import itertools
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from ssl_core.catalogue import BASELINES, METHODS, load_class
from ssl_core.engine.augment import AugmentConfig
from ssl_core.engine.encoders import EncoderConfig
from ssl_core.engine.method import Method
from ssl_core.engine.optim import TrainConfig
from ssl_core.evaluation.protocol import EvaluateConfig
from ssl_core.parts.multicrop import Crops
from tasks.runtime import params
from tests import golden
from tests.conftest import ROOT

TWELVE = {"exemplar", "context", "jigsaw", "counting", "rotation", "npid", "cpc", "moco", "simclr", "pirl", "byol", "pcl"}


EIGHT = {"simsiam", "barlow", "vicreg", "swav", "dino", "nnclr", "mae", "lejepa"}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_one_short_file_with_its_paper_and_documented_numbers(name: str) -> None:
    text = (ROOT / f"ssl_core/methods/{name}.py").read_text()
    module = ast.parse(text)
    about = ast.get_docstring(module) or ""
    assert len(text.splitlines()) <= 150
    assert "arXiv" in about and re.search(r"\bL\w*(\(.*\))? +=", about) and re.search(r"\bDeviations\b", about)
    method = load_class(name)
    assert method.__bases__ == (Method,)
    body = next(c.body for c in module.body if isinstance(c, ast.ClassDef) and c.name == method.Config.__name__)
    for field, below in itertools.pairwise([*body, None]):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant), ast.unparse(field)


@pytest.mark.parametrize("name", [*METHODS, *BASELINES, "sections"])
def test_a_config_is_frozen_and_its_numbers_are_given_by_name(name: str) -> None:
    sections = (AugmentConfig, Crops, EncoderConfig, EvaluateConfig, TrainConfig)
    for config in sections if name == "sections" else (load_class(name).Config,):
        assert config.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert all(number.kw_only for number in dataclasses.fields(config))


@pytest.mark.parametrize("name", [*METHODS, *BASELINES])
def test_the_catalogue_says_what_the_class_declares(name: str) -> None:
    method = load_class(name)
    if name in METHODS:
        assert METHODS[name] == (method.year, method.family, method.paper, method.title)
        assert METHODS[name].paper.removeprefix("arXiv ") in (sys.modules[method.__module__].__doc__ or "")
    else:
        assert (method.family, BASELINES[name]) == ("baseline", method.title)


def test_every_method_has_its_file_and_every_file_is_listed() -> None:
    files = {p.stem for p in (ROOT / "ssl_core/methods").glob("[a-z]*.py")}
    assert files == METHODS.keys() | BASELINES.keys()
    for name in files:
        assert issubclass(load_class(name), Method)


def test_names_are_known_without_loading_torch() -> None:
    code = "import sys; from ssl_core.catalogue import METHODS; assert METHODS and not {'torch', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_params_hold_a_valid_block_for_every_name(shipped: dict[str, Any]) -> None:
    assert shipped["method"].keys() == METHODS.keys() | BASELINES.keys()
    for name in shipped["method"]:
        assert params.method_params(shipped, name).name == name


def test_dvc_stages_follow_the_list() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name in ("pretrain", "evaluate"):
        assert stages[name]["matrix"] == {"method": "${run.methods}", "seed": "${run.seeds}"}


def test_the_readme_lists_every_method_that_is_shipped() -> None:
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", readme, re.M)
    assert len(rows) == len(set(rows)) and set(rows) == METHODS.keys() | BASELINES.keys()
    assert golden.table(readme) == readme, "python -m tests.golden NAME writes the table"
    default = set(re.findall(r"^\| `(\w+)` .*\| yes \|$", readme, re.M))
    assert default - (METHODS.keys() - TWELVE - EIGHT) == TWELVE | BASELINES.keys() - {"dinov2", "start"}
