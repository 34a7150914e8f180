"""Every write path with a fault at its Nth operation: afterwards there is the old state or the new one, and a repeat works."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tasks.runtime import checkpoint, files, work
from tasks.runtime.errors import IntegrityError
from tasks.runtime.stage import Stage
from tasks.runtime.stage_name import StageName
from tasks.tracking import journal
from tests.conftest import ROOT
from tests.support.faults import DONE, KINDS, Nth, attempt, each

NEVER = 10**9
TENSORS = {
    "method.weight": torch.arange(6.0).view(2, 3),
    "optimizer.0.momentum_buffer": torch.ones(2, 3),
    "sums.loss": torch.ones(1),
}
REQUIRED = {"method.weight": torch.zeros(2, 3)}


def scalars(step: int) -> dict[str, object]:
    return {"step": step, "history": [{"epoch": 0, "step": 0, "loss": 0.5}], "seconds": 1.5, "journal": 10}


def fresh(place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return place


@pytest.mark.fault("F2", "F3", "F12", "F19", "F20", "F23", "F24")
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_the_one_before_or_the_new_one(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "checkpoints"

    def prepare() -> Callable[[], object]:
        fresh(place)
        for step in (1, 2):
            checkpoint.save(place, step, TENSORS, scalars(step))
        return lambda: checkpoint.save(place, 3, TENSORS, scalars(3))

    def check(code: int) -> None:
        files.remove_leftovers(place)
        assert not list(place.glob(".*")), "left behind"
        found = checkpoint.load(place, REQUIRED)
        assert found and found[1]["step"] in ((3,) if code == DONE else (2, 3))
        assert all(torch.equal(found[0][name], value) for name, value in TENSORS.items())
        checkpoint.save(place, 3, TENSORS, scalars(3))

    assert each(prepare, check, kind, tmp_path / "log") > 10


@pytest.mark.fault("F3", "F19", "F23", "F24")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_published_is_the_old_the_new_or_nothing(tmp_path: Path, kind: str) -> None:
    source, target, single = tmp_path / "work", tmp_path / "out", tmp_path / "one.json"

    def prepare() -> Callable[[], object]:
        for place, text in ((source, "new"), (target, "old")):
            fresh(place)
            for name in ("a", "b"):
                (place / name).write_text(text)
            files.seal(place)
        single.write_text("old")
        (tmp_path / "single").write_text("new")
        return both

    def both() -> None:
        work.publish(source, target)
        work.publish(tmp_path / "single", single)

    def check(code: int) -> None:
        files.remove_leftovers(tmp_path)
        assert single.read_text() == "new" if code == DONE else single.read_text() in ("old", "new")
        assert target.exists() or code != DONE
        if target.exists():
            files.verify(target)
            assert {file.read_text() for file in target.glob("[ab]")} in ([{"new"}] if code == DONE else [{"old"}, {"new"}])
        both()
        assert (target / "a").read_text() == single.read_text() == "new"

    assert each(prepare, check, kind, tmp_path / "log") > 5


@pytest.mark.fault("F3", "F19", "F23", "F24")
@pytest.mark.parametrize("kind", KINDS)
def test_a_sealed_directory_is_whole_or_absent(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "sealed"

    def fill(directory: Path) -> None:
        for name in ("a", "b"):
            files.write_text(directory / name, "x")

    def prepare() -> Callable[[], object]:
        fresh(place)
        files.write_directory(place, fill)
        return lambda: files.write_directory(place, fill, version=2)

    def check(code: int) -> None:
        files.remove_leftovers(tmp_path)
        if place.exists():
            assert code != DONE or files.verify(place)["version"] == 2
            files.verify(place)
        else:
            assert code != DONE
        files.write_directory(place, fill)
        files.verify(place)

    assert each(prepare, check, kind, tmp_path / "log") > 10


@pytest.mark.fault("F19", "F23", "F24")
@pytest.mark.parametrize("kind", KINDS)
def test_a_journal_holds_whole_events_and_goes_on(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "journal.jsonl"
    about = {"fingerprint": "f", "stage": "pretrain@x-0", "name": "x", "seed": 0, "tags": {}, "params": {}}

    def write() -> None:
        with journal.Journal(path) as log:
            log.start(**about)  # type: ignore[arg-type]
            for step in range(4):
                log.metrics(step, {"loss": 0.5})
                assert log.position
            log.end("FINISHED")
            log.publish(tmp_path / "published.jsonl")

    def prepare() -> Callable[[], object]:
        for name in ("journal.jsonl", "published.jsonl"):
            (tmp_path / name).unlink(missing_ok=True)
        return write

    def check(code: int) -> None:
        events = [event["event"] for event in journal.read(path)] if path.exists() else []
        whole = ["start", *["metrics"] * 4, "end"]
        assert events == whole[: len(events)] and (code != DONE or events == whole)
        assert not path.exists() or path.read_bytes().count(b"\n") == len(events)
        published = tmp_path / "published.jsonl"
        assert not published.exists() or published.read_bytes() == path.read_bytes()
        write()
        faults: list[str] = []
        assert list(journal.read(path, faults)) and not faults

    assert each(prepare, check, kind, tmp_path / "log") > 10


def stage_with_faults(place: Path, kind: str, stride: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """A whole stage: inputs, work directory, lock, two outputs, publishing; the number of operations that failed."""
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    entry = "stages:\n  prepare:\n    cmd: x\n    deps: [given]\n    outs: [out/one.txt, out/more]\n"

    def body(stage: Stage) -> None:
        files.write_text(stage.out("out/one.txt"), Path("given").read_text())
        files.write_directory(stage.out("out/more"), lambda d: files.write_text(d / "a", Path("given").read_text()))

    def run() -> None:
        Stage(StageName("prepare")).execute(body)

    def prepare() -> Callable[[], object]:
        monkeypatch.chdir(place.parent)
        monkeypatch.chdir(fresh(place))
        Path("dvc.yaml").write_text(entry)
        shutil.copy(ROOT / "params.yaml", "params.yaml")
        for text in ("old", "new"):
            Path("given").write_text(text)
            if text == "old":
                assert attempt(run, Nth(NEVER, kind), place.parent / "log") == DONE
        return run

    def check(code: int) -> None:
        one, more = Path("out/one.txt"), Path("out/more")
        allowed = ("new",) if code == DONE else ("old", "new")
        assert one.read_text() in allowed
        if more.exists():
            files.verify(more)
            assert (more / "a").read_text() in allowed
        assert attempt(run, Nth(NEVER, kind), place.parent / "log") == DONE
        assert one.read_text() == (more / "a").read_text() == "new"
        assert not list(place.rglob("*.tmp")), "left behind"

    return each(prepare, check, kind, place.parent / "log", stride)


@pytest.mark.fault("F3", "F19", "F23", "F24", "R8")
@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_publishes_all_or_can_be_repeated(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stage_with_faults(tmp_path / "p", kind, 13, monkeypatch) > 30


@pytest.mark.stress
@pytest.mark.fault("F3", "F19", "F23", "F24", "R8")
@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_with_a_fault_at_every_operation(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stage_with_faults(tmp_path / "p", kind, 1, monkeypatch) > 30


@pytest.mark.fault("F23", "F72")
def test_what_is_read_half_is_damage(tmp_path: Path) -> None:
    files.save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(100).numpy()})
    data = (tmp_path / "x.safetensors").read_bytes()
    for length in range(0, len(data), 7):
        (tmp_path / "x.safetensors").write_bytes(data[:length])
        with pytest.raises(IntegrityError):
            files.load_tensors(tmp_path / "x.safetensors")
