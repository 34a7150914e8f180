"""Presets of published recipes: every method is stated whole, with its source, and inherits nothing from params.yaml."""

import re
from pathlib import Path
from typing import Any

import pytest

from ssl_core.catalogue import METHODS
from tasks import preset
from tasks.runtime import params
from tests.conftest import ROOT
from tests.support.project import command, copy_project

RECIPES = ["cifar10-resnet18-200ep", "imagenet-resnet50", "imagenet-vit-small"]
TRAINED = [*METHODS, "supervised"]
STATED = {"epoch_share", "optimizer", "lr", "weight_decay", "decay_norm_and_bias"}


def read(name: str) -> dict[str, Any]:
    return params.read(ROOT / f"presets/{name}.yaml")


def keys(block: dict[str, Any], where: str = "") -> set[str]:
    """The names of all values in a block, with dots; a mapping is what it holds."""
    found: set[str] = set()
    for key, value in block.items():
        found |= keys(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}"}
    return found


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("method", TRAINED)
def test_nothing_of_the_shipped_recipe_is_left_in_a_published_one(shipped: dict[str, Any], name: str, method: str) -> None:
    stated = read(name)["method"][method]
    assert keys(stated["train"]) >= STATED
    assert keys(shipped["method"][method]) <= keys(stated)


@pytest.mark.parametrize("name", RECIPES)
def test_what_params_yaml_says_for_all_and_a_recipe_needs_otherwise_is_stated(shipped: dict[str, Any], name: str) -> None:
    """A short training's choices, which would spoil a long one."""
    values = read(name)
    assert {"epochs", "batch_size", "optimizer", "weight_decay", "decay_norm_and_bias", "warmup"} <= values["train"].keys()
    assert values["augment"]["view_share"] == 1.0 and "crop_scale" in values["augment"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_method_names_its_source_and_those_without_one_are_not_run(name: str) -> None:
    text = (ROOT / f"presets/{name}.yaml").read_text()
    sources = dict(re.findall(r"^  (\w+): +# (.+)$", text, re.M))
    assert sources.keys() == set(TRAINED)
    assert all(source == "not published" or len(source.split()) >= 4 or source == "lightly" for source in sources.values())
    assert not {m for m in read(name)["run"]["methods"] if sources.get(m) == "not published"}
    assert "claims no published" in " ".join(text.replace("\n#", " ").split())


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_writes_it(tmp_path: Path, name: str) -> None:
    project = copy_project(tmp_path / "p")
    result = command(project, "tasks.preset", name)
    assert result.returncode == 0, result.stderr
    written = params.load(project / "params.yaml")
    assert written["method"]["swav"]["train"]["weight_decay"] == read(name)["method"]["swav"]["train"]["weight_decay"]
    params.check(written)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("method", TRAINED)
def test_a_queue_takes_whole_batches(shipped_copy: dict[str, Any], name: str, method: str) -> None:
    preset.merge(shipped_copy, read(name))
    chosen = params.method_params(shipped_copy, method)
    pushed = chosen.train.batch_size * (2 if getattr(chosen.config, "symmetric", False) else 1)
    assert getattr(chosen.config, "queue", 0) % pushed == 0
    assert chosen.train.batch_size % getattr(chosen.config, "splits", 1) == 0
