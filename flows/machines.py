"""Trainings on several machines: each has a clone of the project and a Prefect worker; they share a DVC remote, nothing else.

``python -m flows.pipeline --machines`` hands every ``pretrain@`` and ``evaluate@`` stage to the deployment ``run-stage``.
Whichever worker is free pulls the stage's inputs, runs it with ``dvc repro -s``, and pushes its outputs and DVC's run
cache. The flow's own ``dvc repro -s --pull`` then restores the stage from there, so that its workspace and dvc.lock
are complete, as if it had run here. A stage that some machine has finished once is never computed again.

A machine that runs a stage gives a sign of life every few seconds. One that fell silent is given up, and the stage handed out
again. A flow that takes over from one that died waits for what the machines still do for it.
"""

import contextlib
import logging
import platform
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.runtime import flow_run
from prefect.states import Cancelling, Completed, Crashed, Failed

from tasks.dvc import graph, lock_files
from tasks.dvc.graph import PlannedStage
from tasks.dvc.outcome import Fate, Outcome
from tasks.dvc.runner import Runner, dvc
from tasks.runtime import files, settings
from tasks.runtime.errors import EnvironmentFault, Preempted, Stop, UsageError
from tasks.runtime.locks import try_lock

DEPLOYMENT = "run-stage/machines"
AT_A_TIME = 64  # stages handed out; the workers' own limits bound what runs
POLL_SECONDS = 1.0
BEAT_SECONDS = 10.0
PATIENCE = {StateType.RUNNING: 120.0, StateType.CANCELLING: 120.0, StateType.PENDING: 1800.0}
"""Seconds without a sign of life until a machine is given up. More than the minute for which a busy SQLite may keep Prefect's
server from writing. Pending: a pod may wait for its image or for a node."""

CODE = ("ssl_core", "tasks", "dvc.yaml")


