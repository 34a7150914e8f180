"""Failures, kill -9 and TERM at random moments in a parallel run: the same command finishes, and nothing is done twice."""

import contextlib
import functools
import itertools
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tasks.dvc import graph
from tasks.tracking import registered
from tests.conftest import ROOT
from tests.support import prefect_server as server
from tests.support import tiny_graph as tiny
from tests.support.processes import cmdline, wait_for
from tests.support.project import copy_project, environment, set_params
from tests.tasks.dvc.test_graph import results
from tests.tasks.runtime.test_stage import runs_in_mlflow
from tests.tasks.test_doctor import doctor

Hit = tuple[str, signal.Signals]
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
HITS = list(itertools.product(("command", "dvc", "stage"), SIGNALS))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    yield tiny.make(tmp_path / "p")
    tiny.end_all(tmp_path / "p")


@dataclass(frozen=True)
class Command:
    """What brings a project up to date, to be hit."""

    arguments: tuple[str, ...]
    env: dict[str, str]

    def start(self, project: Path) -> "subprocess.Popen[str]":
        return tiny.start(project, *self.arguments, env=self.env)


def make_run() -> Command:
    return Command(("tests.support.make_run",), environment(PYTHONPATH=str(ROOT)))


def flow() -> Command:
    return Command(("flows.pipeline", "-j", "3"), server.prefect_environment())


def strike(project: Path, running: "subprocess.Popen[str]", hit: Hit, chance: random.Random) -> bool:
    """Send the signal at a random moment of its victim's life; whether there was one before the command ended."""
    who, number = hit
    if who == "command" and chance.random() < 0.5:  # whatever it does then
        time.sleep(chance.uniform(0.5, 5.0))
        running.send_signal(number)
        return True
    while running.poll() is None:
        if victims(project, running, who):
            time.sleep(chance.uniform(0.0, 0.8))
            with contextlib.suppress(IndexError, ProcessLookupError):  # it has just ended: wait for the next one
                pid = victims(project, running, who)[0]
                server.restart_server(number) if who == "server" else os.kill(pid, number)
                return True
        time.sleep(0.05)
    return False


def victims(project: Path, running: "subprocess.Popen[str]", who: str) -> list[int]:
    """The processes that ``who`` names; the command and the server only while a stage computes."""
    if who == "dvc":
        return [pid for pid in tiny.stages_alive(project) if b"repro" in cmdline(pid)]
    computing = tiny.computing(project)
    return [running.pid] if who == "command" and computing else computing


def chaos(project: Path, command: Command, hits: list[Hit], seed: int) -> Counter[Hit | str]:
    """Rounds of work, each hit three times, then finished by the same command; what was hit how often."""
    chance, seen, job = random.Random(seed), Counter[Hit | str](), 1
    for start in range(0, len(hits), 3):
        for hit in (*hits[start : start + 3], None):
            slow = {"seconds": chance.choice([1.0, 3.0])}
            fails = hit is not None and chance.random() < 0.3
            bad = {"pretrain_byol_0": slow | {"code": chance.choice([5, 75])}} if fails else {}
            tiny.control(project, **({"pretrain_simclr_0": slow, "pretrain_byol_0": slow} | bad if hit else {}))
            done = {s.name for s in graph.plan(project) if not s.stale}
            if hit and {n for n in tiny.NAMES if n.startswith("pretrain")} <= done:  # no work to hit is left
                job, done = job + 1, {"prepare"}
                for method in ("simclr", "byol"):
                    tiny.set_lr(project, method, job)
            started = len(tiny.computed(project))
            running = command.start(project)
            if hit is not None:
                seen[hit if strike(project, running, hit, chance) else "nothing to hit"] += 1
                seen["a method failed"] += fails
            code = running.wait(180)
            assert hit or code == 0, (project / ".ssl/flow.log").read_text()
            again = done & set(tiny.computed(project)[started:]) - {"report"}  # its rows come and go with failures
            assert not again, f"computed again after {hit}: {again}"
        wait_for(lambda: not tiny.stages_alive(project), 30)
        assert tiny.is_clean(project), f"after {hits[start : start + 3]}"
    assert doctor(project, command.env).returncode == 0
    assert [line for line in doctor(project, command.env).stdout.splitlines() if not line.endswith(": ok")] == []
    return seen


