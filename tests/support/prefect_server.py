"""One Prefect server for all tests of a process: starting it, asking it, killing it."""

import atexit
import fcntl
import functools
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import ROOT
from tests.support.forked import LIBRARIES, Forked
from tests.support.processes import wait_for
from tests.support.project import environment

PARTS = (
    "main",
    "cli.deploy",
    "cli.deployment",
    "cli.flow_run",
    "cli.work_pool",
    "cli.worker",
    "server.api.server",
    "workers.process",
)
"""Of Prefect: what its commands and its server import."""
_server: list[Forked] = []
_home: list[Path] = []


@functools.cache
def prefect_environment() -> dict[str, str]:
    """The environment of a command that talks to the tests' own server, which starts at the first call."""
    LIBRARIES.extend(f"prefect.{part}" for part in PARTS)
    home = tempfile.mkdtemp(prefix="prefect-")
    shutil.copyfile(migrated(), Path(home, "prefect.db"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = environment(
        PREFECT_HOME=home,
        PREFECT_API_URL=f"http://127.0.0.1:{port}/api",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        PREFECT_SERVER_UI_ENABLED="false",
        DO_NOT_TRACK="true",
        PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS="2",
        PREFECT_WORKER_QUERY_SECONDS="1",
        PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS="3",
        PYTHONPATH=os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p),
    )
    _home.append(Path(home))
    start_server(settings)
    atexit.register(leave)
    return settings


def leave() -> None:
    """End the server, if there is one; who needs one after it gets another."""
    while _home:
        end_server()
        shutil.rmtree(_home.pop(), ignore_errors=True)
    prefect_environment.cache_clear()


def migrated() -> Path:
    """The database that Prefect's migrations make, 7 seconds of a processor: kept from one run of the tests to the next."""
    kept = ROOT / ".pytest_cache" / f"prefect-{version('prefect')}.db"
    kept.parent.mkdir(exist_ok=True)
    with kept.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several workers one makes it
        if not kept.exists():
            with tempfile.TemporaryDirectory() as home:
                command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
                subprocess.run(command, env=environment(PREFECT_HOME=home), check=True, stdout=subprocess.DEVNULL)
                shutil.move(Path(home, "prefect.db"), kept)
    return kept


def start_server(settings: dict[str, str]) -> None:
    """Start the tests' server; after ``end_server`` it is the one that died, with all it knew."""
    port = settings["PREFECT_API_URL"].rpartition(":")[2].removesuffix("/api")
    command = ("uvicorn", "--factory", "flows.server:create_app", "--host", "127.0.0.1", "--port", port)
    server = Forked(ROOT, command, settings, Path(settings["PREFECT_HOME"], "server.log"))
    _server[:] = [server]
    wait_for(lambda: server.poll() is None and answers(f"{settings['PREFECT_API_URL']}/health"), 180)


def server_pid() -> int:
    """The process of the tests' server."""
    return _server[0].pid


def restart_server(number: int) -> None:
    """Kill the server and start it again, as whoever runs one would."""
    end_server(number)
    start_server(prefect_environment())


def end_server(number: int = signal.SIGKILL) -> None:
    """Send a signal to all processes of the tests' server."""
    os.killpg(_server[0].pid, number)
    _server[0].wait(60)


@functools.cache
def _client() -> httpx.Client:
    """One for all requests: each new one reads the certificates, a twentieth of a second."""
    return httpx.Client(timeout=30)


def answers(url: str) -> bool:
    try:
        return _client().get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def api(path: str, json: Any = None, **body: Any) -> Any:
    """POST to the tests' server: ``json``, or the keywords as an object."""
    return _request("POST", path, body if json is None else json).json()


def patch(path: str, **body: Any) -> None:
    """PATCH on the tests' server."""
    _request("PATCH", path, body)


def cli(project: Path, *lines: str) -> str:
    """Run ``prefect LINE`` for each; what they print."""
    return "".join(_prefect(project, *shlex.split(line)) for line in lines)


def _prefect(project: Path, *arguments: str) -> str:
    process = Forked(project, ("prefect", *arguments), prefect_environment())
    said = "".join(process.communicate(300))
    assert process.wait() == 0, said
    return said


def _request(verb: str, path: str, body: Any) -> httpx.Response:
    """Ask again while the server's database is busy (503), as Prefect's own client does, and where a look took too long."""
    url = f"{prefect_environment()['PREFECT_API_URL']}/{path}"

    def answered() -> httpx.Response | None:
        try:
            answer = _client().request(verb, url, json=body)
        except httpx.ReadTimeout:
            if path.endswith("/filter"):  # it changes nothing; what creates something may have done so
                return None
            raise
        return answer if answer.status_code != 503 else None

    answer: httpx.Response = wait_for(answered, 120)
    if answer.is_error:
        raise AssertionError(f"{verb} {path}: {answer.status_code} {answer.text}")
    return answer


def now(plus: float = 0.0) -> str:
    """The time as Prefect takes it, ``plus`` seconds."""
    return (datetime.now(UTC) + timedelta(seconds=plus)).isoformat()


def zombies(since: str) -> list[dict[str, Any]]:
    """Flow runs that started after ``since`` and have not ended."""
    unfinished = {"start_time": {"after_": since}, "state": {"type": {"any_": ["RUNNING", "CANCELLING", "PENDING"]}}}
    return list(api("flow_runs/filter", flow_runs=unfinished))


def newest_run(flow: str = "ssl-pipeline") -> dict[str, Any]:
    """The last one that was to begin by now; a schedule that a test made may hold more."""
    begun = {"expected_start_time": {"before_": now(1)}}
    runs = api("flow_runs/filter", flows={"name": {"any_": [flow]}}, flow_runs=begun, sort="EXPECTED_START_TIME_DESC", limit=1)
    return dict(runs[0])


def task_states(flow_run_id: str) -> dict[str, str]:
    """State name of each task run of a flow run."""
    rows = api("task_runs/filter", flow_runs={"id": {"any_": [flow_run_id]}})
    return {row["name"]: row["state_name"] for row in rows}
