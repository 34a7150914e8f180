"""Trainings on several machines: each has a clone of the project and a Prefect worker; they share a DVC remote, nothing else.

``python -m flows.pipeline --machines`` hands every ``pretrain@`` and ``evaluate@`` stage to the deployment ``run-stage``.
Whichever worker is free pulls the stage's inputs, runs it with ``dvc repro -s``, and pushes its outputs and DVC's run
cache. The flow's own ``dvc repro -s --pull`` then restores the stage from there, so that its workspace and dvc.lock
are complete, as if it had run here. A stage that some machine has finished once is never computed again.
"""

import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.deployments import run_deployment
from prefect.states import Completed, Failed

from tasks import files, graph, settings
from tasks.errors import EnvironmentFault, Preempted, UsageError
from tasks.graph import PlannedStage
from tasks.locks import try_lock
from tasks.runner import Outcome, Runner

DEPLOYMENT = "run-stage/machines"
AT_A_TIME = 64  # stages handed out; the workers' own limits bound what runs
POLL_SECONDS = 1.0
CODE = ("ssl_core", "tasks", "dvc.yaml")


@flow(name="run-stage", flow_run_name="{stage}", persist_result=False)
def run_stage(stage: str, inputs: list[str], commit: str, params: str, lock: str, leader: str) -> State[None]:
    """Run one stage in this machine's clone; one at a time.

    Args:
        stage: its name in DVC.
        inputs: the stages whose outputs it reads.
        commit: of the code.
        params: content of params.yaml.
        lock: content of dvc.lock.
        leader: where the flow runs that asks for it.
    """
    settings.apply()
    root, logger = Path.cwd(), get_run_logger()
    if leader == _here(root):
        return Failed(message="exit 2: a worker needs a clone of its own, not the one in which the pipeline's flow runs")
    if _git(root, "rev-parse", "HEAD") != commit or _git(root, "status", "--porcelain", "--", *CODE):
        return Failed(message=f"exit 2: {_here(root)} has other code than {leader}; check out {commit} there")
    runner = Runner(root, pull=True)
    (root / ".ssl").mkdir(exist_ok=True)
    with (root / ".ssl" / "machine.lock").open("a") as held:
        while not try_lock(held):
            time.sleep(POLL_SECONDS)
        try:
            files.write_text(root / "params.yaml", params)
            files.write_text(root / "dvc.lock", lock)
            _dvc(root, "pull", "--force", *inputs)
            outcome = runner.run(stage, lambda lines: [logger.info("%s", line) for line in lines] and None)
            if outcome.code:
                return Failed(message=f"exit {outcome.code}: {outcome.message}")
            graph.push_run_cache(root)
        except BaseException:  # a signal, a cancellation
            runner.stop()
            raise
    return Completed(message=outcome.how)


class Machines:
    """Runs stages as ``Runner`` does, those of one method and seed on other machines."""

    def __init__(self, local: Runner, plan: Sequence[PlannedStage]):
        self.local, self.root = local, local.root
        self.inputs = {stage.name: sorted(stage.after) for stage in plan}
        self.commit = _git(self.root, "rev-parse", "HEAD")
        if _git(self.root, "status", "--porcelain", "--", *CODE):
            raise UsageError(f"other machines have only what is committed; commit the changes in {', '.join(CODE)} first")
        self._pushed: set[str] = set()
        self._pushing = threading.Lock()
        self._live: set[UUID] = set()
        self._stopping = threading.Event()

    def run(self, name: str, watch: Callable[[list[str]], None] = lambda lines: None) -> Outcome:
        """Bring one stage up to date, wherever; see ``Runner.run``."""
        if "@" not in name:
            return self.local.run(name, watch)
        self._push(self.inputs[name])
        state = self._elsewhere(name, watch)
        if not state.is_completed():
            return _outcome(state)
        return self.local.run(name, watch)

    def stop(self) -> None:
        """Start nothing more; cancel what runs elsewhere, interrupt what runs here."""
        self._stopping.set()
        with get_client(sync_client=True) as client:
            for flow_run in list(self._live):
                client.set_flow_run_state(flow_run, State(type=StateType.CANCELLING), force=True)
        self.local.stop()

    def _push(self, names: Sequence[str]) -> None:
        with self._pushing:
            new = [name for name in names if name not in self._pushed]
            if new:
                _dvc(self.root, "push", *new)
                self._pushed.update(new)

    def _elsewhere(self, name: str, watch: Callable[[list[str]], None]) -> State[None]:
        if self._stopping.is_set():
            raise Preempted(f"{name} was not started")
        lock = self.root / "dvc.lock"
        request = {
            "stage": name,
            "inputs": self.inputs[name],
            "commit": self.commit,
            "params": (self.root / "params.yaml").read_text(),
            "lock": lock.read_text() if lock.exists() else "",
            "leader": _here(self.root),
        }
        started = run_deployment(DEPLOYMENT, parameters=request, timeout=0, as_subflow=False)
        watch([f"waiting for a machine: flow run {started.name}"])
        self._live.add(started.id)
        try:
            with get_client(sync_client=True) as client:
                while True:
                    state = client.read_flow_run(started.id).state
                    if state is not None and state.is_final():
                        return state
                    if self._stopping.wait(POLL_SECONDS):
                        raise Preempted(f"{name} was cancelled")
        finally:
            self._live.discard(started.id)


def _outcome(state: State[None]) -> Outcome:
    """How a stage failed elsewhere; a machine that went away is no fault of the stage."""
    message = state.message or state.name or ""
    found = re.match(r"exit (\d+): (.*)", message, re.S)
    if found:
        return Outcome(int(found[1]), "failed", found[2])
    return Outcome(70 if state.is_failed() else Preempted.code, "failed", message)


def _dvc(root: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise EnvironmentFault(f"dvc {arguments[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def _here(root: Path) -> str:
    return f"{platform.node()}:{root.resolve()}"
