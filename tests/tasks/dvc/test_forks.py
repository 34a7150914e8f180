"""Stages as forks: what a new Python would have been, whatever becomes of them. Real DVC, stages of a few lines."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks.dvc import forks, lock_files
from tasks.dvc.outcome import Outcome
from tasks.dvc.runner import Runner
from tasks.runtime.errors import Preempted
from tests.conftest import ROOT
from tests.support.processes import alive, cmdline, wait_for
from tests.support.project import commit, environment

LOOK = """
import atexit, json, os, pathlib, signal, sys, threading, time
from tasks import while_looked_for, word
out, what = pathlib.Path("out") / sys.argv[1], sys.argv[2]
out.parent.mkdir(exist_ok=True)
if what == "look":
    found = {
        "argv": sys.argv[1:], "looked_for": while_looked_for, "program": sys.argv[0],
        "forked": "dvc" in sys.modules, "name": __name__,
        "package": __spec__.name,
        "main": sys.modules["__main__"].__dict__ is globals(), "directory": os.getcwd(), "path": sys.path,
        "signals": {int(n): str(signal.getsignal(n)) for n in signal.valid_signals() if signal.getsignal(n) is not None},
        "environment": dict(os.environ), "input": os.readlink("/proc/self/fd/0"),
        "output": [os.readlink(f"/proc/self/fd/{n}") for n in (1, 2)], "threads": len(os.listdir("/proc/self/task")),
        "ours": sorted(name for name in sys.modules if name.startswith("tasks")),
        "command": pathlib.Path("/proc/self/cmdline").read_bytes().rstrip(b"\\0").decode(),
        "group": os.getpgid(0) == os.getpgid(os.getppid()),
    }
    out.write_text(json.dumps(found))
elif what == "wait":
    pathlib.Path("waits").write_text(str(os.getpid()))
    time.sleep(600)
elif what == "word":
    out.write_text(word.WORD)
elif what == "late":
    out.write_text("at the end ")
    atexit.register(lambda: out.open("a").write("last"))
    threading.Thread(target=lambda: (time.sleep(0.3), out.open("a").write("of a thread "))).start()
elif what == "burn":
    out.touch()
    while time.process_time() < 0.8:
        pass
elif what == "file":
    last = {"file": out.open("w")}
    last["cycle"] = last
    last["file"].write("written at the end")
elif what == "words":
    sys.exit("the disk is on fire")
elif what == "interrupt":
    raise KeyboardInterrupt
elif what == "raise":
    raise RuntimeError("as Python shows it")
else:
    sys.exit(int(what))
"""
RUN = """
from pathlib import Path
from tasks.dvc.runner import Runner
runner = Runner(Path.cwd())
with runner.forking(2):
    runner.run("is-wait")
"""
STAGES = {
    **{name: f"python -m tasks.look {name} look" for name in ("first", "second")},
    **{
        f"is-{what}": f"python -m tasks.look is-{what} {what}"
        for what in ("wait", "late", "burn", "file", "words", "interrupt", "raise", "3", "0")
    },
    **{f"word-{n}": f"python -m tasks.look word-{n} word" for n in range(2)},
    "shell": "python -m tasks.look shell word && echo of a shell >> out/shell",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a stage for each thing that can become of one."""
    root = tmp_path / "p"
    for name in ("__init__.py", "dvc/__init__.py", "dvc/forks.py"):
        (root / "tasks" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / "tasks" / name, root / "tasks" / name)
    server = root / "tasks/dvc/forks.py"
    server.write_text(server.read_text().replace(', "torch")', ")"))  # seconds that these stages do not need
    with (root / "tasks/__init__.py").open("a") as package:
        package.write("import sys\nwhile_looked_for = sys.argv[0]\n")
    (root / "tasks/look.py").write_text(LOOK)
    (root / "tasks/word.py").write_text('WORD = "one"\n')
    stages = {name: {"cmd": command, "outs": [f"out/{name}"]} for name, command in STAGES.items()}
    (root / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    (root / ".dvc").mkdir()
    shutil.copyfile(ROOT / ".dvc/config", root / ".dvc/config")
    commit(root, "start")
    return root


@pytest.fixture
def runner(project: Path) -> Iterator[Runner]:
    """One whose stages are forks."""
    forking = Runner(project, grace=2.0)
    with forking.forking(2):
        yield forking
        forking.stop()


def log(project: Path, name: str) -> str:
    return (project / ".ssl/logs" / f"{name}.log").read_text()


def test_a_fork_is_what_a_new_python_would_be(project: Path, runner: Runner) -> None:
    assert Runner(project).run("first").code == runner.run("second").code == 0
    new, forked = (json.loads((project / "out" / name).read_text()) for name in ("first", "second"))
    for found, name in ((new, "first"), (forked, "second")):
        assert found["argv"] == [name, "look"] and found.pop("command").endswith(f"-m\0tasks.look\0{name}\0look")
        assert found["environment"].pop("DVC_STAGE") == name and found.pop("argv")
        assert [Path(path).name for path in found.pop("output")] == [f"{name}.log"] * 2
        for other in ("_", "SHLVL", "PWD", "OLDPWD", "PYTEST_CURRENT_TEST"):  # of a shell, and of the tests
            found["environment"].pop(other, None)
    assert not new.pop("forked") and forked.pop("forked")
    assert new.pop("looked_for") == forked.pop("looked_for") == "-m"
    assert new == forked and forked["main"] and forked["threads"] == 1


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("3", 3, ""),
        ("words", 1, "the disk is on fire"),
        ("raise", 1, "RuntimeError: as Python shows it"),
        ("interrupt", 130, "KeyboardInterrupt"),
        ("0", 4, ""),
    ],
)
def test_how_a_stage_ended(project: Path, runner: Runner, what: str, code: int, said: str) -> None:
    """The last one ends well, and DVC misses its output."""
    for each in (Runner(project), runner):
        outcome = each.run(f"is-{what}")
        assert "forks.py" not in log(project, f"is-{what}")
        assert outcome.code == code and outcome.how == "failed", outcome
        assert said in log(project, f"is-{what}")