@flow(name="run-stage", flow_run_name="{stage}", persist_result=False)
def run_stage(stage: str, inputs: list[str], commit: str, params: str, lock: str, leader: str) -> State[None]:
    """Run one stage in this machine's clone; one at a time.

    Args:
        stage: its name in DVC.
        inputs: the stages whose outputs it reads.
        commit: of the code.
        params: content of params.yaml.
        lock: what dvc.lock says of the inputs.
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
    with _alive(runner), (root / ".ssl" / "machine.lock").open("a") as held:
        while not try_lock(held):
            time.sleep(POLL_SECONDS)
        try:
            files.write_text(root / "params.yaml", params)
            files.write_text(root / "dvc.lock", lock)
            _dvc(root, "pull", "--force", *inputs)

            def watch(lines: list[str]) -> None:
                for line in lines:
                    logger.info("%s", line)

            outcome = runner.run(stage, watch)
            if outcome.code:
                return Failed(message=str(outcome))
            graph.remember(root, [stage])
            graph.push_run_cache(root)
        except EnvironmentFault as fault:  # the remote may be back the next time
            return Failed(message=str(Outcome(fault.code, Fate.FAILED, str(fault))))
        except BaseException:  # a signal, a cancellation
            runner.stop()
            raise
    return Completed(message=outcome.how)


@contextlib.contextmanager
def _alive(runner: Runner) -> Iterator[None]:
    """Touch the flow run every few seconds, for as long as this process lives; stop its work once it was cancelled or given up.

    Prefect itself stops a cancelled one at once, but gives that up when its server is away for half a minute.
    """
    over, this = threading.Event(), UUID(flow_run.id)

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            try:
                with get_client(sync_client=True) as client:
                    client.update_flow_run(this, name=flow_run.name)
                    state = client.read_flow_run(this).state
                if state is not None and not state.is_running():
                    runner.stop()
            except Exception as error:  # the next one may get through
                logging.getLogger(__name__).debug("no sign of life: %s", error)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


class Machines:
    """Runs stages as ``Runner`` does, those of one method and seed on other machines."""

    def __init__(self, local: Runner, plan: Sequence[PlannedStage]):
        self.local, self.root = local, local.root
        self.stages = {stage.name: stage for stage in plan}
        self.commit = _git(self.root, "rev-parse", "HEAD")
        if _git(self.root, "status", "--porcelain", "--", *CODE):
            raise UsageError(f"other machines have only what is committed; commit the changes in {', '.join(CODE)} first")
        self._pushed: set[str] = set()
        self._pushing = threading.Lock()
        self._live: set[UUID] = set()
        self._stopping = threading.Event()

    def run(self, name: str, watch: Callable[[list[str]], None] = lambda lines: None) -> Outcome:
        """Bring one stage up to date, wherever; see ``Runner.run``."""
        if self.stages[name].parts.method is None:
            return self.local.run(name, watch)
        try:
            self._push(sorted(self.stages[name].after))
        except EnvironmentFault as fault:
            return Outcome(fault.code, Fate.FAILED, str(fault))
        state = self._elsewhere(name, watch)
        if not state.is_completed():
            return _outcome(state)
        return self.local.run(name, watch)

    def stop(self) -> None:
        """Start nothing more; cancel what runs elsewhere, interrupt what runs here."""
        self._stopping.set()
        with get_client(sync_client=True) as client:
            for flow_run_id in list(self._live):  # Prefect ends at once what waits, and lets be what has ended
                client.set_flow_run_state(flow_run_id, Cancelling())
        self.local.stop()

    def _push(self, names: Sequence[str]) -> None:
        with self._pushing:
            new = [name for name in names if name not in self._pushed]
            if new:
                _dvc(self.root, "push", *new)
                self._pushed.update(new)

    def _elsewhere(self, name: str, watch: Callable[[list[str]], None]) -> State[None]:
        """Have a machine run a stage; how its flow run ended."""
        inputs = sorted(self.stages[name].after)
        request = {
            "stage": name,
            "inputs": inputs,
            "commit": self.commit,
            "params": (self.root / "params.yaml").read_text(encoding="utf-8"),
            "lock": lock_files.lock_of(self.root, inputs),
            "leader": _here(self.root),
        }
        with get_client(sync_client=True) as client:
            started = _still_running(client, request)
            if self._stopping.is_set():
                raise Preempted(f"{name} was not started")
            if started is None:
                started = run_deployment(DEPLOYMENT, parameters=request, timeout=0, as_subflow=False)
            watch([f"waiting for a machine: flow run {started.name}"])
            self._live.add(started.id)
            if self._stopping.is_set():  # ``stop`` may have looked a moment before
                client.set_flow_run_state(started.id, Cancelling())
            try:
                return self._await(client, started.id)
            finally:
                self._live.discard(started.id)

    def _await(self, client: SyncPrefectClient, flow_run_id: UUID) -> State[None]:
        """The final state of a flow run; that of a machine which fell silent is ``Crashed``."""
        heard, since, answered = None, time.monotonic(), time.monotonic()
        while True:
            try:
                run = client.read_flow_run(flow_run_id)
            except httpx.TransportError:  # the server may be starting again; the machine works on
                if time.monotonic() - answered > PATIENCE[StateType.RUNNING] or self._stopping.wait(POLL_SECONDS):
                    raise
                continue
            answered = time.monotonic()
            if run.state is not None and run.state.is_final():
                return run.state
            if run.updated != heard:
                heard, since = run.updated, time.monotonic()
            elif run.state is not None and time.monotonic() - since > PATIENCE.get(run.state.type, float("inf")):
                client.set_flow_run_state(flow_run_id, Crashed(message="its machine gave no sign of life"), force=True)
            if self._stopping.wait(POLL_SECONDS):
                raise Preempted(f"{run.name} was cancelled")


def _still_running(client: SyncPrefectClient, request: dict[str, Any]) -> FlowRun | None:
    """The flow run that a machine still owes to the same request: of a flow in this directory that died."""
    mine = DeploymentFilter.model_validate({"name": {"any_": [DEPLOYMENT.partition("/")[2]]}})
    live = FlowRunFilter.model_validate({"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}}})
    runs = client.read_flow_runs(deployment_filter=mine, flow_run_filter=live)
    return next((run for run in runs if run.parameters == request), None)


def _outcome(state: State[None]) -> Outcome:
    """How a stage failed elsewhere; a machine that went away is no fault of the stage."""
    message = state.message or state.name or ""
    said = re.match(r"exit (\d+): (.*)", message, re.S)  # ``str`` of the machine's own Outcome
    if said:
        return Outcome(int(said[1]), Fate.FAILED, said[2])
    return Outcome(Stop.code if state.is_failed() else Preempted.code, Fate.FAILED, message)


def _dvc(root: Path, *arguments: str) -> None:
    fault = dvc(root, *arguments)
    if fault:
        raise EnvironmentFault(f"dvc {arguments[0]}: {fault}")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:  # no checkout, or one of another owner: git says which
        said = done.stderr.splitlines() or [f"exit code {done.returncode}"]
        raise EnvironmentFault(f"git {arguments[0]}: {said[0].removeprefix('fatal: ')}")
    return done.stdout.strip()


def _here(root: Path) -> str:
    return f"{platform.node()}:{root.resolve()}"
