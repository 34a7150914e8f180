"""Flow runs that died without a word: closed by the next flow, or by ``python -m flows.runs``.

Prefect cannot know that a directly started flow was killed; its run would stay ``Running`` for ever. So each flow holds a
lock on ``.ssl/flows/ID``: a file whose lock is free belongs to a dead flow.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from tasks.locks import try_lock


@contextlib.contextmanager
def registered(root: Path, flow_run_id: str) -> Iterator[None]:
    """Mark this flow run as alive until the block or the process ends; close the dead ones first."""
    directory = root / ".ssl" / "flows"
    directory.mkdir(parents=True, exist_ok=True)
    close_dead(root)
    path = directory / flow_run_id
    with path.open("a") as file:
        try_lock(file)
        yield
        path.unlink(missing_ok=True)


def close_dead(root: Path) -> list[str]:
    """Set the runs of dead flows to ``Crashed``; returns their ids."""
    closed = []
    for path in sorted((root / ".ssl" / "flows").glob("*")):
        with path.open("a") as file:
            if not try_lock(file):
                continue
            with get_client(sync_client=True) as client, contextlib.suppress(ObjectNotFound):
                state = client.read_flow_run(UUID(path.name)).state
                if state is not None and not state.is_final():
                    client.set_flow_run_state(UUID(path.name), Crashed(message="its process is gone"), force=True)
                    closed.append(path.name)
            path.unlink(missing_ok=True)
    return closed


if __name__ == "__main__":
    for flow_run in close_dead(Path.cwd()):
        print(f"closed flow run {flow_run}: its process is gone")
