"""Checkpoints with damage: the one before is taken, and it is said."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tasks.runtime import checkpoint, files, work
from tasks.runtime.errors import EnvironmentFault
from tests.support import damage

TENSORS = {
    "method.weight": torch.arange(6.0).view(2, 3),
    "method.count": torch.tensor(7),
    "optimizer.0.momentum_buffer": torch.ones(2, 3),
    "sums.loss": torch.ones(1),
}
REQUIRED = {name: torch.zeros_like(value) for name, value in TENSORS.items() if name.startswith("method.")}


def scalars(step: int) -> dict[str, Any]:
    return {"step": step, "history": [{"epoch": 0, "step": 0, "loss": 0.5}], "seconds": 1.5, "journal": 10}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for step in (1, 2):
        checkpoint.save(tmp_path / "checkpoints", step, {k: v + step for k, v in TENSORS.items()}, scalars(step))
    return tmp_path / "checkpoints"


def loaded_step(directory: Path) -> int:
    found = checkpoint.load(directory, REQUIRED)
    assert found is not None
    tensors, facts = found
    assert facts == scalars(facts["step"]) and tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[k].view(v.shape), v + facts["step"]) for k, v in TENSORS.items())
    return int(facts["step"])


def without(name: str) -> Callable[[Path], None]:
    """The checkpoint sealed without a tensor."""

    def damaged(path: Path) -> None:
        tensors = files.load_tensors(path / "state.safetensors")
        del tensors[name]
        files.save_tensors(path / "state.safetensors", tensors)
        files.seal(path)

    return damaged


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """The checkpoint sealed with another state.json."""

    def damaged(path: Path) -> None:
        state = json.loads((path / "state.json").read_text())
        change(state)
        files.write_json(path / "state.json", state)
        files.seal(path)

    return damaged


def unknown(path: Path) -> None:
    """Without a tensor of the method, and saying so itself."""
    without("method.weight")(path)
    changed(lambda state: state["tensors"].pop("method.weight"))(path)


FAULTS = {
    "a bit in the tensors": lambda path: damage.flip(path / "state.safetensors"),
    "a bit in the numbers": lambda path: damage.flip(path / "state.json"),
    "a bit in the manifest": lambda path: damage.flip(path / files.MANIFEST),
    "no manifest": lambda path: (path / files.MANIFEST).unlink(),
    "no tensors": lambda path: (path / "state.safetensors").unlink(),
    "without a weight": without("method.weight"),
    "without sums": without("sums.loss"),
    "of another method": unknown,
    "of another version": changed(lambda state: state.update(schema=0)),
    "of an older layout": changed(lambda state: (old := state.pop("scalars"), state.clear(), state.update(old))),
    "no step": changed(lambda state: state["scalars"].pop("step")),
    "another step": changed(lambda state: state["scalars"].update(step=1)),
    "a step in words": changed(lambda state: state["scalars"].update(step="2")),
    "no position in the journal": changed(lambda state: state["scalars"].update(journal=None)),
    "a history of words": changed(lambda state: state["scalars"].update(history=[{"epoch": 0, "step": 0, "loss": "0.5"}])),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.fault("F12", "F25", "F26", "R6")
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    directory: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert loaded_step(directory) == 2 and capsys.readouterr().err == ""
    FAULTS[fault](directory / "step-0000000002")
    assert loaded_step(directory) == 1
    said = capsys.readouterr().err
    assert said.startswith("warning: checkpoint step-0000000002 is damaged and was passed over") and said.count("\n") == 1
    assert [path.name for path in directory.iterdir()] == ["step-0000000001"]


@pytest.mark.fault("F25")
def test_every_bit_of_a_manifest_and_of_the_numbers_counts(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = directory / "step-0000000002"
    for name in (files.MANIFEST, "state.json"):
        data = (path / name).read_bytes()
        whole = {file.name: file.read_bytes() for file in path.iterdir()}
        for at in range(0, len(data), 7):
            (path / name).write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            assert loaded_step(directory) == 1, at
            path.mkdir()
            for file, content in whole.items():
                (path / file).write_bytes(content)
    assert loaded_step(directory) == 2


@pytest.mark.fault("F30")
def test_what_is_not_whole_yet_lies_on_the_disk_of_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder for temporary files is on another disk, where nothing may be written: nobody asks for it."""
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    assert Path("/proc").stat().st_dev != tmp_path.stat().st_dev
    seen, replace, rename = [], Path.replace, Path.rename

    def noted(move: Callable[[Path, Path], object]) -> Callable[[Path, Path], object]:
        return lambda source, target: (seen.append(source.parent == target.parent), move(source, target))[1]

    monkeypatch.setattr(Path, "replace", noted(replace))
    monkeypatch.setattr(Path, "rename", noted(rename))
    checkpoint.save(tmp_path / "checkpoints", 1, TENSORS, scalars(1))
    work.publish(tmp_path / "checkpoints", tmp_path / "published")
    work.publish(tmp_path / "checkpoints", tmp_path / "published")
    files.write_text(tmp_path / "one", "text")
    assert len(seen) > 5 and all(seen)
    assert checkpoint.load(tmp_path / "published", REQUIRED)


def test_without_any_sound_checkpoint_the_training_begins_anew(directory: Path) -> None:
    for path in directory.iterdir():
        damage.flip(path / files.MANIFEST)
    assert checkpoint.load(directory, REQUIRED) is None


def test_the_disk_that_is_asked_is_that_of_the_folder_itself_where_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or SimpleNamespace(free=10))
    (tmp_path / "prepared").mkdir()
    for target in (tmp_path / "prepared", tmp_path / "no" / "folder"):
        files.check_space(target, 10, "")
    assert asked == [tmp_path / "prepared", tmp_path]


@pytest.mark.fault("F21")
def test_a_disk_that_is_too_small_for_the_checkpoints_is_seen_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {"method.weight": torch.zeros(1000, 1000)}  # 4 MB, and twice as much of the optimizer, three times
    for tensors, needed in ((weights, 36e6), (weights | {"optimizer.0.exp_avg": torch.zeros(1000, 1000)}, 24e6)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=needed: SimpleNamespace(free=free))
        checkpoint.check_space(tmp_path / "no" / "folder" / "yet", tensors)
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=needed - 1: SimpleNamespace(free=free))
        with pytest.raises(EnvironmentFault, match=f"needs about {needed / 1e6:.0f} MB but .* are free there; free some"):
            checkpoint.check_space(tmp_path, tensors)
