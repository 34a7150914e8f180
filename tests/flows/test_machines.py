"""Stages on other machines: workers in clones of their own, started by the Slurm script, that share only a DVC remote."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import ROOT
from tests.support import prefect_server as server
from tests.support import tiny_graph as tiny
from tests.support.processes import wait_for
from tests.support.project import commit

FLOW = ("flows.pipeline", "--machines")
ONE_MINUTE = {f"pretrain_{method}_0": {"seconds": 60} for method in ("simclr", "byol")}


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[Path]:
    """The project in which the flow runs, with a remote and the deployment of its stages."""
    leader = tiny.make(tmp_path / "leader")
    (leader / "flows").symlink_to(ROOT / "flows")
    (leader / ".venv").symlink_to(sys.prefix)
    assert tiny.dvc(leader, "remote", "add", "-d", "store", str(tmp_path / "store")).returncode == 0
    commit(leader, "a remote", "flows", ".dvc")
    server.cli(leader, "work-pool create machines --type process --overwrite", "--no-prompt deploy --name machines")
    yield leader
    for worker in tmp_path.glob("leader-workers/*"):
        end(worker)
    tiny.end_all(leader)


def machine(leader: Path, number: int, **control: Any) -> Path:
    """The clone of a worker that a task of a job array starts, as Slurm would run it."""
    clone = leader.with_name("leader-workers") / str(number)
    if not clone.exists():
        subprocess.run(["git", "clone", "-q", str(leader), str(clone)], check=True)
        (clone / ".ssl").mkdir()
    tiny.control(clone, **control)
    environment = server.prefect_environment() | {"SLURM_SUBMIT_DIR": str(leader), "SLURM_ARRAY_TASK_ID": str(number)}
    with (clone / ".ssl" / "worker.log").open("w") as log:
        command = ["bash", str(ROOT / "deploy/slurm-worker.sbatch")]
        script = subprocess.Popen(command, cwd=leader, env=environment, stdout=log, stderr=log, start_new_session=True)
    (clone / ".ssl" / "job.pid").write_text(str(script.pid))
    return clone


def job(clone: Path) -> psutil.Process:
    """The script; its only child is the worker."""
    return psutil.Process(int((clone / ".ssl" / "job.pid").read_text()))


def end(clone: Path) -> None:
    """The machine loses its power: nothing of it says goodbye."""
    with contextlib.suppress(psutil.NoSuchProcess):
        first = job(clone)
        for process in [*first.children(recursive=True), first]:
            process.kill()
    for pid in tiny.stages_alive(clone):
        os.kill(pid, signal.SIGKILL)


def requests() -> list[str]:
    """The states of what machines were asked for so far."""
    return [row["state_type"] for row in server.api("flow_runs/filter", flows={"name": {"any_": ["run-stage"]}})]


def working(clones: list[Path]) -> list[Path]:
    return [clone for clone in clones if tiny.stages_alive(clone)]


def test_two_machines_that_share_only_the_remote_compute_what_one_would(leader: Path, tmp_path: Path) -> None:
    clones = [machine(leader, number) for number in (1, 2)]
    for clone in clones:  # else the first one up may do it all
        wait_for(lambda log=clone / ".ssl/worker.log": "started!" in log.read_text(), 120)
    code, log = tiny.finish(leader, *FLOW, "-S", "method.byol.train.lr=2")
    assert code == 0, log
    shares = [tiny.computed(clone) for clone in clones]
    assert all(shares) and sorted(name for share in shares for name in share) == sorted(n for n in tiny.NAMES if "@" in n)
    assert tiny.computed(leader) == ["prepare", "report"] and tiny.is_clean(leader)
    assert {p.name for p in (leader / "out/metrics").glob("*.json")} == {"simclr-0.json", "byol-0.json"}

    alone = tiny.make(tmp_path / "alone")
    (alone / "params.yaml").write_bytes((leader / "params.yaml").read_bytes())
    assert tiny.dvc(alone, "repro").returncode == 0
    assert (alone / "dvc.lock").read_bytes() == (leader / "dvc.lock").read_bytes()

    end(clones[1])  # so that one stage runs and one waits
    tiny.control(clones[0], **ONE_MINUTE)
    for method in ("simclr", "byol"):
        tiny.set_lr(leader, method, 3)
    before = len(tiny.computed(clones[0]))
    flow = tiny.start(leader, *FLOW)
    wait_for(lambda: len(tiny.computed(clones[0])) > before and "SCHEDULED" in requests(), pause=0.3)
    asked = time.monotonic()
    flow.send_signal(signal.SIGINT)
    wait_for(lambda: not working([leader, *clones]), 20)
    assert time.monotonic() - asked < 10
    flow.wait(30)
    wait_for(lambda: set(requests()) == {"COMPLETED", "CANCELLED"}, pause=0.3)
    assert len(tiny.computed(clones[0])) == before + 1  # the one that ran; not the one that waited


@pytest.mark.stress
@pytest.mark.parametrize(
    "die",
    [end, lambda clone: job(clone).children()[0].kill(), lambda clone: job(clone).terminate()],
    ids=["no power", "no worker", "no time"],
)
def test_when_a_machine_goes_in_the_middle_of_a_stage_another_takes_it(leader: Path, die: Callable[[Path], None]) -> None:
    clones = [machine(leader, number, pretrain_simclr_0={"seconds": 20}, pretrain_byol_0={"seconds": 20}) for number in (1, 2)]
    flow = tiny.start(leader, *FLOW)
    dying = wait_for(lambda: next((clone for clone in clones if tiny.computed(clone)), None), 150)
    other = clones[1 - clones.index(dying)]
    die(dying)
    assert flow.wait(400) == 0, (leader / ".ssl/flow.log").read_text()
    assert len(tiny.computed(dying)) == 1 and len(tiny.computed(other)) == 4 and tiny.is_clean(leader)


@pytest.mark.stress
def test_after_kill_9_of_the_flow_the_next_one_waits_for_what_the_machines_still_do(leader: Path) -> None:
    clone = machine(leader, 1, pretrain_simclr_0={"seconds": 15}, pretrain_byol_0={"seconds": 15})
    flow = tiny.start(leader, *FLOW)
    wait_for(lambda: tiny.computed(clone), 150)
    flow.kill()
    code, log = tiny.finish(leader, *FLOW)
    assert code == 0, log
    assert sorted(tiny.computed(clone)) == sorted(n for n in tiny.NAMES if "@" in n) and tiny.is_clean(leader)


@pytest.mark.stress
def test_a_server_that_starts_again_is_waited_for(leader: Path) -> None:
    clone = machine(leader, 1, pretrain_simclr_0={"seconds": 15})
    flow = tiny.start(leader, *FLOW, "pretrain@simclr-0")
    wait_for(lambda: working([clone]) and tiny.computed(clone), 150)
    server.restart_server(signal.SIGKILL)
    assert flow.wait(120) == 0, (leader / ".ssl/flow.log").read_text()
    assert tiny.computed(clone) == ["pretrain@simclr-0"]


@pytest.mark.stress
def test_after_the_server_was_away_a_cancellation_still_ends_what_a_machine_does(leader: Path) -> None:
    clone = machine(leader, 1, pretrain_simclr_0={"seconds": 600})
    tiny.start(leader, *FLOW, "pretrain@simclr-0")
    wait_for(lambda: working([clone]) and tiny.computed(clone), 150)
    server.end_server(signal.SIGKILL)
    wait_for(lambda: "flow run cancellation will fail" in (clone / ".ssl/worker.log").read_text(), 90)  # Prefect's own words
    server.start_server(server.prefect_environment())
    assert working([clone])
    server.api(f"flow_runs/{server.newest_run('run-stage')['id']}/set_state", state={"type": "CANCELLING"})
    wait_for(lambda: not working([clone]), 60)
    assert tiny.computed(clone) == ["pretrain@simclr-0"]
