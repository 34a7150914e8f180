"""A folder of a training is loaded at the layer that the registry delivers."""

from pathlib import Path

from tasks.encoder import load
from tasks.runtime import files
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
