"""What orchestration costs beside the work itself: ``python -m benchmarks.overhead``, five minutes on two idle cores.

In a clone of this project with ``presets/tiny.yaml``: what a stage costs that computes nothing, both ways to run everything,
how long a flow takes until it begins and to find that nothing changed, and what tracking takes from a training. Exit code 1
when a limit is missed.
"""

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import machine
from tasks.dvc import graph
from tasks.runtime import settings
from tasks.runtime.locks import try_lock
from tasks.tracking.journal import Journal
from tasks.tracking.mirror import DELAY_SECONDS, INTERVAL_SECONDS

WORK = Path(".ssl/overhead")
HOST, FLOW, BEGUN = "127.0.0.1", "flows.pipeline", "Beginning flow run"
EMPTY, SEEDS = ("raw_pixels", "random_init"), range(3)  # methods with nothing to train
STAGE = "a stage that computes nothing: Python, DVC, torch, journal, outputs"
TRACKING = "sending a training to MLflow, six at a time"
BEGINS, ENDS = "a flow begins, {}", "a flow finds nothing to do, {}"
ALONE, SERVED = "no server", "with a server"
ROW = "tracking: an epoch's row in the journal, durable; of an epoch of one second"
FOLLOW = "tracking: processor time until MLflow shows a training, once; of the time before that"
STEADY = "tracking: processor time to follow a training, a minute; of that minute"
SHARE, ROWS, TURNS = 0.02, 200, 3  # of the time of training; rows timed; sendings in the steady state
LIMITS = {
    STAGE: 5.0, TRACKING: 2.0,
    BEGINS.format(ALONE): 30.0, BEGINS.format(SERVED): 10.0, ENDS.format(ALONE): 10.0, ENDS.format(SERVED): 10.0,
    ROW: SHARE, FOLLOW: SHARE * DELAY_SECONDS, STEADY: SHARE * 60,
}  # fmt: skip
"""Seconds."""


def timed(project: Path, *arguments: str, marker: str = "", **environment: str) -> tuple[float, float]:
    """Run ``python -m ARGUMENTS``; seconds until a line holds ``marker``, and from there to the end."""
    command, env = [sys.executable, "-m", *arguments], {**os.environ, **environment}
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines, begun = [], start
    for line in process.stdout:
        lines.append(line)
        begun = time.perf_counter() if begun == start and marker in line else begun
    if process.wait():
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{''.join(lines[-20:])}")
    return begun - start, time.perf_counter() - begun