def test_what_a_stage_leaves_to_its_end_is_done(project: Path, runner: Runner) -> None:
    assert runner.run("is-file").code == runner.run("is-late").code == 0
    assert (project / "out/is-file").read_text() == "written at the end"
    assert (project / "out/is-late").read_text() == "at the end of a thread last"


def test_a_stage_runs_the_code_that_is_there_when_it_starts(project: Path, runner: Runner) -> None:
    assert runner.run("word-0").code == 0
    (project / "tasks/word.py").write_text('WORD = "another"\n')
    assert runner.run("word-1").code == 0
    assert [(project / f"out/word-{n}").read_text() for n in range(2)] == ["one", "another"]


def test_a_command_for_a_shell_gets_one(project: Path, runner: Runner) -> None:
    assert runner.run("shell").code == 0
    assert (project / "out/shell").read_text() == "oneof a shell\n"


@pytest.mark.parametrize(("victim", "code"), [("stage", 137), ("dvc", 75)])
@pytest.mark.fault("F13", "R8")
def test_after_kill_9_nothing_of_a_fork_works_on(project: Path, runner: Runner, victim: str, code: int) -> None:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(runner.run("is-wait")))
    thread.start()
    stage = waiting(project)
    above = os.getpgid(stage)
    assert cmdline(above).startswith(b"\0".join(map(os.fsencode, (sys.executable, "-m", "dvc", "--wait-for-lock", "repro"))))
    os.kill(stage if victim == "stage" else above, signal.SIGKILL)
    thread.join(60)
    assert outcomes[0].code == code and not alive(stage)
    assert runner.run("first").code == 0


def test_without_the_server_stages_start_as_new_processes(project: Path, runner: Runner) -> None:
    assert runner.run("first").code == 0
    server = server_of(os.getpid())
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: not alive(server))
    assert runner.run("second").code == 0


def test_what_a_module_prints_is_the_same_of_a_fork_and_of_a_new_python(project: Path, runner: Runner) -> None:
    (project / "tasks/say.py").write_text(
        "import sys\nprint(*sys.argv[1:], __name__, __spec__.name, 'dvc' in sys.modules, flush=True)\nsys.exit('and why')\n"
    )
    assert Runner(project).ask("tasks.say", "a b", "c") == ["a b c __main__ tasks.say False", "and why"]
    assert runner.run("first").code == 0  # the server has imported what it imports
    assert runner.ask("tasks.say", "a b", "c") == ["a b c __main__ tasks.say True", "and why"]


def test_a_question_ends_when_the_run_is_stopped(project: Path, runner: Runner) -> None:
    answers: list[list[str]] = []
    thread = threading.Thread(target=lambda: answers.append(runner.ask("tasks.look", "x", "wait")))
    thread.start()
    asked = waiting(project)
    runner.stop()
    thread.join(60)
    assert not alive(asked) and "KeyboardInterrupt" in answers[0][-1]
    with pytest.raises(Preempted):
        runner.ask("tasks.look", "x", "wait")


