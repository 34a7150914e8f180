"""Failures, kill -9 and TERM at random moments in a parallel run: the same command finishes, and nothing is done twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tasks import graph
from tests import tiny_graph as tiny
from tests.project import environment
from tests.test_doctor import doctor
from tests.test_graph import results

COMMAND = """
from pathlib import Path
from tasks import graph, run
from tasks.errors import run as guarded
from tasks.runner import Runner
from tasks.schedule import Schedule

def main():
    root = Path.cwd()
    graph.release_dead_locks(root)
    plan, before = graph.plan(root), graph.lock_order(root)
    run.bring_up_to_date(Schedule(plan), Runner(root), 3)
    graph.tidy_lock(root, before, plan)

guarded(main)
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    yield tiny.make(tmp_path / "p")
    tiny.end_all(tmp_path / "p")


def begin(project: Path) -> subprocess.Popen[bytes]:
    env = environment(PYTHONPATH=str(tiny.ROOT))
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-c", COMMAND], cwd=project, env=env, stdout=quiet, stderr=quiet)


def hit(project: Path, runner: subprocess.Popen[bytes], chance: random.Random) -> str:
    """Send a signal to the command, a dvc process or a stage, if there is one."""
    kind = chance.choice(["command", "dvc", "stage"])
    number = chance.choice([signal.SIGKILL, signal.SIGTERM])
    word = {"dvc": b"repro", "stage": b"stage.py"}.get(kind)
    pids = [runner.pid] if word is None else []
    for pid in tiny.stages_alive(project) if word else []:
        try:
            if word in Path(f"/proc/{pid}/cmdline").read_bytes():
                pids.append(pid)
        except OSError:
            continue
    if not pids:
        return "nothing"
    try:
        os.kill(chance.choice(pids), number)
    except ProcessLookupError:
        return "nothing"
    return f"{number.name} {kind}"


def chaos(project: Path, rounds: int, seed: int) -> Counter[str]:
    """``rounds`` of work, each interrupted three times, then finished by the same command; what was hit how often."""
    chance, seen = random.Random(seed), Counter[str]()
    for round in range(rounds):
        for method in ("simclr", "byol"):
            tiny.set_lr(project, method, 100 * (round + 1))
        for attempt in range(4):
            slow = {"seconds": chance.choice([0.2, 1.0, 3.0])}
            bad = {"pretrain_byol_0": slow | {"code": chance.choice([5, 75])}} if attempt < 3 and chance.random() < 0.5 else {}
            last = attempt == 3
            tiny.control(project, **({} if last else {"pretrain_simclr_0": slow, "pretrain_byol_0": slow} | bad))
            done = {s.name for s in graph.plan(project) if not s.stale}
            started = len(tiny.computed(project))
            command = begin(project)
            if not last:
                time.sleep(chance.uniform(0.5, 5.0))
                seen[hit(project, command, chance)] += 1
                seen["a method failed"] += bool(bad)
            code = command.wait(90)
            assert not last or code == 0
            again = done & set(tiny.computed(project)[started:]) - {"report"}  # its rows come and go with failures
            assert not again, f"computed again, round {round}, attempt {attempt}: {again}"
        tiny.wait_for(lambda: not tiny.stages_alive(project), 30)
        assert tiny.is_clean(project), f"round {round}"
    assert doctor(project).returncode == 0
    assert [line for line in doctor(project).stdout.splitlines() if not line.endswith(": ok")] == []
    return seen


def same_as_plain(project: Path, place: Path) -> None:
    plain = tiny.make(place)
    (plain / "params.yaml").write_bytes((project / "params.yaml").read_bytes())
    assert tiny.dvc(plain, "repro").returncode == 0
    ours, theirs = results(project), results(plain)
    # After an interruption the stages stand in dvc.lock in another order, which means nothing.
    assert yaml.safe_load(ours.pop("dvc.lock")) == yaml.safe_load(theirs.pop("dvc.lock"))
    assert ours == theirs


def test_a_run_that_is_hit_three_times_ends_as_plain_dvc_repro(project: Path, tmp_path: Path) -> None:
    chaos(project, 1, seed=0)
    same_as_plain(project, tmp_path / "plain")


@pytest.mark.stress
def test_twenty_runs_with_failures_and_kills(project: Path, tmp_path: Path) -> None:
    seen = chaos(project, 20, seed=1)
    print(f"\n{dict(seen)}, {len(tiny.computed(project))} stage commands started")
    assert sum(n for what, n in seen.items() if what.startswith("SIG")) >= 30
    same_as_plain(project, tmp_path / "plain")