def same_as_plain(project: Path, place: Path) -> None:
    plain = tiny.make(place)
    (plain / "params.yaml").write_bytes((project / "params.yaml").read_bytes())
    assert tiny.dvc(plain, "repro").returncode == 0
    assert results(project) == results(plain)


@pytest.mark.fault("F13", "R8")
def test_a_run_that_is_hit_twice_ends_as_plain_dvc_repro(project: Path, tmp_path: Path) -> None:
    hits = [("stage", signal.SIGTERM), ("command", signal.SIGKILL)]
    seen = chaos(project, make_run(), hits, seed=0)
    assert all(seen[hit] == 1 for hit in hits), seen
    same_as_plain(project, tmp_path / "plain")


@pytest.mark.stress
@pytest.mark.fault("R3", "R8")
def test_twenty_runs_with_failures_and_kills(project: Path, tmp_path: Path) -> None:
    hits = HITS * 10
    random.Random(1).shuffle(hits)
    seen = chaos(project, make_run(), hits, seed=1)
    print(f"\n{dict(seen)}, {len(tiny.computed(project))} stage commands started")
    assert all(seen[hit] >= 5 for hit in HITS) and seen["a method failed"] >= 5
    same_as_plain(project, tmp_path / "plain")


@pytest.mark.stress
@pytest.mark.fault("F68", "R8")
@pytest.mark.parametrize("seed", range(2, 9))  # 63 rounds
def test_the_flow_its_server_and_its_stages_are_hit(project: Path, tmp_path: Path, seed: int) -> None:
    started = server.now()
    hits = [*HITS, *itertools.product(["server"], SIGNALS), ("command", signal.SIGINT)]
    random.Random(seed).shuffle(hits)
    seen = chaos(project, flow(), hits, seed)
    print(f"\n{dict(seen)}, {len(tiny.computed(project))} stage commands started")
    assert sum(not seen[hit] for hit in hits) <= 2, seen  # in a short round there may be nothing to hit
    assert server.zombies(started) == []
    same_as_plain(project, tmp_path / "plain")


@pytest.mark.stress
@pytest.mark.fault("F59", "R8")
def test_mlflow_has_each_run_once_when_the_flow_was_killed_in_every_kind_of_stage(tmp_path: Path) -> None:
    """The real stages; all processes die at once, as when a machine stops, and in an evaluation the flow alone."""
    project, started = copy_project(tmp_path / "p", git=True), server.now()
    preset = yaml.safe_load((ROOT / "presets/tiny.yaml").read_text())
    set_params(project, preset | {"run": {"methods": ["simclr", "byol"], "seeds": [0]}})
    (project / ".ssl").mkdir()

    def finished() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns for path in [*project.glob("out/encoders/*/*"), *project.glob("out/metrics/*.json")]
        }

    for kind in ("pretrain", "evaluate", "report", "register"):
        before, running = finished(), tiny.start(project, "flows.pipeline", "-j", "1")
        at_work = wait_for(functools.partial(at, project, kind), 120)
        time.sleep(1.5)
        for pid in [] if kind == "evaluate" else [*tiny.stages_alive(project), *at_work]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        running.kill()
        running.wait()
        assert before.items() <= finished().items(), f"computed again before {kind} was hit"
    before = finished()
    code, log = tiny.finish(project, "flows.pipeline")
    assert code == 0, log
    assert before == finished() and len(before) > 2 and server.zombies(started) == []
    assert sorted(runs_in_mlflow(project)) == [(name, "FINISHED") for name in ("byol-0", "pipeline", "simclr-0")]
    wanted = registered.load(project)
    stored = registered.ask_file(project / "mlruns/mlflow.db", wanted.model)
    assert {name: stored.versions[key].number for name, key in wanted.packages.items()} == {"simclr-0": 1, "byol-0": 2}


def at(project: Path, kind: str) -> list[int]:
    """Processes of the stages of one kind that work in ``project``."""
    return [pid for pid in tiny.stages_alive(project) if f"tasks.{kind}\0".encode() in cmdline(pid) + b"\0"]
