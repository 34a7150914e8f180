"""Flow runs that died without a word: closed by the next flow, or by ``python -m flows.runs``.

Prefect cannot know that a directly started flow was killed; its run would stay ``Running`` for ever. So each flow holds a
lock on ``.ssl/flows/ID``: a file whose lock is free belongs to a dead flow. Between the moment when Prefect has the run and the
one when the flow learns its id, the lock is on ``.ssl/flows/MARK``, and the run has MARK for a tag.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from prefect import tags
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from flows import own_server
from tasks.runtime.errors import run
from tasks.runtime.locks import try_lock

GONE = Crashed(message="its process is gone")

_alive: list[IO[str]] = []


@contextlib.contextmanager
def marked(root: Path) -> Iterator[None]:
    """Flow runs that begin in this block can be told from those of other processes before they are registered."""
    mark = f"process-{os.getpid()}-{secrets.token_hex(4)}"
    path = root / ".ssl" / "flows" / mark
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file, tags(mark):
        try_lock(file)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def register(root: Path, flow_run_id: str) -> None:
    """Mark this flow run as alive until this process ends; close the dead ones first."""
    path = root / ".ssl" / "flows" / flow_run_id
    path.parent.mkdir(parents=True, exist_ok=True)
    _alive.append(path.open("a"))
    try_lock(_alive[-1])
    close_dead(root)


def forget(_flow: Any, run: FlowRun, _state: Any) -> None:
    """The server knows how this run ended: there is nothing left to close."""
    (Path.cwd() / ".ssl" / "flows" / str(run.id)).unlink(missing_ok=True)


def close_dead(root: Path) -> list[str]:
    """Set the runs of dead flows to ``Crashed``; returns their ids."""
    closed = []
    for path in sorted((root / ".ssl" / "flows").glob("*")):
        with path.open("a") as file:
            if not try_lock(file):
                continue
            with get_client(sync_client=True) as client, contextlib.suppress(ObjectNotFound):
                for found in _runs_of(client, path.name):
                    if found.state is not None and not found.state.is_final():
                        _close_tasks(client, found.id)
                        client.set_flow_run_state(found.id, GONE, force=True)
                        closed.append(str(found.id))
            path.unlink(missing_ok=True)
    return closed


def _runs_of(client: SyncPrefectClient, name: str) -> list[FlowRun]:
    """The flow run of an id, or those with a mark."""
    if name.startswith("process-"):
        return client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"tags": {"all_": [name]}}))
    return [client.read_flow_run(UUID(name))]


def _close_tasks(client: SyncPrefectClient, flow_run_id: UUID) -> None:
    """Its stages that still count as running: whether one went on, the next flow shows."""
    mine = FlowRunFilter.model_validate({"id": {"any_": [flow_run_id]}})
    live = TaskRunFilter.model_validate({"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}})
    for task in client.read_task_runs(flow_run_filter=mine, task_run_filter=live):
        client.set_task_run_state(task.id, GONE, force=True)


def main() -> None:
    """Close what is left, and say what."""
    own_server.prepare()
    for flow_run in close_dead(Path.cwd()):
        print(f"closed flow run {flow_run}: its process is gone")


if __name__ == "__main__":
    run(main)
