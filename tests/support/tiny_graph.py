"""A project with DVC's graph in the shape of the real one and stages of no work, and one Prefect server for all tests."""

import atexit
import contextlib
import functools
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import yaml

from tasks.runtime.errors import Preempted
from tests.conftest import ROOT
from tests.support.project import environment

STAGE = """
import json, os, pathlib, shutil, signal, sys, time
name, *outs = sys.argv[1:]
root = pathlib.Path(os.environ["DVC_ROOT"])  # the workspace, also from an experiment's copy of it
control = json.loads((root / "control.json").read_text()).get(name, {})
with open(root / "runs.log", "a") as log:
    log.write(name + "\\n")
if control.get("stubborn"):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
(root / f".ssl/running-{name}").write_text(str(os.getpid()))
work = root / f".ssl/work/{name}/0123456789abcdef"
work.mkdir(parents=True, exist_ok=True)
for i in range(10):
    state = {"label": name, "done": i + 1, "total": 10, "status": f"{10 * i + 10} %  epoch {i + 1}/10  5 images/s  0:01 left"}
    (work / "progress.json").write_text(json.dumps(state))
    time.sleep(control.get("seconds", 0) / 10)
once = root / f".ssl/once-{name}"
if control.get("code") and not (control.get("once") and once.exists()):
    once.touch()
    sys.exit(control["code"])
print("worked on", name, flush=True)
for out in outs:
    path = pathlib.Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.write_text(json.dumps({"knn_top1": len(name)}))
    else:
        path.mkdir()
        rows = sorted(p.name for p in pathlib.Path("out/metrics").glob("*.json")) if name == "report" else [name]
        (path / "leaderboard.csv").write_text("method,seed\\n" + "".join(f"{r},0\\n" for r in rows))
"""

GRAPH = """
stages:
  prepare:
    cmd: python stage.py prepare data/prepared
    deps: [stage.py, "${data.path}"]
    params: [data]
    outs: [data/prepared]
  pretrain:
    matrix: {method: "${run.methods}", seed: "${run.seeds}"}
    cmd: python stage.py pretrain@${item.method}-${item.seed} out/encoders/${item.method}-${item.seed}
    deps: [stage.py, data/prepared]
    params: [train, "method.${item.method}"]
    outs: ["out/encoders/${item.method}-${item.seed}"]
  evaluate:
    matrix: {method: "${run.methods}", seed: "${run.seeds}"}
    cmd: python stage.py evaluate@${item.method}-${item.seed} out/metrics/${item.method}-${item.seed}.json
    deps: [stage.py, "out/encoders/${item.method}-${item.seed}"]
    metrics: ["out/metrics/${item.method}-${item.seed}.json": {cache: false}]
  report:
    cmd: python stage.py report reports
    deps: [stage.py, out/encoders, out/metrics]
    params: [run]
    outs: [reports]
"""

SHIPPED = yaml.safe_load((ROOT / "params.yaml").read_text())
PARAMS = "run:\n  methods: [simclr, byol]   # what to compare\n  seeds: [0]\n" + yaml.safe_dump(
    {
        "data": SHIPPED["data"] | {"source": "folder", "path": "images"},
        **{section: SHIPPED[section] for section in ("encoder", "augment", "evaluate")},
        "train": SHIPPED["train"] | {"epochs": 1, "threads": 1},
        "method": {name: SHIPPED["method"][name] | {"train": {"lr": 1}} for name in ("simclr", "byol")},
    }
)

IDENTITY = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
NAMES = ["prepare", "pretrain@simclr-0", "pretrain@byol-0", "evaluate@simclr-0", "evaluate@byol-0", "report"]


def make(project: Path) -> Path:
    """The tiny project in ``project``, a git repository with one commit."""
    project.mkdir(parents=True)
    for name in (".dvc/config", ".dvcignore", "prefect.yaml"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, project / name)
    texts = {
        "stage.py": STAGE,
        "dvc.yaml": GRAPH,
        "params.yaml": PARAMS,
        "images/0.png": "an image",
        ".gitignore": "/.ssl/\n/mlruns/\n/runs.log\n/control.json\n/.dvc/tmp\n",
    }
    for name, text in texts.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
    (project / ".ssl").mkdir()
    control(project)
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], [*IDENTITY, "commit", "-q", "-m", "start"]):
        subprocess.run(["git", *arguments], cwd=project, check=True)
    return project


def control(project: Path, **stages: dict[str, Any]) -> None:
    """How stages behave (``seconds``, ``code``, ``once``, ``stubborn``); a name's ``@`` and ``-`` are written ``_``."""
    named = {name: stages[key] for name in NAMES for key in [name.replace("@", "_").replace("-", "_")] if key in stages}
    assert len(named) == len(stages)
    (project / "control.json").write_text(json.dumps(named))


def computed(project: Path) -> list[str]:
    """Every stage command that ran so far."""
    log = project / "runs.log"
    return log.read_text().split() if log.exists() else []


