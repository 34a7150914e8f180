"""A folder of a training is loaded at the layer that the registry delivers."""

import shutil
from pathlib import Path

import pytest
import torch

from tasks import embed
from tasks.encoder import load, package
from tasks.runtime import files
from tasks.runtime.errors import IntegrityError, UsageError
from tests.support.project import set_params
from tests.support.registered import write_project


def scores(root: Path, folder: str, layer: str) -> None:
    """The metrics of simclr in ``out/metrics`` or in the folder of a task there."""
    values = files.read_json(root / "out/metrics/simclr-0.json") | {"layer": layer}
    files.write_json(root / f"out/metrics/{folder}simclr-0.json", values)


def test_the_layer_is_the_pools_or_without_labels_the_first_tasks(tmp_path: Path) -> None:
    write_project(tmp_path, ("simclr",))
    folder = tmp_path / "out/encoders/simclr-0"
    blocks = {task: {"source": "folder", "path": "x"} for task in ("tiles", "other")}
    set_params(tmp_path, {"run": {"tasks": [*blocks]}, "tasks": blocks})
    scores(tmp_path, "tiles/", "block1")
    scores(tmp_path, "other/", "block2")
    assert load(folder).layer == "block3"
    values = files.read_json(tmp_path / "out/metrics/simclr-0.json")
    files.write_json(tmp_path / "out/metrics/simclr-0.json", {k: v for k, v in values.items() if not k.endswith("_top1")})
    assert load(folder).layer == "block1"
    (tmp_path / "out/metrics/tiles/simclr-0.json").unlink()
    assert load(folder).layer == "block3"
    (tmp_path / "out/metrics/simclr-0.json").unlink()
    assert load(folder).layer == "block4"


def test_a_folder_that_was_copied_elsewhere_is_loaded_without_scores(tmp_path: Path) -> None:
    """Not even by the params.yaml of a project that it was copied into."""
    write_project(tmp_path / "here", ("simclr",))
    there = tmp_path / "there"
    shutil.copytree(tmp_path / "here/out/encoders/simclr-0", there / "models/ssl/simclr-0")
    (there / "params.yaml").write_text("lr: 1\n")
    assert load(there / "models/ssl/simclr-0").layer == "block4"
    shutil.copytree(tmp_path / "here/out/metrics", tmp_path / "results/metrics")
    shutil.copytree(tmp_path / "here/out/encoders", tmp_path / "results/encoders")
    assert load(tmp_path / "results/encoders/simclr-0").layer == load(tmp_path / "here/out/encoders/simclr-0").layer


def test_a_package_for_other_tools_is_written_of_an_encoder_that_no_registry_has(tmp_path: Path) -> None:
    write_project(tmp_path, ("simclr",))
    source, target = tmp_path / "out/encoders/simclr-0", tmp_path / "taken"
    package(source, target)
    assert {path.name for path in target.iterdir()} >= {"config.json", "model.safetensors", "modeling.py", "encoder.onnx"}
    images = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8)
    card = (target / "MODEL_CARD.md").read_text()  # of the project, with its scores
    assert "by `simclr` (seed 0)" in card and "| 0.7000 | higher |" in card
    whole, taken = load(source), load(target)
    assert taken.layer == whole.layer == "block3" and torch.equal(taken(images), whole(images))
    assert torch.equal(embed.loaded(str(source)).module(images), embed.loaded(str(target)).module(images))
    assert embed.loaded(str(source)).config["layer"] == "block3"
    (tmp_path / "data/prepared/meta.json").unlink()
    package(source, tmp_path / "again")
    assert "Its scores could not be read: " in (tmp_path / "again/MODEL_CARD.md").read_text()
    weights = target / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match=r"does not match its manifest; fetch the folder again"):
        load(target)
    with pytest.raises(UsageError, match="is no encoder: give out/encoders/METHOD-SEED"):
        load(tmp_path)
    for wrong, to, said in ((source, target, "is there already"), (tmp_path, tmp_path / "x", "is no encoder of a training")):
        with pytest.raises(UsageError, match=said):
            package(wrong, to)
