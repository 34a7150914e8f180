"""The finished work copy of a stage: published again without computing, but never with damage in it."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.runtime.stage import DONE, Stage
from tasks.runtime.stage_name import StageName
from tests.support import damage

GRAPH = """
stages:
  gather:
    cmd: python gather.py
    deps: [given.txt]
    outs: [out/table.csv, out/sheet]
"""


class Gather:
    """A stage that counts how often it computes."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, stage: Stage) -> None:
        self.runs += 1
        stage.out("out/table.csv").write_text("a,b\n1,2\n")
        stage.out("out/sheet").mkdir()
        (stage.out("out/sheet") / "page.txt").write_text("words")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Iterator[Path]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    (tmp_path / "given.txt").write_text("input")
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def results(project: Path) -> list[str]:
    return [(project / "out" / name).read_text() for name in ("table.csv", "sheet/page.txt")]


FAULTS = {
    "a bit in a file": lambda work: damage.flip(work / "outs/out/table.csv"),
    "a bit in a directory": lambda work: damage.flip(work / "outs/out/sheet/page.txt"),
    "a file less": lambda work: (work / "outs/out/sheet/page.txt").unlink(),
    "a file more": lambda work: (work / "outs/out/sheet/more.txt").write_text("x"),
    "a bit in its seal": lambda work: damage.flip(work / DONE, 40),
    "a seal of an older release": lambda work: (work / DONE).write_text('{"stage": "gather"}'),
    "an empty seal": lambda work: (work / DONE).write_text(""),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.fault("F25")
def test_a_damaged_work_copy_is_computed_again(project: Path, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    gather = Gather()
    assert Stage(StageName("gather")).execute(gather)
    truth = results(project)
    stage = Stage(StageName("gather"))
    assert not stage.execute(gather) and gather.runs == 1 and results(project) == truth
    FAULTS[fault](stage.work)
    capsys.readouterr()
    assert Stage(StageName("gather")).execute(gather) and gather.runs == 2
    assert results(project) == truth and not (project / "out/sheet/more.txt").exists()
    said = capsys.readouterr().err
    assert said.startswith("warning: the finished result of gather is made again: ") and said.count("\n") == 1


@pytest.mark.fault("F35")
def test_an_output_changed_by_hand_does_not_change_the_work_copy_behind_it(project: Path) -> None:
    """They may be one file on the disk, so the change is seen as damage."""
    gather = Gather()
    Stage(StageName("gather")).execute(gather)
    with (project / "out/table.csv").open("a") as file:
        file.write("3,4\n")
    Stage(StageName("gather")).execute(gather)
    assert results(project) == ["a,b\n1,2\n", "words"]