def test_a_server_that_does_not_answer_is_not_waited_for(project: Path, runner: Runner) -> None:
    server = server_of(os.getpid())
    os.kill(server, signal.SIGSTOP)
    try:
        assert runner.run("first").code == 0
    finally:
        os.kill(server, signal.SIGCONT)
    assert json.loads((project / "out/first").read_text())["forked"] is False
    assert runner.run("second").code == 0 and json.loads((project / "out/second").read_text())["forked"]
    assert log(project, "first").count("Running stage") == 1, "what was asked for in vain is not done"


def test_a_run_in_the_background_can_be_stopped_and_has_the_time_of_its_stages(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a script starts it with ``&``, it ignores Ctrl-C; its stages must not."""
    monkeypatch.setattr(forks, "END_SECONDS", 60.0)  # it may be importing when it is to end
    monkeypatch.setattr(forks, "REAP_SECONDS", 2.0)  # other tests work beside it
    background, before = Runner(project), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    answer = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with background.forking(2):
            assert background.run("first").code == background.run("is-burn").code == 0
    finally:
        signal.signal(signal.SIGINT, answer)
    found = json.loads((project / "out/first").read_text())
    assert found["forked"] and "default_int_handler" in found["signals"][str(int(signal.SIGINT))]
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before > 0.8


@pytest.mark.fault("F4")
def test_a_stage_that_is_interrupted_as_it_starts_does_not_run(project: Path, runner: Runner) -> None:
    outcomes: list[Outcome] = []
    waits = [0.0, 0.002, 0.02, 0.1, 0.3, 0.5]
    while waits and len(outcomes) < 12:
        lock_files.repair(project)  # as every run does first: a signal may have cut off what DVC was writing
        thread = threading.Thread(target=lambda: outcomes.append(runner.run("is-wait")))
        thread.start()
        wait_for(lambda thread=thread: runner._live or not thread.is_alive(), pause=0.001)
        time.sleep(waits[0])
        if wait_for(lambda thread=thread: interrupted(runner) or (not thread.is_alive() and "over"), pause=0.001) is True:
            waits.pop(0)
        thread.join(60)
        assert not thread.is_alive() and outcomes[-1].how == "failed", log(project, "is-wait")
    assert not waits, outcomes  # a try that was over before the signal proves nothing


def interrupted(runner: Runner) -> bool:
    """Interrupt what the runner has started; False where nothing of it runs at the moment."""
    for process in tuple(runner._live):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
            return True
    return False


@pytest.mark.fault("F13")
def test_the_server_ends_with_a_run_that_is_killed_and_the_stage_goes_on(project: Path) -> None:
    run = subprocess.Popen([sys.executable, "-P", "-c", RUN], cwd=project, env=environment(PYTHONPATH=str(ROOT)))
    stage = waiting(project)
    server = server_of(run.pid)
    run.kill()
    run.wait()
    wait_for(lambda: not alive(server))
    assert alive(stage)
    os.killpg(os.getpgid(stage), signal.SIGKILL)
    wait_for(lambda: not alive(stage))


def test_a_process_that_was_forked_with_threads_starts_a_new_python(project: Path) -> None:
    """Locks that another thread holds would never be free in a fork."""
    source = project / "tasks/dvc/forks.py"
    held = "    threading.Thread(target=threading.Event().wait, daemon=True).start()\n    in_a_shell = "
    source.write_text(source.read_text().replace("    in_a_shell = ", held))
    threaded = Runner(project)
    with threaded.forking(2):
        assert threaded.run("first").code == 0
    assert json.loads((project / "out/first").read_text())["forked"] is False


def waiting(project: Path) -> int:
    """The process of the stage that waits."""
    path = project / "waits"
    return int(wait_for(lambda: path.exists() and path.read_text()))


def server_of(run: int) -> int:
    """The process that forks for the run of this number."""
    servers = wait_for(lambda: [p.pid for p in psutil.Process(run).children() if b"tasks.dvc.forks" in cmdline(p.pid)])
    return int(servers[-1])


def test_only_commands_that_need_no_shell_are_forked() -> None:
    plain = ["python -m tasks.prepare", "python -m tasks.pretrain byol 0", "python -m tasks.prepare.more a-b.c_d"]
    others = [
        "python -m tasks.x > y",
        "python stage.py",
        "python -m tasks.x $A",
        "python -m tasks",
        "python -m other.x",
        "python -m tasks.x 'a'",
    ]
    assert all(map(forks.PLAIN.fullmatch, plain)) and not any(map(forks.PLAIN.fullmatch, others))