def clone(name: str, preset: str = "tiny") -> Path:
    """A fresh copy of the committed project with a preset."""
    project = WORK.resolve() / name
    shutil.rmtree(project, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", ".", str(project)], check=True)
    timed(project, "tasks.preset", preset)
    return project


def stages() -> dict[str, float]:
    """A stage without work, and sending what several of them measured to MLflow."""
    project = clone("stages")
    graph.override(project, [f"run.seeds={[*SEEDS]}".replace(" ", "")])
    timed(project, "dvc", "repro", "-s", "prepare")
    timed(project, "tasks.sync")  # makes MLflow's database, once in a project's life
    names = [f"pretrain@{method}-{seed}" for method in EMPTY for seed in SEEDS]
    empty = [sum(timed(project, "dvc", "--wait-for-lock", "repro", "-s", name)) for name in names]
    sync = sum(timed(project, "tasks.sync"))
    return {STAGE: statistics.median(empty), TRACKING: sync / len(names)}


def doors() -> dict[str, float]:
    """Everything, through both doors; then flows that find nothing to do."""
    run, flow = clone("run"), clone("flow")
    home = {"PREFECT_HOME": str(WORK.resolve() / "prefect")}
    shutil.rmtree(home["PREFECT_HOME"], ignore_errors=True)
    found = {"make run, everything": sum(timed(run, "tasks.run"))}
    found["make flow, everything"] = sum(timed(flow, FLOW, **home))
    found["make run, nothing to do"] = sum(timed(run, "tasks.run"))
    begin, rest = timed(run, FLOW, marker=BEGUN, **home)
    found |= {BEGINS.format(ALONE): begin, ENDS.format(ALONE): rest}
    with server(home) as url:
        timed(run, FLOW, **home, PREFECT_API_URL=url)
        begin, rest = timed(run, FLOW, marker=BEGUN, **home, PREFECT_API_URL=url)
    return found | {BEGINS.format(SERVED): begin, ENDS.format(SERVED): rest}


def tracking() -> dict[str, float]:
    """The journal's own time, and the processor time of the mirror (``tasks.tracking.mirror``) beside two-second epochs."""
    project = clone("tracking")
    timed(project, "tasks.sync")  # makes MLflow's database, once in a project's life
    work = project / ".ssl/work/pretrain@simclr-0/measured"
    work.mkdir(parents=True)
    row = {f"train/metric{i}": i / 7 for i in range(12)}
    with (work / ".lock").open("a+") as lock, Journal(work / "journal.jsonl") as journal:
        try_lock(lock)  # a journal whose directory nobody holds is a killed run
        facts = {"name": "simclr", "seed": 0, "tags": {}, "params": {}, "data": {"name": "sample", "sha256": "0" * 64}}
        journal.start(fingerprint="0" * 64, stage="pretrain@simclr-0", **facts)
        durable = []
        for epoch in range(ROWS):
            start = time.perf_counter()
            journal.metrics(epoch, row)
            assert journal.position
            durable.append(time.perf_counter() - start)
        command = [sys.executable, "-m", "tasks.sync", "--follow", str(journal.path), "--interval", str(INTERVAL_SECONDS)]
        process = subprocess.Popen(command, cwd=project, stdin=subprocess.PIPE)
        assert process.stdin is not None
        spent = []
        for turn in range(TURNS + 1):
            for epoch in range(10 * turn, 10 * turn + 10):
                journal.metrics(ROWS + epoch, row)
                time.sleep(INTERVAL_SECONDS / 10)
            if process.poll() is not None:
                raise RuntimeError("the mirror ended")
            spent.append(processor(process.pid))
        process.stdin.close()
        process.wait()
    return {
        ROW: statistics.median(durable),
        FOLLOW: spent[0],
        STEADY: (spent[-1] - spent[0]) / (TURNS * INTERVAL_SECONDS) * 60,
    }


def processor(pid: int) -> float:
    """Seconds of processor time a process has used (Linux)."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def server(home: dict[str, str]) -> Iterator[str]:
    """Prefect's server, as ``make ui`` starts it; its address."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", "flows.server:create_app", "--host", HOST, "--port", str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=os.environ | home, stdout=quiet, stderr=quiet)
    try:
        while not answers(port):
            if process.poll() is not None:
                raise RuntimeError("Prefect's server did not start")
            time.sleep(0.2)
        yield f"http://{HOST}:{port}/api"
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def main() -> int:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=(__doc__ or "").partition("\n")[0])
    known = {"stages": stages, "doors": doors, "tracking": tracking}
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(known)}; default all")
    parts = parser.parse_args().parts or known
    settings.apply()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ.pop("MLFLOW_TRACKING_URI")  # every copy has a store of its own
    os.environ.pop("PREFECT_API_URL", None)
    found: dict[str, float] = {}
    for part in parts:
        found |= known[part]()
    shutil.rmtree(WORK)
    limits = {name: f"{LIMITS[name]:g} s" if name in LIMITS else "" for name in found}
    rows = [f"| {name} | {seconds:.{1 if seconds >= 1 else 4}f} s | {limits[name]} |" for name, seconds in found.items()]
    print("\n".join([*machine(), "", "| what | measured | at most |", "|---|--:|--:|", *rows]))
    return int(any(seconds > LIMITS.get(name, seconds) for name, seconds in found.items()))


if __name__ == "__main__":
    sys.exit(main())