def set_lr(project: Path, method: str, lr: int) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["method"][method]["train"]["lr"] = lr
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def dvc(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=project, env=environment(), capture_output=True, text=True, timeout=300
    )


def is_clean(project: Path) -> bool:
    """dvc.lock has every stage and agrees with the workspace."""
    locked = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    return sorted(locked) == sorted(NAMES) and "up to date" in dvc(project, "status").stdout


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


def running_pid(project: Path, name: str) -> int:
    """The process of a stage, once it runs in this project (a number from a file alone may be somebody else's)."""
    path = project / ".ssl" / f"running-{name}"
    return int(
        wait_for(
            lambda: path.exists() and path.read_text() and int(path.read_text()) in stages_alive(project) and path.read_text()
        )
    )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def cmdline(pid: int) -> bytes:
    """The command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def stages_alive(project: Path) -> list[int]:
    """Stage and dvc processes that work in ``project``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            here = (entry / "cwd").resolve() == project.resolve()
        except OSError:
            continue
        command = cmdline(int(entry.name)) if here else b""
        if any(part in command for part in (b"stage.py", b"repro", b"-m\0tasks.")) and alive(int(entry.name)):
            found.append(int(entry.name))
    return found


def computing(project: Path) -> list[int]:
    """Stages that work in ``project``: not dvc, nor the shell between."""
    noted = {path.read_text() for path in (project / ".ssl").glob("running-*")}
    return [pid for pid in stages_alive(project) if str(pid) in noted]


def run_all(schedule: Any, runner: Any, parallelism: int = 3) -> None:
    """What the flow does, without Prefect: run what is ready, several at a time."""
    done: queue.Queue[tuple[str, str, str]] = queue.Queue()

    def one(planned: Any) -> None:
        try:
            outcome = runner.run(planned.name)
            fates = {"ran": "Completed", "unchanged": "Unchanged", "restored": "Restored", "failed": "Failed"}
            done.put((planned.name, fates[outcome.how], f"exit {outcome.code}: {outcome.message}"))
        except Preempted as stop:
            done.put((planned.name, "Failed", str(stop)))

    running = 0
    while True:
        for planned in schedule.ready(parallelism - running):
            running += 1
            threading.Thread(target=one, args=(planned,)).start()
        if not running:
            return
        schedule.finished(*done.get())
        running -= 1


# ---------------------------------------------------------------------- Prefect

_started: list[subprocess.Popen[str]] = []
_server: list[subprocess.Popen[bytes]] = []


@functools.cache
def prefect_environment() -> dict[str, str]:
    """The environment of a command that talks to the tests' own server, which starts at the first call."""
    home = tempfile.mkdtemp(prefix="prefect-")
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
        PYTHONPATH=os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p),
    )
    start_server(settings)

    def end() -> None:
        end_server()
        shutil.rmtree(home, ignore_errors=True)

    atexit.register(end)
    return settings


def start_server(settings: dict[str, str]) -> None:
    """Start the tests' server; after ``end_server`` it is the one that died, with all it knew."""
    port = settings["PREFECT_API_URL"].rpartition(":")[2].removesuffix("/api")
    command = [sys.executable, "-m", "uvicorn", "--factory", "flows.server:create_app", "--host", "127.0.0.1", "--port", port]
    with Path(settings["PREFECT_HOME"], "server.log").open("a") as log:
        server = subprocess.Popen(command, env=settings, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
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


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def api(path: str, json: Any = None, **body: Any) -> Any:
    """POST to the tests' server: ``json``, or the keywords as an object."""
    return _request("POST", path, body if json is None else json).json()


def patch(path: str, **body: Any) -> None:
    """PATCH on the tests' server."""
    _request("PATCH", path, body)


def _request(verb: str, path: str, body: Any) -> httpx.Response:
    """Ask again while the server's database is busy (503), as Prefect's own client does."""
    url = f"{prefect_environment()['PREFECT_API_URL']}/{path}"
    answer: httpx.Response = wait_for(lambda: (a := httpx.request(verb, url, json=body, timeout=30)).status_code != 503 and a)
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
    runs = api("flow_runs/filter", flows={"name": {"any_": [flow]}}, sort="EXPECTED_START_TIME_DESC", limit=1)
    return dict(runs[0])


def task_states(flow_run_id: str) -> dict[str, str]:
    """State name of each task run of a flow run."""
    rows = api("task_runs/filter", flow_runs={"id": {"any_": [flow_run_id]}})
    return {row["name"]: row["state_name"] for row in rows}


def start(project: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start ``python -m ARGUMENTS`` against the server (or with ``env``); its output goes to ``.ssl/flow.log``."""
    with (project / ".ssl" / "flow.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=project,
            env=env or prefect_environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    _started.append(process)
    return process


def end_all(project: Path) -> None:
    """Kill what a test started and left: its commands, and the stages in its project."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for pid in stages_alive(project):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def finish(project: Path, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """``start``, wait; the exit code and the output."""
    code = start(project, *arguments, env=env).wait(300)
    return code, (project / ".ssl" / "flow.log").read_text()
