"""A project with DVC's graph in the shape of the real one and stages of no work."""

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tasks.dvc.outcome import Fate, Outcome
from tasks.runtime.errors import Preempted
from tests.conftest import ROOT
from tests.support.example_results import write_project
from tests.support.forked import Forked
from tests.support.prefect_server import prefect_environment
from tests.support.processes import alive, cmdline, wait_for
from tests.support.project import commit, environment

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
    outs: ["out/metrics/${item.method}-${item.seed}.json": {cache: false}]
  report:
    cmd: python stage.py report reports
    deps: [stage.py, out/encoders, out/metrics]
    params: [run]
    outs: [reports]
metrics: [out/metrics]
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
    commit(project, "start")
    return project


def label_others(project: Path) -> None:
    """Have ``prepare`` make images without labels, and a file of labels of other images with the same names."""
    from tasks import few_labels, label

    example = write_project(project.parent / "example", ("simclr",), labelled=False) / "data/prepared"
    (example / "train_files.txt").write_text("".join(f'"{number}.png"\n' for number in range(400)))
    copied = f"if name == 'prepare':\n    shutil.copytree({str(example)!r}, outs[0], dirs_exist_ok=True)\n"
    (project / "stage.py").write_text(STAGE + copied)
    pool = few_labels.pool(project.parent / "example")
    other = replace(pool, images=pool.images[::-1])
    (project / few_labels.FILE).parent.mkdir()
    (project / few_labels.FILE).write_text(label.to_csv(range(40), other, {row: str(row % 2) for row in range(40)}))


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
    process = Forked(project, ("dvc", *arguments), environment())
    output = process.communicate(300)
    return subprocess.CompletedProcess(arguments, process.wait(), *output)


def is_clean(project: Path) -> bool:
    """dvc.lock has every stage and agrees with the workspace."""
    locked = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    return sorted(locked) == sorted(NAMES) and "up to date" in dvc(project, "status").stdout


def running_pid(project: Path, name: str) -> int:
    """The process of a stage, once it runs in this project (a number from a file alone may be somebody else's)."""
    path = project / ".ssl" / f"running-{name}"
    return int(
        wait_for(
            lambda: path.exists() and path.read_text() and int(path.read_text()) in stages_alive(project) and path.read_text(),
            seconds=180,
        )
    )


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
    done: queue.Queue[tuple[str, Outcome]] = queue.Queue()

    def one(planned: Any) -> None:
        try:
            done.put((planned.name, runner.run(planned.name)))
        except Preempted as stop:
            done.put((planned.name, Outcome(stop.code, Fate.FAILED, str(stop))))

    running = 0
    while True:
        for planned in schedule.ready(parallelism - running):
            running += 1
            if planned.stale:
                threading.Thread(target=one, args=(planned,)).start()
            else:
                done.put((planned.name, Outcome(0, Fate.UNCHANGED, "")))
        if not running:
            return
        schedule.finished(*done.get())
        running -= 1


Started = Forked | subprocess.Popen[str]
_started: list[Started] = []


def start(project: Path, *arguments: str, env: dict[str, str] | None = None, forked: bool = True) -> Started:
    """Start ``python -m ARGUMENTS`` against the server (or in ``env``); its output goes to ``.ssl/flow.log``."""
    env, log = env or prefect_environment(), project / ".ssl" / "flow.log"
    log.write_bytes(b"")
    process: Started
    if forked and arguments[0].startswith(("flows.", "prefect")):
        process = Forked(project, arguments, env, log)
    else:
        with log.open("a") as out:
            command = [sys.executable, "-m", *arguments]
            process = subprocess.Popen(
                command, cwd=project, env=env, stdout=out, stderr=subprocess.STDOUT, text=True, start_new_session=True
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


def finish(project: Path, *arguments: str, env: dict[str, str] | None = None, forked: bool = True) -> tuple[int, str]:
    """``start``, wait; the exit code and the output."""
    code = start(project, *arguments, env=env, forked=forked).wait(300)
    return code, (project / ".ssl" / "flow.log").read_text()
