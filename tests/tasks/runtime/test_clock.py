"""What a stage depends on besides its inputs: the machine counts, the clock does not."""

import json
import time
from pathlib import Path

import pytest

from tasks.runtime import checkpoint, files
from tasks.runtime.progress import Progress
from tasks.runtime.stage import Stage
from tasks.runtime.stage_name import StageName
from tasks.tracking import journal
from tests.tasks.runtime.test_checkpoint import REQUIRED, TENSORS, scalars

GRAPH = "stages:\n  gather:\n    cmd: x\n    deps: [given.txt]\n    outs: [out/table.csv]\n"
MACHINES = [{}, {"torch": "1"}, {"torch": "2"}, {"torch": "2", "device": "cuda"}, {"torch": "2", "threads": 2}]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    (tmp_path / "given.txt").write_text("input")
    return tmp_path


@pytest.mark.fault("F47")
def test_another_version_device_or_number_of_threads_goes_on_with_nothing(project: Path) -> None:
    places = {Stage(StageName("gather"), machine).work for machine in MACHINES}
    assert len(places) == len(MACHINES) and Stage(StageName("gather"), MACHINES[1]).work in places


@pytest.mark.fault("F18")
@pytest.mark.parametrize("jump", [-10_000.0, 10_000.0, 2.0**31])
def test_a_clock_that_jumps_changes_no_order_and_no_duration(
    project: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    place, now = project / "checkpoints", time.time()
    fingerprint, shown = Stage(StageName("gather")).fingerprint, Progress("x", 2, "images", file=project / "progress.json")
    with journal.Journal(project / "journal.jsonl") as log:
        for step in (1, 2):
            if step == 2:
                monkeypatch.setattr(time, "time", lambda: now + jump)
                monkeypatch.setattr(time, "time_ns", lambda: int((now + jump) * 1e9))
            checkpoint.save(place, step, {k: v + step for k, v in TENSORS.items()}, scalars(step))
            log.metrics(step, {"loss": 1.0})
    shown.update(2)
    assert " 0:0" in json.loads((project / "progress.json").read_text())["status"]
    found = checkpoint.load(place, REQUIRED)
    assert found and found[1]["step"] == 2
    assert [event["step"] for event in journal.read(project / "journal.jsonl")] == [1, 2]
    assert Stage(StageName("gather")).fingerprint == fingerprint
    assert files.verify(place / "step-0000000001")
